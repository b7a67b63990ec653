"""Intervals: for a share of episodes, for a mean over seeds, and for a difference on the same tasks.

An interval says how far a value would move if *one thing* were drawn again: episodes, seeds or tasks. Every function
says which.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
RESAMPLES = 10_000
FEWEST_SEEDS = 3  # an interval over two seeds has one degree of freedom: 0 to 100 %, or a point where they agree


class Estimate(NamedTuple):
    """A value and its interval at :data:`LEVEL`; no interval (``None``) where the data cannot give one."""

    value: float
    low: float | None
    high: float | None


def wilson(successes: int, trials: int, level: float = LEVEL) -> Estimate:
    """Share of successes with Wilson's score interval (Wilson 1927): what other episodes of the same policy would give.

    It holds near 0 and 1, where the normal interval fails. Raises ``ValueError`` for no trials and for successes
    outside 0 to ``trials``.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"wilson: expected 0 <= successes <= trials and trials > 0, found {successes} of {trials}")
    interval = stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high))


def mean_over_seeds(values: NDArray[np.float64], level: float = LEVEL) -> Estimate:
    """Mean of ``values`` ``[seeds]`` with Student's t interval: what other seeds would give.

    Fewer than :data:`FEWEST_SEEDS` seeds have no interval. Raises ``ValueError`` as :func:`mean_over_runs`.
    """
    estimate = mean_over_runs(values, level)
    return estimate if len(values) >= FEWEST_SEEDS else Estimate(estimate.value, None, None)


def mean_over_runs(values: NDArray[np.float64], level: float = LEVEL) -> Estimate:
    """Mean of ``values`` ``[runs]`` with Student's t interval: what other runs would give. One run has no interval.

    Raises ``ValueError`` for no runs, another shape and values that are not finite.
    """
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"expected finite values of at least one run, found {values!r}")
    mean = float(values.mean())
    if len(values) == 1:
        return Estimate(mean, None, None)
    if np.ptp(values) == 0.0:  # scipy warns of values that do not vary
        return Estimate(mean, mean, mean)
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    return Estimate(mean, float(interval.low), float(interval.high))


def clip_share(share: float | None) -> float | None:
    """The end of an interval of a share, cut off at 0 and 1."""
    return None if share is None else min(1.0, max(0.0, share))


class PairedDifference(NamedTuple):
    """Method minus baseline on the same tasks and seeds, with an interval over seeds and one over tasks."""

    value: float
    seeds_low: float | None  # other seeds: Student's t over the seeds' differences
    seeds_high: float | None
    tasks_low: float  # other tasks for these very policies: bootstrap over tasks
    tasks_high: float


def paired_difference(method: NDArray[np.float64], baseline: NDArray[np.float64], *, seed: int = 0) -> PairedDifference:
    """Mean of ``method - baseline``, both ``[seeds, tasks]`` with the same seeds and the same tasks.

    The bootstrap draws whole tasks, with all seeds of a task together, since a hard task is hard for every seed. It
    takes percentiles of :data:`RESAMPLES` resamples; ``seed`` is its own. Raises ``ValueError`` for arrays of different
    shapes or without values.
    """
    if method.ndim != 2 or method.shape != baseline.shape or 0 in method.shape:
        raise ValueError(
            f"paired_difference: expected two arrays [seeds, tasks] alike, found {method.shape} and {baseline.shape}"
        )
    difference = method - baseline
    value, seeds_low, seeds_high = mean_over_seeds(difference.mean(axis=1))
    tasks_low, tasks_high = _bootstrap_mean(difference.mean(axis=0), seed)
    return PairedDifference(value, seeds_low, seeds_high, tasks_low, tasks_high)


def _bootstrap_mean(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    if len(values) == 1:
        return float(values[0]), float(values[0])
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=1_000,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
