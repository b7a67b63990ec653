"""A mean over runs and tasks, both drawn at random: its variance, interval and tests.

Values stand in an array ``[seeds, tasks]``. Every seed plays the same tasks with the same random numbers, and tasks of
one room or product resemble each other, so neither the cells nor the tasks are independent. The variance is that of
two-way clustering (Cameron, Gelbach and Miller 2011, eq. 2.13): what seeds explain, plus what clusters of tasks
explain, minus what both count. For clusters of one size it is the classical moment estimator of two crossed random
factors. Each part is a jackknife, which holds for clusters of different sizes.

Few seeds make a variance uncertain. One number of degrees of freedom for the sum (Satterthwaite) makes the small
p-values that a correction for many panels asks for up to five times too small, because the sum looks certain just where
the seeds' part came out small. So each part keeps its own quantile of Student's t, as Cochran and Cox (1957) do for two
means. docs/statistics.md shows the error rates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from empg.analysis.statistics import FEWEST_SEEDS, LEVEL, Estimate, mean_over_seeds

Array = NDArray[np.float64]

SMALLEST = 1e-12  # p-values are not followed further


class CrossedMean(NamedTuple):
    """A mean and the parts of the variance of its estimate, in squared units of the values.

    Where the values do not vary there is neither an interval nor a test.
    """

    value: float
    seeds: float  # variance of a mean over seeds, the tasks given; 0 where seeds are not drawn anew
    seed_freedom: float
    tasks: float  # variance of a mean over clusters of tasks, the seeds given
    task_freedom: float
    both: float  # what both of them hold: the share of single seeds and tasks together, noise of episodes included

    @property
    def variance(self) -> float:
        """Variance of the mean for other seeds and other tasks; never below that for either alone."""
        return max(self.seeds + self.tasks - self.both, self.seeds, self.tasks)

    @property
    def freedom(self) -> float:
        """About how many degrees of freedom the variance has (Satterthwaite), at least those of its weaker part."""
        if not self.seeds:
            return self.task_freedom
        both_freedom = self.seed_freedom * self.task_freedom
        parts = ((self.seeds, self.seed_freedom), (self.tasks, self.task_freedom), (self.both, both_freedom))
        return max(
            self.variance**2 / sum(part**2 / freedom for part, freedom in parts),
            min(self.seed_freedom, self.task_freedom),
        )

    @property
    def known(self) -> bool:
        """Whether the data say anything about the precision of the mean."""
        return self.variance > 0

    def half_width(self, tail: float) -> float:
        """Half the width of an interval that leaves out ``tail`` on each side."""
        from scipy.special import stdtrit

        by_tasks = float(stdtrit(self.task_freedom, tail)) ** 2
        by_seeds = float(stdtrit(self.seed_freedom, tail)) ** 2 if self.seeds else 0.0
        sum_of_parts = by_seeds * self.seeds + by_tasks * max(0.0, self.tasks - self.both)
        return float(max(sum_of_parts, by_tasks * self.tasks) ** 0.5)

    def interval(self, level: float = LEVEL) -> tuple[float | None, float | None]:
        """The two-sided interval of this level; None for both ends where it is not known."""
        if not self.known:
            return None, None
        half = self.half_width((1 - level) / 2)
        return self.value - half, self.value + half

    def p_difference(self) -> float | None:
        """Two-sided p of the hypothesis that the mean is 0."""
        return 2 * self._tail(abs(self.value)) if self.known else None

    def p_equivalence(self, margin: float) -> float | None:
        """p of the hypothesis that the mean is ``margin`` or more away from 0: two one-sided tests."""
        return self._tail(margin - abs(self.value)) if self.known else None

    def _tail(self, distance: float) -> float:
        """The tail for which the half width is ``distance``; more than ½ for a negative one. Not below 1e-12."""
        from scipy.optimize import brentq

        if distance < 0:
            return 1 - self._tail(-distance)
        if distance >= self.half_width(SMALLEST):
            return SMALLEST
        log = brentq(lambda x: self.half_width(float(np.exp(x))) - distance, np.log(SMALLEST), np.log(0.5))
        return float(np.exp(log))


def crossed_mean(values: Array, clusters: NDArray[np.generic] | None = None) -> CrossedMean:
    """The mean of ``values`` ``[seeds, tasks]``; ``clusters`` ``[tasks]`` names what tasks share (default: nothing).

    With fewer than :data:`FEWEST_SEEDS` seeds the mean is that of these very seeds: its variance is what other tasks
    would change.

    Raises ``ValueError`` for other shapes, for no values and for values that are not finite.
    """
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"crossed_mean: expected finite values [seeds, tasks], found shape {values.shape}")
    count, tasks = values.shape
    if clusters is None:
        clusters = np.arange(tasks)
    if clusters.shape != (tasks,):
        raise ValueError(f"crossed_mean: expected {tasks} clusters, found shape {clusters.shape}")
    _, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    by_seed = values.mean(1)
    value = float(by_seed.mean())
    if len(sizes) == 1:  # one cluster says nothing of others
        return CrossedMean(value, 0.0, 1.0, 0.0, 1.0, 0.0)
    order, starts = np.argsort(index, kind="stable"), np.cumsum([0, *sizes[:-1]])
    sums = np.add.reduceat(values[:, order], starts, axis=1)  # [seeds, clusters]
    by_cluster, freedom = float(_jackknife(sums.mean(0), sizes)), _effective(sizes) - 1
    if count < FEWEST_SEEDS:
        return CrossedMean(value, 0.0, 1.0, by_cluster, freedom, 0.0)
    seeds = float(by_seed.var(ddof=1)) / count
    both = float(_jackknife(sums - sums.mean(0), sizes).sum()) / (count * (count - 1))
    return CrossedMean(value, seeds, count - 1, by_cluster, freedom, both)


def combine(means: list[CrossedMean]) -> CrossedMean:
    """The unweighted mean of independent means, such as those of environments with runs of their own.

    Not known where one of them is not. Degrees of freedom of each part are Satterthwaite's.
    """
    count = len(means)
    value = sum(mean.value for mean in means) / count
    if not all(mean.known for mean in means):
        return CrossedMean(value, 0.0, 1.0, 0.0, 1.0, 0.0)
    seeds = _sum([(mean.seeds / count**2, mean.seed_freedom) for mean in means])
    tasks = _sum([(mean.tasks / count**2, mean.task_freedom) for mean in means])
    return CrossedMean(value, *seeds, *tasks, sum(mean.both for mean in means) / count**2)


def _sum(parts: list[tuple[float, float]]) -> tuple[float, float]:
    """A sum of independent variances, and its degrees of freedom."""
    total = sum(part for part, _ in parts)
    return total, total**2 / sum(part**2 / freedom for part, freedom in parts) if total else 1.0


class PairedDifference(NamedTuple):
    """Method minus baseline on the same tasks and seeds, with an interval over both, over seeds and over tasks."""

    value: float
    low: float | None  # other seeds and other tasks, or other tasks alone with fewer than three seeds
    high: float | None
    seeds_low: float | None  # other seeds: Student's t over the seeds' differences
    seeds_high: float | None
    tasks_low: float | None  # other tasks for these very policies: jackknife over clusters of tasks
    tasks_high: float | None


def paired_difference(method: Array, baseline: Array, clusters: NDArray[np.generic] | None = None) -> PairedDifference:
    """Mean of ``method - baseline``, both ``[seeds, tasks]`` with the same seeds and the same tasks.

    ``clusters`` ``[tasks]`` names what tasks share (default: nothing). Tasks are left out in whole clusters, all seeds
    of a task together, since a hard task is hard for every seed. Raises ``ValueError`` for arrays of different shapes
    or without values.
    """
    if method.ndim != 2 or method.shape != baseline.shape or 0 in method.shape:
        raise ValueError(
            f"paired_difference: expected two arrays [seeds, tasks] alike, found {method.shape} and {baseline.shape}"
        )
    difference = method - baseline
    value, seeds_low, seeds_high = mean_over_seeds(difference.mean(axis=1))
    both = crossed_mean(difference, clusters).interval()
    tasks = crossed_mean(difference.mean(axis=0, keepdims=True), clusters).interval()
    return PairedDifference(value, *both, seeds_low, seeds_high, *tasks)


def share_interval(mean: CrossedMean, clusters: int) -> Estimate:
    """A share with Wilson's interval for as many independent trials as have the variance of ``mean``.

    Student's t replaces the normal quantile. Where no value varies, ``clusters`` stands for the number of trials:
    all successes of a cluster may be one. (Wilson's form for complex samples: Franco et al. 2019.)
    """
    share = mean.value
    if not 0 <= share <= 1:
        raise ValueError(f"share_interval: expected a share, found {share}")
    from scipy.stats import t

    trials = share * (1 - share) / mean.variance if mean.known else float(clusters)
    quantile = float(t.ppf((1 + LEVEL) / 2, mean.freedom if mean.known else max(1, clusters - 1)))
    shrunk = quantile**2 / trials
    centre = (share + shrunk / 2) / (1 + shrunk)
    half = (share * (1 - share) * shrunk + shrunk**2 / 4) ** 0.5 / (1 + shrunk)
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def adjust(p_values: list[tuple[float | None, float | None]]) -> list[tuple[float | None, float | None]]:
    """p of difference and of equivalence for each panel, adjusted so that false claims of either kind are at most as
    likely on the whole page as one p says: Holm's steps with Shaffer's count (Shaffer 1986).

    An effect cannot be both 0 and beyond the margin, so a panel has at most one true hypothesis of the two. Each p is
    multiplied by the number of panels with a hypothesis that no smaller p has rejected. A panel without p counts none.
    """
    flat = [(p, panel, kind) for panel, pair in enumerate(p_values) for kind, p in enumerate(pair) if p is not None]
    adjusted: dict[tuple[int, int], float] = {}
    least = 0.0
    for p, panel, kind in sorted(flat):
        left = {other for _, other, which in flat if (other, which) not in adjusted}
        least = max(least, min(1.0, p * len(left)))
        adjusted[panel, kind] = least
    return [(adjusted.get((panel, 0)), adjusted.get((panel, 1))) for panel in range(len(p_values))]


def _jackknife(sums: Array, sizes: NDArray[np.int64]) -> Array:
    """Variance of a mean over tasks when whole clusters are left out one by one; ``sums`` ``[..., clusters]``."""
    tasks = sizes.sum()
    deviations = (sums - sizes * sums.sum(-1, keepdims=True) / tasks) / (tasks - sizes)
    variance: Array = (len(sizes) - 1) / len(sizes) * (deviations**2).sum(-1)
    return variance


def _effective(sizes: NDArray[np.int64]) -> float:
    """The number of clusters of one size that would make a variance as certain as these do."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())
