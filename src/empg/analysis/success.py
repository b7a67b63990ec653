"""Success on the evaluation panels over seeds and by task type, how episodes end, and the environments' metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from empg.analysis.results import WARM_START
from empg.analysis.statistics import PairedDifference, clip_share, mean_over_seeds, paired_difference, wilson
from empg.config import Study

PANEL_KEY = ("environment", "split", "mode")


def result_table(study: Study, panels: pl.DataFrame, episodes: pl.DataFrame) -> pl.DataFrame:
    """One row for each panel and method: success over seeds, lift over the warm start, difference to ``against``.

    ``episodes`` has one row for each run, panel and task (:meth:`~empg.analysis.results.Results.task_means`).

    ``against`` names the method that this one is compared with (:meth:`~empg.config.Study.compared_with`). It and
    ``difference_*`` are null for the baseline. Values are shares, not percent.
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
            row |= {
                "low": clip_share(success.low),
                "high": clip_share(success.high),
                "lowest_seed": float(by_seed.min()),
            }
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
    """Success of a method's tasks, from 0 to 1, ``[seeds, tasks]``. Tasks are sorted by split and number."""
    rows = played.filter(pl.col("method") == method).sort("seed", "split", "task")
    by_seed = rows.group_by("seed", maintain_order=True).agg("success")
    return np.stack([np.array(success, dtype=np.float64) for success in by_seed["success"]])


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
    """Share of episodes by stop reason for each panel and method, over all seeds."""
    key = [*PANEL_KEY, "method"]
    counts = episodes.group_by(*key, "stop_reason", maintain_order=True).agg(pl.len().alias("n"))
    return counts.with_columns((pl.col("n") / pl.col("n").sum().over(key)).alias("share"))


def episode_metrics(episodes: pl.DataFrame) -> pl.DataFrame:
    """Mean of the dense score and of each metric of the environment for each panel and method, over all seeds.

    Episodes without the metric do not count. One row per metric: ``metric``, ``value`` and ``n`` (episodes).
    """
    key = [*PANEL_KEY, "method"]
    score = episodes.select(*key, pl.lit("score").alias("name"), pl.col("score").cast(pl.Float64).alias("value"))
    own = episodes.select(*key, "metrics").explode("metrics").drop_nulls("metrics").unnest("metrics")
    means = pl.concat([score, own]).group_by(*key, "name", maintain_order=True)
    return means.agg(pl.col("value").mean(), pl.len().alias("n")).rename({"name": "metric"})


def with_seeds(study: Study, table: pl.DataFrame) -> pl.DataFrame:
    """Add ``seeds``, the number of seeds behind each row, to a table of methods without it. A warm start has 1."""
    if "method" not in table.columns or {"seed", "seeds"} & set(table.columns):
        return table
    count = pl.when(pl.col("method") == WARM_START).then(1).otherwise(len(study.seeds))
    return table.with_columns(count.cast(pl.Int64).alias("seeds"))
