"""Intervals against values worked out by hand from their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from empg.analysis.statistics import mean_over_runs, mean_over_seeds, wilson


def test_wilson_by_hand() -> None:
    # z² = 3.841459: centre (0.8 + 0.192073) / 1.384146 = 0.716740,
    # half 1.959964·√(0.016 + 0.00960365) / 1.384146 = 0.226577
    assert wilson(8, 10) == pytest.approx((0.8, 0.490162, 0.943318), abs=1e-6)


def test_wilson_at_the_ends() -> None:
    edge = 3.841459 / 13.841459  # z² / (n + z²)
    assert wilson(0, 10) == pytest.approx((0.0, 0.0, edge), abs=1e-6)
    assert wilson(10, 10) == pytest.approx((1.0, 1 - edge, 1.0), abs=1e-6)
    assert wilson(10, 10).high == 1.0


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, trials)


def test_wilson_covers() -> None:
    """95 % of the intervals hold the truth, counted exactly over all outcomes (it wavers with n and p)."""
    n, p = 500, 0.4
    counts = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_choose = log_factorial[n] - log_factorial[counts] - log_factorial[n - counts]
    mass = np.exp(log_choose + counts * np.log(p) + (n - counts) * np.log1p(-p))
    held = [wilson(k, n).low <= p <= wilson(k, n).high for k in range(n + 1)]
    assert mass.sum() == pytest.approx(1)
    assert 0.94 < mass[held].sum() < 0.96


def test_mean_over_runs_by_hand() -> None:
    # Two runs: s = 0.141421, s/√2 = 0.1, t₁ = 12.706205.  Three: s = 1, s/√3 = 0.577350, t₂ = 4.302653.
    assert mean_over_runs(np.array([0.4, 0.6])) == pytest.approx((0.5, 0.5 - 1.2706205, 0.5 + 1.2706205), abs=1e-6)
    assert mean_over_seeds(np.array([1.0, 2.0, 3.0])) == pytest.approx((2, 2 - 2.484138, 2 + 2.484138), abs=1e-6)


@pytest.mark.parametrize("values", [[0.4], [0.4, 0.4]])
def test_fewer_than_three_seeds_have_no_interval(values: list[float]) -> None:
    assert mean_over_seeds(np.array(values)) == (0.4, None, None)


@pytest.mark.parametrize("values", [np.array([]), np.array([0.1, np.nan]), np.zeros((2, 2))])
def test_mean_over_seeds_refuses(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite values"):
        mean_over_seeds(values)
