"""Intervals: for a share of episodes, for a mean over seeds, and for a difference on the same tasks.

An interval answers one question only: what would differ if *these* were drawn again. Every function says what is drawn.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

LEVEL = 0.95
RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A value and its interval at :data:`LEVEL`; no interval (``None``) where the data cannot give one."""

    value: float
    low: float | None
    high: float | None


def wilson(successes: int, trials: int, level: float = LEVEL) -> Estimate:
    """Share of successes with Wilson's score interval: what other episodes of the same policy would give.

    Wilson (1927), equation for the binomial proportion; holds near 0 and 1, where the normal interval fails.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"wilson: expected 0 <= successes <= trials and trials > 0, found {successes} of {trials}")
    z = float(special.ndtri(0.5 + level / 2))
    share = successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / scale
    # At the ends the interval touches the share exactly; rounding must not lift it off.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Estimate(share, low, high)


def mean_over_seeds(values: NDArray[np.float64], level: float = LEVEL) -> Estimate:
    """Mean with Student's t interval: what other seeds would give. ``values`` ``[seeds]``; one seed has no interval."""
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"mean_over_seeds: expected finite values [seeds], found {values!r}")
    mean = float(values.mean())
    if len(values) == 1:
        return Estimate(mean, None, None)
    degrees = len(values) - 1
    half = float(special.stdtrit(degrees, 0.5 + level / 2) * values.std(ddof=1) / math.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


class PairedDifference(NamedTuple):
    """Method minus baseline on the same tasks and seeds, with one interval for each thing that could be drawn again."""

    value: float
    seeds_low: float | None  # other seeds: Student's t over the seeds' differences
    seeds_high: float | None
    tasks_low: float  # other tasks for these very policies: bootstrap over tasks
    tasks_high: float


def paired_difference(method: NDArray[np.float64], baseline: NDArray[np.float64], *, seed: int = 0) -> PairedDifference:
    """Mean of ``method - baseline``, both ``[seeds, tasks]``, row and column alike paired.

    The bootstrap draws whole tasks (all seeds of a task together, since a hard task is hard for every seed), takes
    percentiles of :data:`RESAMPLES` resamples and is seeded.
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
    from scipy.stats import bootstrap  # costs half a second to import

    if len(values) == 1:
        return float(values[0]), float(values[0])
    result = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=1_000,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
