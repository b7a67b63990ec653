"""The report's tables, made from a study's results: every number of the page is in one of them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from empg.config import Study
from empg.files import read_json
from empg.study.results import WARM_START, Results
from empg.study.statistics import PairedDifference, mean_over_seeds, paired_difference, wilson

PANEL_KEY = ("environment", "split", "mode")
BINS = 40
HISTOGRAM = {
    "environment": pl.String,
    "phase": pl.String,
    "method": pl.String,
    "left": pl.Float64,
    "right": pl.Float64,
    "n": pl.UInt32,
    "share": pl.Float64,
}


def result_table(study: Study, panels: pl.DataFrame, episodes: pl.DataFrame) -> pl.DataFrame:
    """One row for each panel and method: success over seeds, lift over the warm start, difference to ``against``.

    That is the method that it is compared with (:meth:`~empg.config.Study.compared_with`); null, as ``difference_*``
    is, for the baseline. Shares, not percent.
    """
    rows = []
    for key, panel in panels.group_by(PANEL_KEY, maintain_order=True):
        played = episodes.filter(pl.all_horizontal(pl.col(n) == v for n, v in zip(PANEL_KEY, key, strict=True)))
        warm = float(panel.filter(pl.col("method") == WARM_START)["success"].item())
        by_method = {method: outcomes(played, method) for method in study.methods}
        for method, outcome in by_method.items():
            by_seed = outcome.mean(axis=1)
            success, lift = mean_over_seeds(by_seed), mean_over_seeds(by_seed - warm)
            row: dict[str, Any] = dict(zip(PANEL_KEY, key, strict=True))
            row |= {"method": method, "seeds": len(by_seed), "tasks": outcome.shape[1], "success": success.value}
            row |= {"low": _clip(success.low), "high": _clip(success.high), "lowest_seed": float(by_seed.min())}
            row |= {"highest_seed": float(by_seed.max()), "warm_start": warm, "lift": lift.value}
            row |= {"lift_low": lift.low, "lift_high": lift.high, "lift_lowest_seed": float((by_seed - warm).min())}
            paired: dict[str, float | None] = dict.fromkeys(PairedDifference._fields)
            row["against"] = against = study.compared_with(method)
            if against is not None:
                paired = paired_difference(outcome, by_method[against])._asdict()
            row |= {f"difference_{name}".removesuffix("_value"): value for name, value in paired.items()}
            rows.append(row)
    # With one method, or one seed, whole columns are null.
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col(pl.Null).cast(pl.Float64))


def outcomes(played: pl.DataFrame, method: str) -> NDArray[np.float64]:
    """``[seeds, tasks]``: 1 for success; tasks in one order for all: by split and number."""
    rows = played.filter(pl.col("method") == method).sort("seed", "split", "task")
    by_seed = rows.group_by("seed", maintain_order=True).agg("success")
    return np.stack([np.array(success, dtype=np.float64) for success in by_seed["success"]])


def _clip(share: float | None) -> float | None:
    """An interval of a share ends where shares end."""
    return None if share is None else min(1.0, max(0.0, share))


def success_by_type(episodes: pl.DataFrame) -> pl.DataFrame:
    """Success for each panel, method and task type over all seeds together, with Wilson's interval."""
    key = [*PANEL_KEY, "method", "task_type"]
    counts = episodes.group_by(key, maintain_order=True).agg(pl.len().alias("n"), pl.col("success").sum().alias("k"))
    estimates = [wilson(k, n) for k, n in counts.select("k", "n").iter_rows()]
    columns = {name: [getattr(e, name) for e in estimates] for name in ("value", "low", "high")}
    return counts.rename({"k": "successes"}).with_columns(
        pl.Series("success", columns["value"]), pl.Series("low", columns["low"]), pl.Series("high", columns["high"])
    )


def stop_reasons(episodes: pl.DataFrame) -> pl.DataFrame:
    """Share of each panel's and method's episodes by how they ended, over all seeds."""
    key = [*PANEL_KEY, "method"]
    counts = episodes.group_by(*key, "stop_reason", maintain_order=True).agg(pl.len().alias("n"))
    return counts.with_columns((pl.col("n") / pl.col("n").sum().over(key)).alias("share"))


def episode_metrics(episodes: pl.DataFrame) -> pl.DataFrame:
    """Mean of the dense score and of the environment's own metrics for each panel and method, over all seeds' episodes.

    An episode that has no such metric does not count; one row a metric: ``metric``, ``value`` and ``n``.
    """
    key = [*PANEL_KEY, "method"]
    score = episodes.select(*key, pl.lit("score").alias("name"), pl.col("score").cast(pl.Float64).alias("value"))
    own = episodes.select(*key, "metrics").explode("metrics").drop_nulls("metrics").unnest("metrics")
    means = pl.concat([score, own]).group_by(*key, "name", maintain_order=True)
    return means.agg(pl.col("value").mean(), pl.len().alias("n")).rename({"name": "metric"})


def learning_curves(training: pl.DataFrame, credited: pl.DataFrame) -> pl.DataFrame:
    """Training success for each iteration and method over all seeds, with an interval for each thing drawn again.

    ``success``, ``low`` and ``high`` are Wilson's for the episodes of all seeds together: how far the curve would move
    if the same policies played the same tasks again. ``seeds_mean``, ``seeds_low`` and ``seeds_high`` are Student's t
    over the seeds: how far apart other seeds would be; no interval (null) for one seed.
    """
    run = ["environment", "method", "seed", "iteration"]
    sizes = credited.group_by(run).agg(pl.col("trajectory").n_unique().alias("episodes"))
    joined = training.join(sizes, on=run, how="left")
    curve = joined.group_by("environment", "method", "iteration", maintain_order=True).agg(
        pl.col("episodes").sum(),
        (pl.col("success") * pl.col("episodes")).sum().round().cast(pl.Int64).alias("successes"),
        pl.col("success").alias("by_seed"),
    )
    episodes = [wilson(k, n) for k, n in curve.select("successes", "episodes").iter_rows()]
    seeds = [mean_over_seeds(np.array(values)) for values in curve["by_seed"]]
    return curve.drop("by_seed").with_columns(
        pl.Series("success", [e.value for e in episodes]),
        pl.Series("low", [e.low for e in episodes]),
        pl.Series("high", [e.high for e in episodes]),
        pl.Series("seeds", curve["by_seed"].list.len()),
        pl.Series("seeds_mean", [e.value for e in seeds]),
        pl.Series("seeds_low", [_clip(e.low) for e in seeds], dtype=pl.Float64),
        pl.Series("seeds_high", [_clip(e.high) for e in seeds], dtype=pl.Float64),
    )


def with_seeds(study: Study, table: pl.DataFrame) -> pl.DataFrame:
    """Adds to a table of methods that says nothing of seeds how many are in each row: ``seeds``, 1 for a warm start."""
    if "method" not in table.columns or {"seed", "seeds"} & set(table.columns):
        return table
    count = pl.when(pl.col("method") == WARM_START).then(1).otherwise(len(study.seeds))
    return table.with_columns(count.cast(pl.Int64).alias("seeds"))


def over_seeds(training: pl.DataFrame, metrics: Sequence[str]) -> pl.DataFrame:
    """Mean, lowest and highest seed of training metrics for each iteration and method.

    Long: environment, method, iteration, metric, mean, lowest, highest, seeds. A metric that a method does not compute
    has no rows.
    """
    key = ["environment", "method", "iteration"]
    value = pl.col("value").cast(pl.Float64)
    long = training.unpivot(metrics, index=key, variable_name="metric").drop_nulls("value")
    summary = (value.mean().alias("mean"), value.min().alias("lowest"), value.max().alias("highest"))
    return long.group_by(*key, "metric", maintain_order=True).agg(*summary, pl.len().cast(pl.Int64).alias("seeds"))


def histograms(credited: pl.DataFrame, column: str) -> pl.DataFrame:
    """Share of steps by ``column`` in :data:`BINS` bins, in the first and the last quarter of the iterations.

    Bins are the same for all methods of an environment; columns environment, phase, method, left, right, n, share.
    Steps beyond the 0.1 and 99.9 percentiles are counted in the outer bins.
    """
    values = credited.filter(pl.col(column).is_not_null()).with_columns(pl.col(column).cast(pl.Float64))
    if values.is_empty():
        return pl.DataFrame(schema=HISTOGRAM)
    frames = []
    for (environment,), part in values.group_by("environment", maintain_order=True):
        low, high = (float(part[column].quantile(q, "nearest") or 0.0) for q in (0.001, 0.999))
        width = (high - low) / BINS or 1.0 / BINS
        number = ((pl.col(column) - low) / width).floor().clip(0, BINS - 1).cast(pl.Int64)
        last = int(part["iteration"].max()) + 1  # type: ignore[arg-type]
        phase = (
            pl.when(pl.col("iteration") < last / 4)
            .then(pl.lit("first quarter"))
            .when(pl.col("iteration") >= last * 3 / 4)
            .then(pl.lit("last quarter"))
        )
        counts = (
            part.with_columns(number.alias("bin"), phase.alias("phase"))
            .filter(pl.col("phase").is_not_null())
            .group_by("phase", "method", "bin")
            .agg(pl.len().alias("n"))
        )
        axes = counts.select("phase", "method").unique().join(pl.DataFrame({"bin": np.arange(BINS)}), how="cross")
        full = axes.join(counts, on=["phase", "method", "bin"], how="left").with_columns(pl.col("n").fill_null(0))
        frames.append(
            full.sort("phase", "method", "bin").select(
                pl.lit(environment).alias("environment"),
                "phase",
                "method",
                (low + pl.col("bin") * width).alias("left"),
                (low + (pl.col("bin") + 1) * width).alias("right"),
                "n",
                (pl.col("n") / pl.col("n").sum().over("phase", "method")).alias("share"),
            )
        )
    return pl.concat(frames)


def cost(results: Results) -> pl.DataFrame:
    """Seconds by stage: jobs, CPU and wall seconds summed over jobs. One row a stage, in the order of the pipeline."""
    rows = [
        {"stage": stage, "cpu_seconds": float(t["cpu_seconds"]), "wall_seconds": float(t["wall_seconds"])}
        for stage, t, _ in results.timings()
    ]
    frame = pl.DataFrame(rows, schema={"stage": pl.String, "cpu_seconds": pl.Float64, "wall_seconds": pl.Float64})
    summed = frame.group_by("stage").agg(
        pl.len().alias("jobs"), pl.col("cpu_seconds").sum(), pl.col("wall_seconds").sum()
    )
    order = [WARM_START, "rollouts", "train", "evaluate"]
    return summed.sort(pl.col("stage").replace_strict(order, range(len(order)), default=len(order)))


def cost_by_part(results: Results) -> pl.DataFrame:
    """CPU seconds of each trained run by part: collect, update, write, rest, evaluate. One row a run and part."""
    rows: list[dict[str, Any]] = []
    for run in results.trained():
        train, evaluate = (read_json(folder / "timing.json") for folder in (run.train, run.evaluate))
        parts = {part: sum(i[part] for i in train["iterations"]) for part in ("collect", "update", "write")}
        parts["rest"] = max(0.0, train["cpu_seconds"] - sum(parts.values()))
        parts["evaluate"] = evaluate["cpu_seconds"]
        rows += ({**run.key, "part": part, "cpu_seconds": float(seconds)} for part, seconds in parts.items())
    return pl.DataFrame(rows)


def rate_choice(search: pl.DataFrame) -> pl.DataFrame:
    """What a search for learning rates decides: for each environment and multiple of its rates one row.

    ``search`` has one run for each environment, method and ``factor``. ``difference``, ``low`` and ``high`` are of
    sampled success to factor 1: mean over methods, Student's t over their runs. ``chosen`` is the factor with the
    largest difference among those whose interval is above 0, or else 1. It is the same for all methods, so that no
    difference between methods is one of rates.
    """
    rows = []
    for environment in search["environment"].unique(maintain_order=True):
        runs = search.filter(environment=environment).sort("method")
        own = runs.filter(factor=1)["sampled"].to_numpy()
        found = {factor: mean_over_seeds(runs.filter(factor=factor)["sampled"].to_numpy() - own)
                 for factor in runs["factor"].unique().sort() if factor != 1}  # fmt: skip
        better = [(estimate.value, factor) for factor, estimate in found.items() if (estimate.low or 0) > 0]
        chosen = max(better)[1] if better else 1.0
        rows += [{"environment": environment, "factor": factor, "methods": len(own), "difference": estimate.value,
                  "low": estimate.low, "high": estimate.high, "chosen": chosen}
                 for factor, estimate in found.items()]  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def verdict(study: Study, results: pl.DataFrame) -> list[str]:
    """For each method what can honestly be said about its sampled success, over every panel, and the numbers.

    Methods that are shown to be better stand last.
    """
    sampled = results.filter(mode="sampled")
    sentences: list[tuple[int, str]] = []
    for method in study.methods:
        rows = sampled.filter(method=method).rows(named=True)
        if (against := study.compared_with(method)) is not None:
            panels = "; ".join(f"{row['environment']} {row['split']} {_difference(row)}" for row in rows)
            numbers = f"{_seeds(rows)}, difference in points of success, sampled: {panels}."
            sentences.append((len(_shown_better(rows)), f"{conclusion(rows, method, against)} {numbers}"))
        elif len(study.methods) == 1:
            solved = (f"{percent(row['success'])} of {row['environment']} {row['split']} (warm start "
                      f"{percent(row['warm_start'])})" for row in rows)  # fmt: skip
            sentences.append((0, f"{method}, sampled, {_seeds(rows)}, solves {'; '.join(solved)}."))
    return [text for _, text in sorted(sentences, key=itemgetter(0))]


def _shown_better(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The panels of which both intervals are above 0."""
    return [row for row in rows if row["difference_seeds_low"] is not None
            and min(row["difference_seeds_low"], row["difference_tasks_low"]) > 0]  # fmt: skip


def _difference(row: dict[str, Any]) -> str:
    tasks = f"{points(row['difference_tasks_low'])} to {points(row['difference_tasks_high'])} for other tasks"
    if row["difference_seeds_low"] is None:
        return f"{points(row['difference'])} (95\N{NO-BREAK SPACE}% interval {tasks})"
    seeds = f"{points(row['difference_seeds_low'])} to {points(row['difference_seeds_high'])} for other seeds"
    return f"{points(row['difference'])} (95\N{NO-BREAK SPACE}% interval {seeds}, {tasks})"


def conclusion(rows: Sequence[dict[str, Any]], method: str, against: str) -> str:
    """What the panels' intervals allow: shown is what other seeds *and* other tasks would show.

    ``rows`` are the method's in the table of results.
    """
    if any(row["difference_seeds_low"] is None for row in rows):
        return f"With one seed no difference between {method} and {against} can be shown."
    better = _shown_better(rows)
    worse = [row for row in rows if max(row["difference_seeds_high"], row["difference_tasks_high"]) < 0]
    shown = [f"{word} {against} on {_panels(part)}" for word, part in (("beats", better), ("loses to", worse)) if part]
    if not shown:
        return f"{method} is not shown to be better or worse than {against} on any of {_plural(len(rows), 'panel')}."
    rest = len(rows) - len(better) - len(worse)
    undecided = f"; on the other {rest} an interval includes 0" if rest else ""
    return f"{method} {' and '.join(shown)}{undecided}."


def _panels(rows: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{row['environment']} {row['split']}" for row in rows)


def _seeds(rows: Sequence[dict[str, Any]]) -> str:
    return _plural(rows[0]["seeds"], "seed")


def percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def points(share: float) -> str:
    """A signed difference in percentage points."""
    return f"{100 * share:+.1f}".replace("-", "−")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
