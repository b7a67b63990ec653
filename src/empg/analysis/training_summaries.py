"""Numbers that summarise whole training runs: sample efficiency and stability; with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from empg.analysis.results import Results
from empg.analysis.statistics import mean_over_seeds
from empg.config import Study

WINDOW = 10  # iterations; the success of a single one is too noisy to tell how far a run has come
SHARES = (0.5, 0.9, 1.0)  # of the way from the warm start's success to the baseline's at the end
RUN = ("environment", "method", "seed")
REACHED = {
    "environment": pl.String,
    "method": pl.String,
    "seed": pl.Int64,
    "share": pl.Float64,
    "threshold": pl.Float64,
    "iteration": pl.Int64,
    "environment_steps": pl.Int64,
    "cpu_seconds": pl.Float64,
}
OVER_SEEDS = {"method": pl.String, "seeds": pl.Int64} | dict.fromkeys(
    ("value", "low", "high", "lowest_seed", "highest_seed", "difference", "difference_low", "difference_high"),
    pl.Float64,
)


def training_progress(results: Results, training: pl.DataFrame, credited: pl.DataFrame) -> pl.DataFrame:
    """How far each run has come after each iteration, and at what cost. One row for each run and iteration.

    ``recent_success`` is the mean training success of the last :data:`WINDOW` iterations, or of all in a shorter
    training. It is null while there are fewer. ``environment_steps`` and ``cpu_seconds`` are sums since the start of
    training. Steps include those of dropped groups. CPU seconds are those of the iterations, whichever process made
    them; they are null from an iteration with unknown seconds on.
    """
    steps = credited.group_by(*RUN, "iteration").agg(pl.len().cast(pl.Int64).alias("steps"))
    seconds = [
        {**run.key, "iteration": i, "cpu": cpu}
        for run in results.trained()
        for i, cpu in enumerate(results.iteration_seconds(run))
    ]
    clock = pl.DataFrame(
        seconds, schema={**{name: REACHED[name] for name in RUN}, "iteration": pl.Int64, "cpu": pl.Float64}
    )
    joined = training.select(*RUN, "iteration", "success").join(
        steps.with_columns(pl.col("iteration").cast(pl.Int64)), on=[*RUN, "iteration"], how="left"
    )
    ordered = joined.join(clock, on=[*RUN, "iteration"], how="left").sort(*RUN, "iteration")
    # A plain cumulative sum skips nulls. Here an unknown start makes every later sum unknown.
    known = pl.col("cpu").is_not_null().cum_min().over(RUN)
    recent = pl.col("success").rolling_mean(WINDOW)
    shorter = pl.when(pl.col("iteration") + 1 == pl.len()).then(pl.col("success").mean())  # its end alone
    return ordered.select(
        *RUN,
        "iteration",
        "success",
        pl.when(pl.len() < WINDOW).then(shorter).otherwise(recent).over(RUN).alias("recent_success"),
        pl.col("steps").cum_sum().over(RUN).alias("environment_steps"),
        pl.when(known).then(pl.col("cpu").cum_sum().over(RUN)).alias("cpu_seconds"),
    )


def sample_efficiency(study: Study, progress: pl.DataFrame) -> pl.DataFrame:
    """What each run needs until its recent training success first reaches a threshold. One row per run and threshold.

    Thresholds lie :data:`SHARES` of the way from the warm start's success to the baseline's at the end. The former is
    the mean ``success`` of the first iteration over all runs, since the warm start plays its episodes. The latter is
    the mean of the last ``recent_success`` over the baseline's seeds. Iteration (counted from 1), environment steps and
    CPU seconds are null for a run that never reaches the threshold. If the baseline does not end above the warm start,
    the threshold is null too.
    """
    rows = []
    for (environment,), part in progress.group_by("environment", maintain_order=True):
        ends = part.filter(pl.col("method") == study.baseline, pl.col("iteration") == pl.col("iteration").max())
        start = float(part.filter(iteration=0)["success"].to_numpy().mean())
        end = float(ends["recent_success"].to_numpy().mean())
        for share in SHARES:
            threshold = start + share * (end - start) if end > start else None
            for (method, seed), run in part.group_by("method", "seed", maintain_order=True):
                row = {"environment": environment, "method": method, "seed": seed, "share": share}
                rows.append({**row, "threshold": threshold, **_first(run, threshold)})
    return pl.DataFrame(rows, schema=REACHED)


def _first(run: pl.DataFrame, threshold: float | None) -> dict[str, Any]:
    """The first iteration whose recent success reaches the threshold; empty if none does."""
    reached = run.clear() if threshold is None else run.filter(pl.col("recent_success") >= threshold).head(1)
    row = reached.select(pl.col("iteration") + 1, "environment_steps", "cpu_seconds").to_dicts()
    return row[0] if row else {}


def efficiency_over_seeds(efficiency: pl.DataFrame) -> pl.DataFrame:
    """Sample efficiency of each method and threshold: how many seeds reach it, and the median, least and most needed.

    For the median, a run that never reaches the threshold needs more than any other. The median is null where such runs
    make it endless; ``most`` is null where there is any. A run that reaches the threshold at an unknown cost does not
    enter the CPU seconds; ``cpu_seconds_unknown`` counts such runs.
    """
    needs = ["environment_steps", "cpu_seconds"]
    key = ["environment", "share", "threshold", "method"]
    never = pl.col("iteration").is_null()
    infinite = [pl.when(never).then(float("inf")).otherwise(pl.col(name)).alias(name) for name in needs]
    parts = {"median": pl.Expr.median, "least": pl.Expr.min, "most": pl.Expr.max}
    grouped = efficiency.with_columns(infinite, reached=pl.col("iteration").is_not_null())
    return (
        grouped.group_by(key, maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("seeds"),
            pl.col("reached").sum().cast(pl.Int64),
            pl.col("cpu_seconds").is_null().sum().cast(pl.Int64).alias("cpu_seconds_unknown"),
            *(part(pl.col(name)).alias(f"{name}_{label}") for name in needs for label, part in parts.items()),
        )
        .with_columns(pl.col(pl.Float64).replace(float("inf"), None))
    )


def stability(study: Study, progress: pl.DataFrame, training: pl.DataFrame, forward_kl: pl.DataFrame) -> pl.DataFrame:
    """How steady training is: one row for each quantity and method, with the columns of :func:`means_over_seeds`.

    Each quantity is one number per run:

    - ``success_mean``: training success, mean over all iterations.
    - ``success_lost``: the best recent success minus the last.
    - ``kl_last``, ``kl_largest``: KL to the warm start (nats, k3 estimate on the policy's own tokens), mean over the
      last quarter of the iterations and largest of all. Null for a method that computes none (``kl_coef`` 0).
    - ``grad_norm_mean``: gradient norm before clipping, mean over all iterations.
    - ``grad_norm_variation``: its standard deviation divided by its mean.
    - ``grad_norm_peak``: its largest value divided by its median.
    - ``entropy_kept``: mean step entropy of the last quarter divided by that of the first iteration.
    - ``forward_kl``: at the end, from :func:`empg.analysis.entropy_change.forward_kl`.

    A ratio to 0 is null.
    """
    recent = progress.group_by(*RUN, maintain_order=True).agg(
        pl.col("success").mean().alias("success_mean"),
        (pl.col("recent_success").max() - pl.col("recent_success").last()).alias("success_lost"),
    )
    last = pl.col("iteration") >= pl.col("iteration").max() * 0.75
    norm, kl, entropy = pl.col("grad_norm"), pl.col("kl").cast(pl.Float64), pl.col("step_entropy_mean")
    other = (
        training.sort(*RUN, "iteration")
        .group_by(*RUN, maintain_order=True)
        .agg(
            kl.filter(last).mean().alias("kl_last"),
            kl.max().alias("kl_largest"),
            norm.mean().alias("grad_norm_mean"),
            (norm.std() / norm.mean()).alias("grad_norm_variation"),
            (norm.max() / norm.median()).alias("grad_norm_peak"),
            (entropy.filter(last).mean() / entropy.first()).alias("entropy_kept"),
        )
    )
    without_kl = [name for name, method in study.methods.items() if method.kl_coef == 0]
    masked = pl.when(~pl.col("method").is_in(without_kl)).then(pl.col("kl_last", "kl_largest"))
    ratios = pl.col("grad_norm_variation", "grad_norm_peak", "entropy_kept")
    kept = pl.when(ratios.is_finite()).then(ratios)
    runs = recent.join(other.with_columns(masked, kept), on=RUN, maintain_order="left")
    runs = runs.join(forward_kl, on=RUN, maintain_order="left")
    return means_over_seeds(runs.unpivot(index=RUN, variable_name="quantity"), "quantity", study)


def means_over_seeds(values: pl.DataFrame, what: str, study: Study) -> pl.DataFrame:
    """Mean of ``value`` over seeds for each environment, ``what`` and method, with Student's t interval.

    Further columns are the lowest and the highest seed, and the mean difference (with its interval) to the method that
    this one is compared with, on the same seeds. Numbers are null where a seed has no value. One seed has no interval.
    The difference is null where the other method has no value.
    """
    rows = []
    for (environment, name), part in values.group_by("environment", what, maintain_order=True):
        by_method = {m: p.sort("seed") for (m,), p in part.group_by("method", maintain_order=True)}
        for method, runs in by_method.items():
            row: dict[str, Any] = {"environment": environment, what: name, "method": method, "seeds": len(runs)}
            numbers = _numbers(runs)
            if numbers is not None:
                row |= mean_over_seeds(numbers)._asdict()
                row |= {"lowest_seed": float(numbers.min()), "highest_seed": float(numbers.max())}
                against = study.compared_with(method)
                base = None if against is None else _numbers(by_method.get(against))
                if base is not None:
                    value, low, high = mean_over_seeds(numbers - base)
                    row |= {"difference": value, "difference_low": low, "difference_high": high}
            rows.append(row)
    return pl.DataFrame(rows, schema={"environment": pl.String, what: values.schema[what], **OVER_SEEDS})


def _numbers(runs: pl.DataFrame | None) -> NDArray[np.float64] | None:
    return None if runs is None or runs["value"].null_count() else runs["value"].to_numpy()
