"""Aggregates over runs and task types after Agarwal et al. 2021 (arXiv 2108.13264), with one interval each.

A *score* is the success of one run (one seed of a method) on the tasks of one type. The bootstrap draws in two strata.
It draws whole runs within an environment, because one training makes all scores of a run and they depend on each other.
It draws tasks within their type. Each draw is the same for all methods, which share seeds and tasks. So an interval
covers other seeds *and* other tasks at once; :mod:`empg.analysis.statistics` has an interval for each alone.

Percentiles of resampled runs are too narrow where seeds are few and differ more than tasks do.
benchmarks/interval_coverage.py measures by how much; docs/auditing.md has the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from empg.analysis.statistics import FEWEST_SEEDS, LEVEL, Estimate
from empg.analysis.success import PANEL_KEY, outcomes
from empg.config import Study

Array = NDArray[np.float64]

RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Block:
    """One environment's outcomes: ``success`` (0 or 1) ``[methods, seeds, tasks]`` and labels ``types`` ``[tasks]``."""

    success: Array
    types: NDArray[np.str_]

    def by_type(self) -> list[Array]:
        """``[methods, seeds, tasks of the type]`` for each type, sorted by label."""
        return [self.success[:, :, self.types == label] for label in np.unique(self.types)]


class Aggregate(NamedTuple):
    """One method's numbers over all blocks."""

    success: Estimate  # mean over tasks, seeds and blocks
    interquartile_mean: Estimate  # of the scores of all seeds and types
    difference: Estimate  # success minus that of the method it is compared with
    improvement: Estimate  # probability that its random run beats one of that method, mean over types


def aggregate(blocks: Sequence[Block], against: Sequence[int], *, seed: int = 0) -> list[Aggregate]:
    """Each method's aggregate over environments, one block each, whose runs are independent of each other.

    ``against`` ``[methods]`` holds the position of the method that each is compared with. ``seed`` is the bootstrap's.
    With fewer than :data:`FEWEST_SEEDS` seeds there are no intervals (``None``).

    Raises ``ValueError`` for blocks with different numbers of methods or seeds, and for a block without tasks or with
    types of another shape.
    """
    shapes = {block.success.shape[:2] for block in blocks}
    if len(shapes) != 1 or any(
        block.success.shape[2:] != block.types.shape or not block.types.size for block in blocks
    ):
        raise ValueError(
            "aggregate: expected success [methods, seeds, tasks] and types [tasks], as many methods and seeds in each, "
            f"found {[(block.success.shape, block.types.shape) for block in blocks]}"
        )
    ((_, seeds),) = shapes
    parts = [block.by_type() for block in blocks]
    weights = np.concatenate(
        [[p.shape[2] / len(b.types) / len(blocks) for p in types] for b, types in zip(blocks, parts, strict=True)]
    )
    scores = np.concatenate([np.stack([part.mean(-1) for part in types], -1) for types in parts], -1)
    values = _statistics(scores[:, :, None], weights, against)[..., 0]
    bounds = np.full((2, *values.shape), None)
    if seeds >= FEWEST_SEEDS:
        bounds[:] = _intervals(parts, weights, against, seed)
    estimates = np.stack([values, *bounds]).T  # [methods, statistics, value and bounds]
    return [Aggregate(*(Estimate(*statistic) for statistic in method)) for method in estimates.tolist()]


def _statistics(scores: Array, weights: Array, against: Sequence[int]) -> Array:
    """``[statistics, methods, resamples]`` of scores ``[methods, seeds, resamples, types]``, in the order of
    :class:`Aggregate`; ``weights`` ``[types]`` are the types' shares of the tasks."""
    from scipy.stats import trim_mean  # costs half a second to import

    methods, _, resamples, _ = scores.shape
    success = scores.mean(1) @ weights
    middle = trim_mean(np.moveaxis(scores, 1, 2).reshape(methods, resamples, -1), 0.25, axis=-1)
    index = list(against)
    other = scores[index]  # every pair of runs: Mann and Whitney's U divided by the number of pairs
    wins = [np.sign(run[:, None] - other).mean((1, 3)) for run in np.moveaxis(scores, 1, 0)]
    return np.stack([success, middle, success - success[index], 0.5 + np.mean(wins, 0) / 2])


def _intervals(parts: list[list[Array]], weights: Array, against: Sequence[int], seed: int) -> tuple[Array, Array]:
    """Percentile bootstrap intervals: lows and highs ``[statistics, methods]``. Strata are indices of runs or tasks."""
    from scipy.stats import bootstrap

    sizes = [n for types in parts for n in (types[0].shape[1], *(part.shape[2] for part in types))]
    # SciPy wants two members in a stratum, so the only member of one stands there twice.
    strata = [np.arange(n) if n > 1 else np.zeros(2, np.int64) for n in sizes]

    def statistic(*draws: NDArray[np.int64], axis: int) -> Array:
        draw = iter(np.atleast_2d(d) for d in draws)
        blocks = []
        for types in parts:
            seeds = next(draw).T[None, :, :, None]
            scores = np.stack([part[:, :, next(draw)].mean(-1) for part in types], -1)
            blocks.append(np.take_along_axis(scores, seeds, 1))
        return _statistics(np.concatenate(blocks, -1), weights, against)

    random = np.random.default_rng(seed)
    interval = bootstrap(
        strata,
        statistic,
        n_resamples=RESAMPLES,
        batch=200,
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=random,
    ).confidence_interval
    return interval.low, interval.high


def aggregate_table(study: Study, episodes: pl.DataFrame) -> pl.DataFrame:
    """One row for each panel and method. Several environments give further rows for each mode and method over all.

    Columns: environment, split, mode, method, against, seeds, scores (the number that the interquartile mean averages
    over), and each of :class:`Aggregate` with ``_low`` and ``_high``. Difference and improvement are null for the
    baseline. In rows over all environments (``environment`` and ``split`` are "all") a score is a run's success on a
    whole panel, and every environment counts alike.
    """
    rows: list[dict[str, Any]] = []
    for key, played in episodes.group_by(PANEL_KEY, maintain_order=True):
        rows += _rows(study, key, [_block(study, played, "task_type")])
    if len(study.environments) > 1:
        for (mode,), played in episodes.group_by("mode", maintain_order=True):
            blocks = [_block(study, played.filter(environment=name), "split") for name in study.environments]
            rows += _rows(study, ("all", "all", mode), blocks)
    # With few seeds whole columns are null.
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col(pl.Null).cast(pl.Float64))


def _block(study: Study, played: pl.DataFrame, label: str) -> Block:
    tasks = played.filter(method=study.baseline, seed=study.seeds[0]).sort("split", "task")
    return Block(np.stack([outcomes(played, method) for method in study.methods]), tasks[label].to_numpy().astype(str))


def _rows(study: Study, key: Sequence[Any], blocks: list[Block]) -> Iterator[dict[str, Any]]:
    methods = list(study.methods)
    types = sum(len(np.unique(block.types)) for block in blocks)
    bases = [study.compared_with(method) for method in methods]
    against = [methods.index(base or method) for method, base in zip(methods, bases, strict=True)]
    for method, base, found in zip(methods, bases, aggregate(blocks, against), strict=True):
        row = dict(zip(PANEL_KEY, key, strict=True))
        row |= {"method": method, "against": base, "seeds": len(study.seeds), "scores": types * len(study.seeds)}
        for name, estimate in found._asdict().items():
            known = base is not None or name in ("success", "interquartile_mean")
            row |= {
                f"{name}_{part}".removesuffix("_value"): value if known else None
                for part, value in estimate._asdict().items()
            }
        yield row
