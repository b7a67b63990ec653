"""Estimates of the gradient: by hand, and against the testbed's exact gradient through the trainer's own code."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from empg.analysis import gradient_quality
from empg.analysis.gradient_quality import UNBIASED, agreement, cosine, direction, estimate, noise, rows
from empg.config import Method, Study, Train, cut, parse
from empg.config.slices import DecisivenessRun
from empg.config.testbed import World as Settings
from empg.core.advantages import informative_groups
from empg.environments.alfworld.registration import AlfworldData
from empg.environments.base import Task
from empg.policy.network import Network
from empg.policy.prefix_tree import PrefixTree
from empg.rollouts.episodes import Episode, Step, Trajectory
from empg.testbed.world import World
from empg.training.credit import groups_of

TASKS, GROUP, STEPS, ACTIONS, WIDTH = 8, 8, 4, 3, 4
STUDY = {
    "study": "made_up",
    "methods": {
        "grpo": {"advantage": "grpo"},
        "grpo_empg": {"advantage": "grpo", "modulation": "empg"},
        "dapo": {"advantage": "dapo", "overlong_cache": 0},
        "dapo_empg": {"advantage": "dapo", "modulation": "empg", "overlong_cache": 0},
    },
    "seeds": [1],
    "environments": {"alfworld": {"train": {"groups": TASKS, "group_size": GROUP, "iterations": 9}}},
}


def settings(seed: int = 0, batches: int = 20, episodes: int = 20 * TASKS * GROUP) -> DecisivenessRun:
    measured = {"seed": seed, "gradients": {"batches": batches, "episodes": episodes}}
    study = parse(Study, STUDY | {"decisiveness": measured}, "STUDY")
    return cut(DecisivenessRun, study, {"alfworld": AlfworldData(seed=3)}, "alfworld")


def test_the_measurement_depends_on_what_makes_a_batch() -> None:
    """A learning rate changes no gradient of a fixed policy, a method's k does. Without the section neither matters."""

    def cut_of(gradients: dict[str, int] | None, train: dict[str, object], k: float = 1.0) -> DecisivenessRun:
        methods = {"grpo": {"advantage": "grpo"}, "new": {"advantage": "grpo", "modulation": "empg", "k": k}}
        changed = {"methods": methods, "environments": {"alfworld": {"train": train}}}
        study = parse(Study, STUDY | changed | {"decisiveness": {"gradients": gradients}}, "STUDY")
        return cut(DecisivenessRun, study, {"alfworld": AlfworldData(seed=3)}, "alfworld")

    assert cut_of({}, {}) == cut_of({}, {"iterations": 9, "optimiser": {"lr": 0.1}})
    assert len({str(cut_of({}, *change)) for change in (({},), ({"groups": 9},), ({}, 2.0))}) == 3
    assert cut_of(None, {}) == cut_of(None, {"groups": 9}, 2.0)


# ------------------------------------------------------------------------------------------------------------ testbed
class Policy(Network):
    """The testbed's policy as a network: a prompt is one token, the number of the step after those of the actions."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(ACTIONS, WIDTH))
        self.hidden = torch.cat((world.features, world.base), dim=-1).flatten(0, 1).float()

    @property
    def output_weight(self) -> Tensor:
        return torch.cat((self.weight, torch.eye(ACTIONS)), dim=1)

    def forward(self, tree: PrefixTree, asked: Tensor) -> Tensor:
        return self.hidden[tree.ids[asked] - ACTIONS]


class Chain:
    """Plays tasks of the world as an agent does, one action a step, and remembers all that it has played."""

    def __init__(self, world: World) -> None:
        self.policy = world.log_policy(torch.zeros(ACTIONS, WIDTH).double()).exp().numpy()
        self.right = world.right.numpy()
        self.calls: list[list[Episode]] = []

    def play(self, episodes: Sequence[Episode], /) -> list[Trajectory]:
        self.calls.append(list(episodes))
        return [self._episode(episode) for episode in episodes]

    def _episode(self, episode: Episode) -> Trajectory:
        random, task = np.random.default_rng(episode.seed), episode.task.id
        steps = []
        for number, p in enumerate(self.policy[task]):
            action = min(int((random.random() > p.cumsum()).sum()), ACTIONS - 1)
            logprob, entropy = (np.array([x], np.float32) for x in (np.log(p[action]), -(p * np.log(p)).sum()))
            prompt = np.array([ACTIONS + task * STEPS + number], np.int32)
            response = np.array([action], np.int32)
            seen = f"{number} " + " ".join(step.text for step in steps)
            steps.append(Step(seen, prompt, response, logprob, entropy, str(action), str(action), False, False))
        good = all(r < 0 or int(step.text) == r for step, r in zip(steps, self.right[task], strict=True))
        return Trajectory(episode, steps, float(good), "end")


@pytest.fixture(scope="module")
def world() -> World:
    shape = {"tasks": TASKS, "steps": STEPS, "actions": ACTIONS, "decisive": 2, "width": WIDTH}
    return World.draw(Settings(**shape, decisive_entropy=0.5, other_entropy=0.9), torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [Task("chain", "train", number, "chain") for number in range(TASKS)]


@pytest.fixture(scope="module")
def exact(world: World) -> Tensor:
    return -world.gradient(torch.zeros(ACTIONS, WIDTH).double()).flatten()  # of the loss


def test_the_reference_is_unbiased(world: World, tasks: list[Task], exact: Tensor) -> None:
    """In every coordinate. With the whole group's mean as baseline it would be ¾ of the exact gradient."""
    method = Method.model_validate(UNBIASED)
    run = settings().estimators["grpo"].model_copy(update={"method": method, "train": Train(groups=TASKS)})
    found = gradient_quality.estimates(Policy(world), Chain(world), tasks, {"a": run}, count=110, seed=7)["a"].double()
    error = found.std(0) / math.sqrt(len(found))
    assert bool((abs(found.mean(0) - exact) < 4 * error).all())
    along = found @ exact / exact.square().sum()
    assert abs(along.mean() - 1) < 4 * along.std() / math.sqrt(len(along)) < 1 / 4


def test_the_cosine_is_that_to_the_exact_gradient(
    world: World, tasks: list[Task], exact: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the very batches, within the interval, for every method; the noise of the reference does not lower it."""
    kept = {}

    def remember(made: dict[str, Tensor], reference: Tensor, compared: dict[str, str]) -> list[dict[str, object]]:
        kept.update(made)
        return rows(made, reference, compared)

    monkeypatch.setattr(gradient_quality, "rows", remember)
    found = {row["method"]: row for row in gradient_quality.measure(Policy(world), Chain(world), tasks, settings())}
    assert [*found] == [*kept] == ["REINFORCE", "grpo", "grpo_empg", "dapo", "dapo_empg"]
    truth = {}
    for name, gradients in kept.items():
        x, row = gradients.double(), found[name]
        truth[name] = float((x @ exact / exact.norm() / x.norm(dim=1)).mean())
        assert row["cosine_low"] < truth[name] < row["cosine_high"], name
        assert row["cosine_high"] - row["cosine_low"] < 0.3, name
        other = row["compared"]
        if other is not None:
            assert row["difference_low"] < truth[name] - truth[other] < row["difference_high"], name
    assert {name: row["compared"] for name, row in found.items()} == {
        "REINFORCE": None,
        "grpo": None,
        "grpo_empg": "grpo",
        "dapo": "grpo",
        "dapo_empg": "dapo",
    }


def test_no_episode_is_in_two_batches_or_in_a_batch_and_the_reference(world: World, tasks: list[Task]) -> None:
    """Nor is one played twice: the methods share those of a batch."""
    player = Chain(world)
    found = gradient_quality.measure(Policy(world), player, tasks, settings(batches=5, episodes=4 * TASKS * GROUP - 1))
    assert [(row["batches"], row["parts"]) for row in found] == [(5, 4)] * 5
    whole = [call for call in player.calls if len(call) == TASKS * GROUP]
    assert len(whole) == 4 + 5
    assert len(player.calls) > len(whole), "dynamic sampling plays other groups for DAPO"
    seeds = [episode.seed for call in player.calls for episode in call]
    assert len(set(seeds)) == len(seeds)


def test_groups_with_equal_rewards_are_those_of_training(world: World, tasks: list[Task]) -> None:
    """They stay in GRPO's batch, with an advantage of 0; DAPO's has none of them."""
    seen: dict[str, list[Trajectory]] = {}
    runs = settings().estimators

    def remember(network: Network, trajectories: list[Trajectory], run: object) -> Tensor:
        seen[next(name for name, own in runs.items() if own.method == run.method)] = trajectories
        return torch.zeros(ACTIONS * WIDTH)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient_quality, "gradient", remember)
        gradient_quality.estimates(Policy(world), Chain(world), tasks, runs, count=1, seed=0)
    informative = {name: informative_groups(*groups_of(batch)) for name, batch in seen.items()}
    assert not informative["grpo"].all()
    assert informative["dapo"].all()
    kept = {t.episode.seed for t, good in zip(seen["grpo"], informative["grpo"], strict=True) if good}
    assert kept <= {t.episode.seed for t in seen["dapo"]}
    assert seen["grpo"] == seen["grpo_empg"]


# --------------------------------------------------------------------------------------------------------- statistics
def test_by_hand() -> None:
    """The two parts of the reference have the product 4, so |g| = 2; the norm of their mean is √4.5.

    Estimates (3, 4) and (3, 0) have the products 6 with both parts, so their cosines are 6/5/2 = 0.6 and 6/3/2 = 1.
    Their own product is 9, so the direction is 6/(2·3) = 1. E|x|² = (25 + 9)/2 = 17, so the noise is 17/9 − 1.
    """
    reference = torch.tensor([[2.0, 0, 1, 0], [2.0, 0, 0, 1]])
    gradients = torch.tensor([[3.0, 4, 0, 0], [3.0, 0, 0, 0]])
    assert agreement(reference) == pytest.approx([4, 4])
    assert agreement(gradients) == pytest.approx([9, 9])
    sure = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    first, second = rows({"noisy": gradients, "sure": sure}, reference, {"sure": "noisy", "noisy": "absent"})
    found = {name: first[name] for name in ("cosine", "direction", "noise", "difference")}
    assert found == pytest.approx({"cosine": 0.8, "direction": 1, "noise": 8 / 9, "difference": None})
    assert [second[name] for name in ("cosine", "noise", "difference")] == pytest.approx([1, 0, 0.2])
    assert (second["method"], second["compared"], second["batches"], second["parts"]) == ("sure", "noisy", 2, 2)


def test_intervals_hold_what_they_estimate() -> None:
    """Over 200 measurements of estimates with a known mean, noise and direction."""
    random = np.random.default_rng(0)
    g, mean, size = np.eye(12)[0], 1.4 * np.eye(12)[0] + 0.7 * np.eye(12)[1], 0.4

    def draw(count: int, centre: np.ndarray) -> Tensor:
        return torch.from_numpy(centre + size * random.standard_normal((count, 12)))

    many, other = draw(200_000, mean), draw(200_000, g)
    truth = {
        "cosine": float((many[:, 0] / many.norm(dim=1)).mean()),
        "direction": 1.4 / float(np.linalg.norm(mean)),
        "noise": 12 * size**2 / float(mean @ mean),
    }
    truth["difference"] = truth["cosine"] - float((other[:, 0] / other.norm(dim=1)).mean())
    hits = dict.fromkeys(truth, 0)
    for _ in range(200):
        row, _ = rows({"a": draw(24, mean), "b": draw(24, g)}, draw(16, g), {"a": "b"})
        for name, value in truth.items():
            hits[name] += row[f"{name}_low"] < value < row[f"{name}_high"]
    assert {name: 180 <= count <= 199 for name, count in hits.items()} == dict.fromkeys(truth, True), hits


def test_a_reference_with_episodes_of_the_batches_would_show() -> None:
    """|g| = 1 and noise of 20 in 400 dimensions: the cosine is 1/√21, and half more with the batches as reference."""
    random = torch.Generator().manual_seed(2)
    batches, others = (torch.eye(400)[0] + 0.05**0.5 * torch.randn(40, 400, generator=random) for _ in range(2))
    apart, mixed = (estimate(cosine(batches, reference)) for reference in (others, batches))
    assert apart.low < 21**-0.5 < apart.high
    assert mixed.value == pytest.approx(1.5 * 21**-0.5, rel=0.1)
    assert mixed.low > apart.high


def test_the_size_of_advantages_changes_nothing() -> None:
    random = torch.Generator().manual_seed(0)
    gradients, reference = (1 + torch.randn(n, 6, generator=random, dtype=torch.float64) for n in (9, 7))
    for quantity in (lambda x: cosine(x, reference), lambda x: direction(x, reference), noise):
        assert quantity(3 * gradients) == pytest.approx(quantity(gradients))


def test_a_gradient_that_noise_hides_is_not_known() -> None:
    random = torch.Generator().manual_seed(1)
    hidden, clear = torch.randn(20, 50, generator=random), 1 + torch.randn(20, 50, generator=random)
    (row,) = rows({"a": clear}, hidden, {})
    assert [row[name] for name in ("cosine", "cosine_low", "direction", "difference")] == [None] * 4
    assert row["noise"] is not None
    (row,) = rows({"a": hidden}, clear, {})
    assert (row["direction"], row["noise"]) == (None, None)
    assert row["cosine_low"] < 0 < row["cosine_high"]


def test_an_estimate_of_zero_has_cosine_0() -> None:
    """As where all groups of a batch have equal rewards."""
    reference = torch.tensor([[2.0, 0, 1, 0], [2.0, 0, 0, 1]])
    values = cosine(torch.tensor([[1.0, 0, 0, 0], [0.0, 0, 0, 0]]), reference)
    assert values == pytest.approx(np.array([[1.0, 1.0], [0.0, 0.0]]))
