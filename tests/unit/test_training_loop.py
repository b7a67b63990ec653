"""Which episodes an iteration trains on, how a batch is split, and the metrics that a batch gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from empg.config import Method, TrainRun, parse
from empg.environments.base import Task
from empg.errors import ConfigError, DataError
from empg.rollouts.collect import difficulty_table, group_episodes
from empg.rollouts.episodes import Step, StopReason, Trajectory
from empg.rollouts.table import to_table
from empg.schema import DIFFICULTY, STEPS, write_table
from empg.training.batches import Batches, WeightedTasks
from empg.training.credit import credit_batch
from empg.training.metrics import batch_metrics
from empg.training.update import minibatches

SIZE = 2
STEP = Step(
    "here",
    np.zeros(3, np.int32),
    np.zeros(2, np.int32),
    np.full(2, -1, np.float32),
    np.array([0.2, 0.4], np.float32),
    "",
    "look",
    invalid=False,
    truncated=False,
)
TASKS = [Task("alfworld", "train", i, "x") for i in range(8)]
GRPO = {"advantage": "grpo"}


def dapo(rounds: int) -> dict[str, object]:
    return {"advantage": "dapo", "dynamic_sampling": rounds}


def config(method: dict[str, object], groups: int = 3, floor: float = 0.25) -> TrainRun:
    value = {
        "environment": "alfworld",
        "data": {"type": "alfworld"},
        "max_steps": 4,
        "system": "",
        "interface": {},
        "policy": {"type": "tiny"},
        "sampling": {},
        "train": {"groups": groups, "group_size": SIZE, "difficulty_floor": floor},
        "method_name": "m",
        "seed": 0,
        "method": method,
    }
    return parse(TrainRun, value, "test")


def played(episodes, rewards, steps: int = 1) -> list[Trajectory]:
    reasons = {1.0: StopReason.SUCCESS, 0.0: StopReason.STEP_LIMIT}
    return [Trajectory(e, [STEP] * steps, r, reasons[r]) for e, r in zip(episodes, rewards, strict=True)]


class Scripted:
    """Plays with given rewards, one list a call."""

    def __init__(self, *calls: list[float], steps: int = 1) -> None:
        self.calls, self.steps, self.asked = list(calls), steps, []

    def play(self, episodes) -> list[Trajectory]:
        self.asked.append([e.group for e in episodes])
        return played(episodes, self.calls.pop(0), self.steps)


def batches(method: dict[str, object], sampler) -> Batches:
    """Batches without a collection, for iterations after the first."""
    return Batches(config(method), sampler, WeightedTasks(TASKS, np.ones(len(TASKS))), [])


def groups(trajectories: list[Trajectory]) -> list[int]:
    return [t.episode.group for t in trajectories]


def test_without_dynamic_sampling_every_group_is_kept():
    sampler = Scripted([1, 1, 0, 0, 1, 0])
    kept, dropped = batches(GRPO, sampler).collect(5)
    assert (groups(kept), dropped) == ([0, 0, 1, 1, 2, 2], [])
    assert len({t.episode.task for t in kept}) == 3


def test_dynamic_sampling_drops_equal_groups_and_fills_up():
    sampler = Scripted([1, 1, 0, 1, 0, 0], [0, 0, 1, 0], [1, 0])
    kept, dropped = batches(dapo(2), sampler).collect(5)
    assert sampler.asked == [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4], [6, 6]]
    assert groups(kept) == [1, 1, 4, 4, 6, 6]
    assert groups(dropped) == [0, 0, 2, 2, 3, 3]
    everything = kept + dropped
    assert len({t.episode.trajectory for t in everything}) == len(everything), "a trajectory's number is its own"
    assert len({t.episode.seed for t in everything}) == len(everything)


def test_dynamic_sampling_gives_up_after_its_rounds():
    sampler = Scripted([1, 1, 0, 1, 0, 0], [0, 0, 1, 1])
    kept, dropped = batches(dapo(1), sampler).collect(5)
    assert (groups(kept), groups(dropped)) == ([1, 1], [0, 0, 2, 2, 3, 3, 4, 4])


def test_one_group_is_kept_when_none_can_teach_anything():
    sampler = Scripted([1, 1, 0, 0, 0, 0], [0] * 6)
    kept, dropped = batches(dapo(1), sampler).collect(5)
    assert (len(kept), len(dropped)) == (SIZE, 10)


def test_an_opening_that_is_too_long_is_left_out_and_said_when_all_are():
    class Short(Scripted):
        def play(self, episodes):
            first, *rest = super().play(episodes)
            return [Trajectory(first.episode, [], 0.0, StopReason.CONTEXT_LIMIT), *rest]

    kept, _ = batches(GRPO, Short([0, 1, 0, 1, 0, 1])).collect(5)
    assert len(kept) == 5
    with pytest.raises(ConfigError, match=r"sampling\.max_context: expected room for an opening and 40 tokens, found"):
        batches(GRPO, Scripted([0] * 6, steps=0)).collect(5)


def collection(folder, trajectories):
    """What the rollout stage leaves in its folder."""
    write_table(to_table(trajectories, iteration=0, policy_version=0), STEPS, folder / "rollouts.parquet")
    write_table(difficulty_table(trajectories), DIFFICULTY, folder / "difficulty.parquet")
    return folder


@pytest.fixture
def five(tmp_path):
    """The rollout stage played five tasks, twice each."""
    trajectories = played(group_episodes(TASKS[:5], SIZE, 0, 0, "rollouts"), [1, 0] * 5)
    return collection(tmp_path, trajectories), trajectories


def test_the_first_batch_is_the_collections_with_groups_numbered_anew(five):
    folder, trajectories = five
    sampler = Scripted()
    opened = Batches.open(config(dapo(1)), sampler, TASKS, folder)
    kept, dropped = opened.collect(0)
    assert not sampler.asked
    assert (groups(kept), dropped) == ([0, 0, 1, 1, 2, 2], [])
    assert [t.episode.trajectory for t in kept] == list(range(6))
    seeds = {(t.episode.task, t.episode.seed) for t in trajectories}
    assert {(t.episode.task, t.episode.seed) for t in kept} < seeds
    again, _ = opened.collect(0)
    assert [t.episode for t in again] == [t.episode for t in kept]


def test_a_collection_that_is_too_small_is_named(five):
    folder, _ = five
    with pytest.raises(DataError, match=r"rollouts\.parquet: expected at least 6 tasks for the first batch, found 5"):
        Batches.open(config(GRPO, groups=6), Scripted(), TASKS, folder)


@pytest.mark.parametrize(("floor", "drawn"), [(1e-9, {1, 3, 5, 7}), (1.0, set(range(8)))])
def test_tasks_are_drawn_by_difficulty(tmp_path, floor, drawn):
    """Even tasks always succeed with the warm start, odd ones every other time. The floor is the weight of the former.

    Without the weights a batch of three would be of odd tasks alone once in 14 draws.
    """
    tasks = [replace(task, type="xy"[task.id % 2]) for task in TASKS]
    folder = collection(tmp_path, played(group_episodes(tasks, SIZE, 0, 0, "rollouts"), [1, 1, 1, 0] * 4))
    sampler = Scripted(*[[1, 0] * 3] * 30)
    opened = Batches.open(config(GRPO, floor=floor), sampler, tasks, folder)
    later = {t.episode.task.id for iteration in range(1, 31) for t in opened.collect(iteration).kept}
    assert later == drawn


def test_the_first_batch_is_drawn_whatever_the_outcomes_of_its_groups(tmp_path):
    """Its groups are as successful as the policy: every second task has mixed rewards, all others none.

    Weights by difficulty would draw tasks with mixed rewards more often: .30 of the episodes would succeed, not .25.
    """
    episodes = group_episodes(TASKS, SIZE, 0, 0, "rollouts")
    folder = collection(tmp_path, played(episodes, [0, 0, 1, 0] * 4))
    opened = Batches.open(config(GRPO, floor=0.01), Scripted(), TASKS, folder)
    drawn = []
    for seed in range(400):
        other = opened.config.model_copy(update={"seed": seed})
        drawn.append([t.reward for t in replace(opened, config=other).collect(0).kept])
    # Three of eight tasks, half of which are mixed: a batch's mean deviates by .25·sqrt(1/3 · 5/7) = .122 about .25.
    assert np.mean(drawn) == pytest.approx(0.25, abs=4 * 0.122 / np.sqrt(400))


@pytest.mark.parametrize(("count", "sizes"), [(1, [6]), (2, [3, 3]), (4, [1, 2, 1, 2]), (9, [1] * 6)])
def test_several_updates_share_the_batch_among_them(count, sizes):
    trajectories = played(group_episodes(TASKS[:3], SIZE, 0, 0), [1, 0] * 3)
    for number, trajectory in enumerate(trajectories):
        trajectory.steps = [STEP] * (1 + number % 3)
    credited = credit_batch(trajectories, Method.model_validate(GRPO | {"modulation": "empg", "zeta": 0.05}), 40)
    parts = list(minibatches(trajectories, credited.token_advantage, count))
    assert [len(part) for part, _ in parts] == sizes
    assert [t for part, _ in parts for t in part] == trajectories
    assert all(len(advantage) == 2 * sum(len(t.steps) for t in part) for part, advantage in parts)  # two tokens a step
    joined = np.concatenate([advantage for _, advantage in parts])
    np.testing.assert_array_equal(joined, credited.modulation.advantage.repeat_interleave(2))


def test_metrics_by_hand():
    kept = played(group_episodes(TASKS[:1], SIZE, 0, 0), [1, 0], steps=2)
    dropped = played(group_episodes(TASKS[1:3], SIZE, 1, 0), [0, 0, 0, 0])
    credited = credit_batch(kept, Method.model_validate(GRPO), 40)
    found = batch_metrics(kept, dropped, credited)
    expected = {
        "success": 1 / 6,
        "reward_mean": 0.5,
        "score_mean": 0.0,
        "invalid_rate": 0.0,
        "steps_mean": 8 / 6,
        "agent_tokens": 16.0,
        "context_tokens": 40.0,
        "entropy_mean": 0.3,
        "step_entropy_min": 0.3,
        "step_entropy_mean": 0.3,
        "step_entropy_max": 0.3,
        "gradient_scale_min": 1.0,
        "gradient_scale_max": 1.0,
        "clarity_bonus_mean": 0.0,
        "advantage_abs_mean": 1.0,
        "equal_reward_groups": 0.0,
        "equal_reward_mass": 0.0,
        "groups_dropped": 2,
    }
    assert found == pytest.approx(expected, abs=1e-5)
