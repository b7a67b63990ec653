"""Which tasks are drawn how often, and whose random numbers are whose."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from empg.environments.base import Task
from empg.rollouts.collect import PRIOR_ATTEMPTS, difficulty_table, draw_tasks, draw_weights, group_episodes
from empg.rollouts.episodes import Trajectory
from empg.schema import DIFFICULTY
from empg.seeding import derive_seed


def task(number: int, kind: str = "a") -> Task:
    return Task("alfworld", "train", number, kind)


def table(rows: list[tuple[int, str, int, int]]) -> pl.DataFrame:
    return pl.DataFrame([("train", *row) for row in rows], schema=DIFFICULTY, orient="row")


def test_groups_are_numbered_and_seeded_by_their_coordinates():
    episodes = group_episodes([task(7), task(9)], 3, 4, 1, "train", 0)
    assert [(e.task.id, e.group, e.trajectory) for e in episodes] == [
        (7, 4, 12),
        (7, 4, 13),
        (7, 4, 14),
        (9, 5, 15),
        (9, 5, 16),
        (9, 5, 17),
    ]
    assert [e.seed for e in episodes[2:4]] == [derive_seed(1, "train", 0, 4, 2), derive_seed(1, "train", 0, 5, 0)]
    assert len({e.seed for e in episodes}) == 6


def test_difficulty_counts_attempts_and_successes():
    episodes = group_episodes([task(7), task(9, "b"), task(8)], 2, 0, 0)
    trajectories = [Trajectory(e, [], float(r)) for e, r in zip(episodes, (1, 0, 0, 0, 1, 1), strict=True)]
    found = difficulty_table(trajectories)
    assert found.schema == pl.Schema(DIFFICULTY)
    assert found.rows() == [("train", 7, "a", 2, 1), ("train", 9, "b", 2, 0), ("train", 8, "a", 2, 2)]


def test_weights_by_hand():
    """Type a: 6 of 8 solved, rate 0.75. Type b: 0 of 4. Priors count as 4 attempts."""
    assert PRIOR_ATTEMPTS == 4
    difficulty = table([(1, "a", 4, 4), (2, "a", 4, 2), (3, "b", 4, 0)])
    tasks = [task(1), task(2), task(3, "b"), task(4), task(5, "c")]
    p = np.array([7 / 8, 5 / 8, 0 / 8, 3 / 4, 6 / 12])  # (4+3)/8, (2+3)/8, 0/8, its type's, the overall rate
    weights = draw_weights(tasks, difficulty, 0.25)
    np.testing.assert_allclose(weights, 0.25 + 0.75 * 4 * p * (1 - p), rtol=1e-12)
    assert weights[2] == 0.25
    assert weights[4] == 1.0
    np.testing.assert_allclose(draw_weights(tasks, difficulty, 1.0), 1.0)


def test_the_split_is_part_of_a_tasks_name():
    difficulty = table([(1, "a", 4, 4), (2, "a", 4, 0)])
    other = Task("alfworld", "tune", 1, "a")
    assert draw_weights([other], difficulty, 0.1) == draw_weights([task(3)], difficulty, 0.1)


def test_tasks_are_drawn_in_proportion_and_without_repetition():
    tasks, weights = [task(i) for i in range(4)], np.array([1.0, 2.0, 3.0, 4.0])
    draws = [draw_tasks(tasks, weights, 1, seed)[0].id for seed in range(4000)]
    np.testing.assert_allclose(np.bincount(draws) / 4000, weights / 10, atol=0.03)
    assert sorted(t.id for t in draw_tasks(tasks, weights, 4, 0)) == [0, 1, 2, 3]
    assert len(draw_tasks(tasks, weights, 10, 0)) == 4
    assert draw_tasks(tasks, weights, 3, 5) == draw_tasks(tasks, weights, 3, 5)


@pytest.mark.parametrize("count", [1, 3])
def test_a_task_of_weight_zero_is_not_drawn(count):
    tasks = [task(i) for i in range(4)]
    assert all(task(0) not in draw_tasks(tasks, np.array([0.0, 1, 1, 1]), count, seed) for seed in range(50))
