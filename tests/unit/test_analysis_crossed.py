"""The mean over seeds and tasks: its variance by hand and by analysis of variance, its coverage, and adjusted tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from empg.analysis.crossed import adjust, combine, crossed_mean, paired_difference, share_interval


def test_variance_is_that_of_an_analysis_of_variance() -> None:
    """Tasks that are clusters of their own: (MS seeds + MS tasks − MS rest) / cells, the moment estimator."""
    random = np.random.default_rng(0)
    values = random.normal(size=(4, 1)) + random.normal(size=(1, 30)) + random.normal(size=(4, 30))
    by_seed, by_task, mean = values.mean(1, keepdims=True), values.mean(0, keepdims=True), values.mean()
    seeds, tasks = 30 * ((by_seed - mean) ** 2).sum() / 3, 4 * ((by_task - mean) ** 2).sum() / 29
    rest = ((values - by_seed - by_task + mean) ** 2).sum() / (3 * 29)
    found = crossed_mean(values)
    assert found.value == pytest.approx(mean)
    assert found.variance == pytest.approx((seeds + tasks - rest) / 120)
    assert (found.seeds, found.tasks, found.both) == pytest.approx((seeds / 120, tasks / 120, rest / 120))
    parts = (seeds**2 / 3, tasks**2 / 29, rest**2 / 87)
    assert found.freedom == pytest.approx((seeds + tasks - rest) ** 2 / sum(parts))


def test_each_part_has_its_own_quantile() -> None:
    """t₃ = 3.182446 for four seeds, t₂₉ = 2.045230 for 30 tasks; tasks alone where the seeds add nothing."""
    random = np.random.default_rng(0)
    found = crossed_mean(random.normal(size=(4, 1)) + random.normal(size=(1, 30)) + random.normal(size=(4, 30)))
    half = (3.182446**2 * found.seeds + 2.045230**2 * (found.tasks - found.both)) ** 0.5
    assert found.half_width(0.025) == pytest.approx(half, rel=1e-6)
    alone = found._replace(seeds=1e-9)
    assert alone.half_width(0.025) == pytest.approx(2.045230 * found.tasks**0.5, rel=1e-6)


def test_clusters_of_alike_tasks_count_once() -> None:
    """Ten copies of each task, in one cluster, say no more than the tasks themselves."""
    random = np.random.default_rng(1)
    values = random.normal(size=(1, 12)) + 0.3 * random.normal(size=(5, 12))
    copies, labels = np.repeat(values, 10, axis=1), np.repeat(np.arange(12), 10)
    assert crossed_mean(copies, labels) == pytest.approx(crossed_mean(values))
    assert crossed_mean(copies).variance < crossed_mean(values).variance
    order = np.random.default_rng(2).permutation(120)
    assert crossed_mean(copies[:, order], labels[order]) == pytest.approx(crossed_mean(values))


def test_a_jackknife_by_hand() -> None:
    """One seed, clusters of sizes 1, 1 and 2 with means 0, 1 and 1: without each of them 1, 2/3 and 1/2."""
    found = crossed_mean(np.array([[0.0, 1.0, 1.0, 1.0]]), np.array(["a", "b", "c", "c"]))
    squares = (1 - 0.75) ** 2 + (2 / 3 - 0.75) ** 2 + (1 / 2 - 0.75) ** 2
    assert (found.value, found.variance) == pytest.approx((0.75, 2 / 3 * squares))
    assert found.freedom == pytest.approx(16 / 6 - 1)  # (1 + 1 + 2)² / (1 + 1 + 4)


def test_tests_and_interval_agree() -> None:
    found = crossed_mean(np.random.default_rng(3).normal(0.3, 1, (6, 40)))
    low, high = found.interval()
    edge = crossed_mean(np.random.default_rng(3).normal(0.3, 1, (6, 40)) - low)
    assert edge.p_difference() == pytest.approx(0.05)
    narrow_low, narrow_high = found.interval(0.9)  # two one-sided tests at 5 % are an interval of 90 %
    assert found.p_equivalence(max(abs(narrow_low), abs(narrow_high))) == pytest.approx(0.05)
    assert found.p_equivalence(high) < 0.05 < found.p_equivalence(abs(found.value))
    assert found.p_equivalence(abs(found.value)) == pytest.approx(0.5)


@pytest.mark.parametrize(("values", "labels"), [(np.ones((4, 9)), None), (np.eye(4), np.zeros(4))])
def test_without_variation_nothing_is_shown(values: np.ndarray, labels: np.ndarray | None) -> None:
    found = crossed_mean(values, labels)
    assert (found.interval(), found.p_difference(), found.p_equivalence(0.5)) == ((None, None), None, None)


def test_two_seeds_speak_of_themselves_only() -> None:
    values = np.array([[1.0] * 20 + [0.0] * 20, [0.0] * 20 + [1.0] * 20])
    values[:, 0] = 1
    found, other = crossed_mean(values), crossed_mean(values.mean(0, keepdims=True))
    assert found == pytest.approx(other)
    assert found.freedom == found.task_freedom == 39


def test_combined_means_are_independent() -> None:
    means = [crossed_mean(np.random.default_rng(i).normal(i, 1, (5, 30))) for i in range(3)]
    found = combine(means)
    assert found.value == pytest.approx(np.mean([m.value for m in means]))
    assert found.variance == pytest.approx(sum(m.variance for m in means) / 9)
    assert min(m.freedom for m in means) < found.freedom < sum(m.freedom for m in means)
    assert combine(means[:1]) == pytest.approx(means[0])


def test_adjusted_by_hand() -> None:
    """Three panels. .01 · 3, then .012 · 3 and .02 · 3, as each panel still has an open hypothesis; that was the last
    one of the first panel, so .6 counts two."""
    found = adjust([(0.01, 0.02), (0.012, 0.6), (None, 0.9)])
    assert found == [
        (pytest.approx(0.03), pytest.approx(0.06)),
        (pytest.approx(0.036), pytest.approx(1.0)),
        (None, pytest.approx(1.0)),
    ]
    assert adjust([(0.2, 0.001)]) == [(0.2, 0.001)]


@pytest.mark.parametrize("margin_true", [False, True])
def test_false_claims_and_coverage(margin_true: bool) -> None:
    """Eight seeds, 20 clusters of five tasks, random effects of all three: 95 % hold the truth, and 6 panels together
    claim something false at most as often as once in twenty."""
    random, held, false, studies = np.random.default_rng(4), 0, 0, 300
    truth = 0.5 if margin_true else 0.0
    for _ in range(studies):
        pairs, values = [], []
        for _ in range(6):
            seeds, clusters = random.normal(0, 0.3, (8, 1)), np.repeat(random.normal(0, 0.5, (1, 20)), 5, axis=1)
            cells = random.normal(0, 1, (8, 100)) + random.normal(0, 0.5, (1, 100))
            found = crossed_mean(truth + seeds + clusters + cells, np.repeat(np.arange(20), 5))
            low, high = found.interval()
            held += low <= truth <= high
            pairs.append((found.p_difference(), found.p_equivalence(0.5)))
            values.append(found.value)
        for (difference, equivalence), value in zip(adjust(pairs), values, strict=True):
            wrong = equivalence <= 0.05 if margin_true else difference <= 0.05
            if wrong or (margin_true and difference <= 0.05 and value < 0):
                false += 1
                break
    assert 0.93 <= held / (6 * studies) <= 0.97
    # More than 26 of 300 happen once in 2,000 runs if the probability is 5 %.
    assert false <= stats.binom.ppf(0.9995, studies, 0.05)


def test_paired_difference_by_hand() -> None:
    method = np.array([[1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    baseline = np.array([[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = paired_difference(method, baseline)  # by seed: 1/4, 3/4 and 0; s = 0.381881, s/√3 = 0.220479
    assert found.value == pytest.approx(1 / 3)
    half = 0.2204793 * 4.302653
    assert (found.seeds_low, found.seeds_high) == pytest.approx((1 / 3 - half, 1 / 3 + half), abs=1e-6)
    # By task: 2/3, 0, 1/3, 1/3: s = 0.272166, s/2 = 0.136083, t₃ = 3.182446.
    half = 0.1360828 * 3.182446
    assert (found.tasks_low, found.tasks_high) == pytest.approx((1 / 3 - half, 1 / 3 + half), abs=1e-6)
    assert (found.low, found.high) == crossed_mean(method - baseline).interval()


def test_paired_difference_takes_whole_tasks() -> None:
    """Both seeds differ on the same 50 of 100 tasks: the standard error is √(0.25/99), not √(0.25/199)."""
    method = np.tile(np.repeat([1.0, 0.0], 50), (2, 1))
    found = paired_difference(method, np.zeros_like(method))
    half = 1.984217 * (0.25 / 99) ** 0.5
    assert (found.tasks_low, found.tasks_high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert (found.low, found.high) == (found.tasks_low, found.tasks_high)
    assert (found.seeds_low, found.seeds_high) == (None, None)


def test_paired_difference_refuses() -> None:
    with pytest.raises(ValueError, match="alike"):
        paired_difference(np.zeros((2, 3)), np.zeros((2, 4)))


def test_a_share_of_independent_trials_has_wilsons_interval() -> None:
    """One seed, one task a cluster: Wilson's interval, but for t with 199 degrees of freedom and n − 1."""
    found = share_interval(crossed_mean(np.array([[1.0] * 160 + [0.0] * 40])), 200)
    interval = stats.binomtest(160, 200).proportion_ci(method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((0.8, interval.low, interval.high), abs=1e-3)


def test_seeds_that_agree_add_nothing_to_a_share() -> None:
    once = np.array([[1.0] * 30 + [0.0] * 10])
    many = np.tile(once, (5, 1))
    assert share_interval(crossed_mean(many), 40) == pytest.approx(share_interval(crossed_mean(once), 40))


def test_a_share_of_all_or_nothing_has_an_interval() -> None:
    """Twelve clusters without a failure: 1 / (1 + t²/12) with t₁₁ = 2.200985."""
    found = share_interval(crossed_mean(np.ones((3, 60)), np.repeat(np.arange(12), 5)), 12)
    assert found == pytest.approx((1.0, 1 / (1 + 2.200985**2 / 12), 1.0), abs=1e-6)
