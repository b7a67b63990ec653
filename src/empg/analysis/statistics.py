"""Intervals for a share of episodes and for a mean over seeds.

An interval says how far a value would move if *one thing* were drawn again: episodes or seeds. Every function says
which. :mod:`empg.analysis.crossed` draws seeds and tasks at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
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
