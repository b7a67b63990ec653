"""Training by iteration: success of the training episodes, metrics over seeds, histograms of steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from empg.analysis.statistics import clip_share, mean_over_seeds, wilson

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


def learning_curves(training: pl.DataFrame, credited: pl.DataFrame) -> pl.DataFrame:
    """Training success for each environment, method and iteration over all seeds, with two intervals.

    ``success``, ``low`` and ``high`` pool the episodes of all seeds (Wilson's interval): how far the curve would move
    if the same policies played the same tasks again. ``seeds_mean``, ``seeds_low`` and ``seeds_high`` average the seeds
    (Student's t): how far it would move with other seeds. One seed has no such interval (null).
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
        pl.Series("seeds_low", [clip_share(e.low) for e in seeds], dtype=pl.Float64),
        pl.Series("seeds_high", [clip_share(e.high) for e in seeds], dtype=pl.Float64),
    )


def over_seeds(training: pl.DataFrame, metrics: Sequence[str]) -> pl.DataFrame:
    """Mean over seeds, lowest seed and highest seed of training metrics for each iteration and method.

    Long format: environment, method, iteration, metric, mean, lowest, highest, seeds. A metric that a method does not
    compute has no rows.
    """
    key = ["environment", "method", "iteration"]
    value = pl.col("value").cast(pl.Float64)
    long = training.unpivot(metrics, index=key, variable_name="metric").drop_nulls("value")
    summary = (value.mean().alias("mean"), value.min().alias("lowest"), value.max().alias("highest"))
    return long.group_by(*key, "metric", maintain_order=True).agg(*summary, pl.len().cast(pl.Int64).alias("seeds"))


def histograms(credited: pl.DataFrame, column: str) -> pl.DataFrame:
    """Share of steps by ``column`` in :data:`BINS` bins, in the first and the last quarter of the iterations.

    All methods of an environment have the same bins. Columns: environment, phase, method, left, right, n, share. The
    outer bins also count the steps beyond the 0.1 and 99.9 percentiles.
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
