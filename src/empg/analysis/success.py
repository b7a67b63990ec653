"""Success on the evaluation panels over seeds and by task type, how episodes end, and the environments' metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from empg.analysis.crossed import PairedDifference, crossed_mean, paired_difference, share_interval
from empg.analysis.results import WARM_START
from empg.analysis.statistics import clip_share, mean_over_seeds
from empg.config import Study

PANEL_KEY = ("environment", "split", "mode")


def result_table(study: Study, panels: pl.DataFrame, episodes: pl.DataFrame) -> pl.DataFrame:
    """One row for each panel and method: success over seeds, lift over the warm start, difference to ``against``.

    ``episodes`` has one row for each run, panel and task (:meth:`~empg.analysis.results.Results.task_means`).

    ``against`` names the method that this one is compared with (:meth:`~empg.config.Study.compared_with`). It and
    ``difference_*`` are null for the baseline. Values are shares, not percent.
    """
    rows: list[dict[str, Any]] = []
    for key, panel in panels.group_by(PANEL_KEY, maintain_order=True):
        played = episodes.filter(pl.all_horizontal(pl.col(n) == v for n, v in zip(PANEL_KEY, key, strict=True)))
        warm = float(panel.filter(pl.col("method") == WARM_START)["success"].item())
        rows += _results(study, key, played, np.full(len(study.seeds), warm))
    return _table(rows)


def pool_table(study: Study, panels: pl.DataFrame, tasks: pl.DataFrame) -> pl.DataFrame:
    """As :func:`result_table`, a row for each method and panel of a pool, whose members' runs count as its seeds. A
    run's lift is over its own warm start, and ``warm_start`` is the mean of the members'. No rows without pools."""
    rows: list[dict[str, Any]] = []
    for pool, members in study.pools.items():
        runs = with_pools(study, tasks).filter(environment=pool)
        order = runs["seed"].unique().sort().to_numpy() % largest_pool(study)
        for key, played in runs.group_by(PANEL_KEY, maintain_order=True):
            place = {"method": WARM_START, "split": key[1], "mode": key[2]}
            warm = np.array([panels.filter(environment=name, **place)["success"].item() for name in members])
            rows += _results(study, key, played, warm[order])
    return _table(rows) if rows else result_table(study, panels, tasks).clear()


def with_pools(study: Study, tasks: pl.DataFrame) -> pl.DataFrame:
    """The trained policies' rows of ``tasks``, with pools as environments and their members' runs as further seeds.

    The remainder of ``seed`` by the size of the largest pool is the member's place in its pool.
    """
    if not study.pools:
        return tasks
    place = {name: (pool, number) for pool, members in study.pools.items() for number, name in enumerate(members)}
    member = pl.col("environment").replace_strict({name: number for name, (_, number) in place.items()}, default=0)
    return tasks.drop_nulls("seed").with_columns(
        pl.col("environment").replace({name: pool for name, (pool, _) in place.items()}),
        seed=pl.col("seed") * largest_pool(study) + member.cast(pl.Int64),
    )


def largest_pool(study: Study) -> int:
    """The most members that a pool of the study has."""
    return max(len(members) for members in study.pools.values())


def _results(
    study: Study, key: Sequence[Any], played: pl.DataFrame, warm: NDArray[np.float64]
) -> Iterator[dict[str, Any]]:
    """The rows of one panel; ``warm`` is the success of each run's warm start, ``[seeds]``."""
    by_method = {method: outcomes(played, method) for method in study.methods}
    for method, outcome in by_method.items():
        by_seed = outcome.mean(axis=1)
        success, lift = mean_over_seeds(by_seed), mean_over_seeds(by_seed - warm)
        row: dict[str, Any] = dict(zip(PANEL_KEY, key, strict=True))
        row |= {"method": method, "seeds": len(by_seed), "tasks": outcome.shape[1], "success": success.value}
        row |= {"low": clip_share(success.low), "high": clip_share(success.high), "lowest_seed": float(by_seed.min())}
        row |= {"highest_seed": float(by_seed.max()), "warm_start": float(warm.mean()), "lift": lift.value}
        row |= {"lift_low": lift.low, "lift_high": lift.high, "lift_lowest_seed": float((by_seed - warm).min())}
        paired: dict[str, float | None] = dict.fromkeys(PairedDifference._fields)
        row["against"] = against = study.compared_with(method)
        if against is not None:
            paired = paired_difference(outcome, by_method[against], clusters(played, method))._asdict()
        yield row | {f"difference_{name}".removesuffix("_value"): value for name, value in paired.items()}


def _table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """With one method, or one seed, whole columns are null."""
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col(pl.Null).cast(pl.Float64))


def outcomes(played: pl.DataFrame, method: str) -> NDArray[np.float64]:
    """Success of a method's tasks, from 0 to 1, ``[seeds, tasks]``. Tasks are sorted by split and number."""
    rows = played.filter(pl.col("method") == method).sort("seed", "split", "task")
    by_seed = rows.group_by("seed", maintain_order=True).agg("success")
    return np.stack([np.array(success, dtype=np.float64) for success in by_seed["success"]])


def clusters(played: pl.DataFrame, method: str) -> NDArray[np.str_]:
    """The cluster of each task in the order of :func:`outcomes`; a task without one is its own. Splits share none."""
    rows = played.filter(pl.col("method") == method).sort("seed", "split", "task")
    first = rows.filter(pl.col("seed").eq_missing(rows["seed"][0]))
    own = pl.concat_str(pl.lit("task "), pl.col("task"))
    what = pl.when(pl.col("cluster") == "").then(own).otherwise(pl.concat_str(pl.lit("cluster "), pl.col("cluster")))
    return first.select(pl.concat_str("split", pl.lit(" "), what)).to_series().to_numpy().astype(str)


def success_by_type(tasks: pl.DataFrame) -> pl.DataFrame:
    """Success for each panel, method and task type, mean over seeds and tasks, with an interval of 95 %.

    ``tasks`` has one row for each run, panel and task (:meth:`~empg.analysis.results.Results.task_means`). The interval
    is for other seeds and other tasks at once, or for other tasks and these runs with fewer than three seeds. Seeds
    share tasks and random numbers, so their episodes count as one where they agree: ``n`` counts tasks, and ``design``
    says how many times the variance of as many independent episodes the variance is (null where all agree).
    """
    rows = []
    for key, part in tasks.group_by(*PANEL_KEY, "method", "task_type", maintain_order=True):
        row = dict(zip((*PANEL_KEY, "method", "task_type"), key, strict=True))
        success = outcomes(part, row["method"])
        found = crossed_mean(success, clusters(part, row["method"]))
        interval = share_interval(found, len(np.unique(clusters(part, row["method"]))))
        spread = found.value * (1 - found.value) / success.size
        row |= {"n": success.shape[1], "success": interval.value, "low": interval.low, "high": interval.high}
        rows.append(row | {"design": found.variance / spread if found.known else None})
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col(pl.Null).cast(pl.Float64))


def trained_share(tasks: pl.DataFrame) -> pl.DataFrame:
    """For each panel, how many of its tasks share cluster (room, product, …) and goal with a task of reinforcement
    learning.

    Columns: environment, split, ``tasks``, ``trained`` and ``clusters``; panels of which neither is known are left out.
    """
    panel = ["environment", "split"]
    known = tasks.drop_nulls("trained").unique([*panel, "task"], maintain_order=True)
    return known.group_by(panel, maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("tasks"),
        pl.col("trained").sum().cast(pl.Int64),
        pl.col("cluster").n_unique().cast(pl.Int64).alias("clusters"),
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
