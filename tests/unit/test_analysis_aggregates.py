"""Aggregates over runs and task types: values by hand, and intervals where the bootstrap's distribution is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from empg.analysis.aggregates import Block, aggregate, aggregate_table
from empg.config import Study, parse

TYPES = np.array(["a", "a", "b"])


def block(*methods: list[list[float]], types: np.ndarray = TYPES) -> Block:
    return Block(np.array(methods, dtype=np.float64), types)


def test_values_by_hand() -> None:
    # Scores of the first method, by seed: a 0, 0, ½, 1 and b 0, 1, 1, 1; the middle four of eight are 0, ½, 1, 1.
    base = [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]]
    first, second = aggregate([block(base, np.ones((4, 3)).tolist())], [0, 0])
    assert (first.success.value, first.interquartile_mean.value) == pytest.approx((0.5, 0.625))
    assert (first.difference.value, first.improvement.value) == (0, 0.5)
    assert (second.success.value, second.interquartile_mean.value, second.difference.value) == pytest.approx(
        (1, 1, 0.5)
    )
    # Against a run of ones: a loses three times and ties once, b loses once and ties three times.
    assert second.improvement.value == pytest.approx(((3 + 0.5) / 4 + (1 + 1.5) / 4) / 2)


def test_each_method_against_its_own() -> None:
    """The third is compared with the second: it solves one task of three less, and is worse on type a alone."""
    solved = block([[0, 0, 0]] * 3, [[1, 1, 1]] * 3, [[1, 0, 1]] * 3)
    base, second, third = aggregate([solved], [0, 0, 1])
    assert (base.difference.value, second.difference.value) == (0, 1)
    assert third.difference.value == pytest.approx(-1 / 3)
    assert third.improvement.value == pytest.approx((0 + 0.5) / 2)


def test_environments_count_alike_whatever_their_size() -> None:
    small = block([[1, 1, 1]] * 3, types=np.array(["x"] * 3))
    large = block([[0] * 30] * 3, types=np.array(["x"] * 30))
    (found,) = aggregate([small, large], [0])
    assert found.success == pytest.approx((0.5, 0.5, 0.5))


def test_seeds_are_drawn_whole() -> None:
    """Eight seeds, four solve everything: resamples are Binomial(8, ½)/8, whose 2.5 % quantile is 1/8."""
    outcomes = np.repeat([1.0, 0.0], 4)[:, None] * np.ones(6)
    (found,) = aggregate([Block(outcomes[None], np.array(list("aabbcc")))], [0])
    assert found.success == pytest.approx((0.5, 1 / 8, 7 / 8))


def test_tasks_are_drawn_within_their_type() -> None:
    solved = np.tile(np.repeat([1.0, 0.0], 50), (3, 1))[None]
    (by_type,) = aggregate([Block(solved, np.repeat(["easy", "hard"], 50))], [0])
    assert by_type.success == pytest.approx((0.5, 0.5, 0.5))  # each type is sure of its own
    (mixed,) = aggregate([Block(solved, np.repeat(["all"], 100))], [0])
    assert mixed.success == pytest.approx((0.5, 0.402, 0.598), abs=0.02)  # ± 1.96·√(0.25/100)


def test_methods_meet_the_same_draws() -> None:
    """A method that is better by one task of four everywhere differs by exactly that in every resample of seeds."""
    base = np.array([[1.0, 0, 0, 0], [0, 0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 0]])
    better = base.copy()
    better[:, 3] = 1
    found = aggregate([Block(np.stack([base, better]), np.array(list("abcd")))], [0, 0])[1]
    assert found.difference == pytest.approx((0.25, 0.25, 0.25))


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_have_no_interval(seeds: int) -> None:
    found = aggregate([block([[1, 0, 1]] * seeds, [[1, 1, 1]] * seeds)], [0, 0])[1]
    assert found.difference == (pytest.approx(1 / 3), None, None)
    assert [e[1:] for e in found] == [(None, None)] * 4


def test_the_same_again() -> None:
    blocks = [Block((np.random.default_rng(0).random((3, 5, 40)) < 0.5).astype(float), np.tile(["a", "b"], 20))]
    first = aggregate(blocks, [1, 1, 0])
    assert first == aggregate(blocks, [1, 1, 0])
    for method in first:
        assert all(e.low <= e.value <= e.high for e in method)  # type: ignore[operator]


def test_aggregate_refuses() -> None:
    with pytest.raises(ValueError, match="as many methods and seeds"):
        aggregate([block([[1, 0, 1]]), block([[1, 0, 1]] * 2)], [0])
    with pytest.raises(ValueError, match="as many methods and seeds"):
        aggregate([Block(np.ones((1, 1, 2)), TYPES)], [0])


def test_table_has_a_row_over_all_environments() -> None:
    methods = {name: {"advantage": "grpo"} for name in ("base", "new")}
    grid = {"environments": {"e": {}, "f": {}}, "methods": methods, "baseline": "base", "seeds": [1, 2, 3]}
    rows = [
        {
            "environment": environment,
            "split": split,
            "mode": "sampled",
            "method": method,
            "seed": seed,
            "task": task,
            "task_type": "ab"[task % 2],
            "success": method == "new" and (environment == "e" or task == 0),
        }
        for environment in "ef"
        for split in ("id", "ood")
        for method in methods
        for seed in (3, 1, 2)
        for task in (2, 0, 1, 3)
    ]
    warm = [row | {"method": "warmstart", "seed": None} for row in rows if row["method"] == "base" and row["seed"] == 1]
    found = aggregate_table(parse(Study, grid, "test"), pl.DataFrame(rows + warm))
    new = found.filter(method="new").sort("environment", "split")
    assert new["environment"].to_list() == ["all", "e", "e", "f", "f"]
    assert new["success"].to_list() == pytest.approx([0.625, 1, 1, 0.25, 0.25])
    assert new["scores"].to_list() == [4 * 3, 2 * 3, 2 * 3, 2 * 3, 2 * 3]
    assert new["improvement"].to_list() == pytest.approx([1, 1, 1, 0.75, 0.75])  # of f only type a is ever solved
    assert found["seeds"].unique().to_list() == [3]
    assert found.filter(method="base").select("difference", "improvement_low").null_count().row(0) == (5, 5)
