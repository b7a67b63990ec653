"""A branch is the recorded episode up to its state, and from there the policy with other random numbers."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch

from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.base import Arena, StepResult
from empg.errors import DataError
from empg.policy.packing import packs
from empg.rollouts.branching import Branch, BranchingSampler, branch, draw_states
from empg.rollouts.collect import group_episodes
from empg.rollouts.episodes import Step, Trajectory
from empg.training.update import conversations

GAMES = GeneratedGames("small", 0)


class Guided(AlfworldEnvironment):
    """A game that reads any text as an admissible action, so that random words lead somewhere."""

    def step(self, action: str | None) -> StepResult:
        actions = self.admissible_actions
        return super().step(actions[(len(action or "") + 7 * self._steps) % len(actions)])


@pytest.fixture(scope="module")
def sampler(make_policy) -> BranchingSampler:
    policy = make_policy("qwen2")
    return BranchingSampler(
        policy.network, policy.chat, Arena(lambda: Guided(GAMES, 6)), max_response=12, max_context=512
    )


@pytest.fixture(scope="module")
def played(sampler) -> list[Trajectory]:
    return sampler.play(group_episodes(GAMES.tasks("train", range(4)), 1, 0, 5, "test"))


def content(step: Step) -> tuple[object, ...]:
    ids = (step.prompt_ids.tolist(), step.response_ids.tolist())
    return (step.observation, *ids, step.text, step.action, step.invalid, step.truncated)


def test_a_branch_without_a_prefix_is_the_episode(sampler, played):
    again = sampler.play([Branch(t.episode.task, 0, 0, t.episode.seed) for t in played])
    for one, other in zip(played, again, strict=True):
        assert [*map(content, one.steps)] == [*map(content, other.steps)]
        assert (one.reward, one.stop_reason) == (other.reward, other.stop_reason)


def test_a_branch_begins_with_its_prefix_and_the_observation_that_followed_it(sampler, played):
    branches = [
        Branch(t.episode.task, 0, 0, 1000 + n, tuple(t.steps[:n])) for t in played for n in range(1, len(t.steps))
    ]
    origin = [t for t in played for _ in range(1, len(t.steps))]
    differ = 0
    for episode, trajectory, old in zip(branches, sampler.play(branches), origin, strict=True):
        n = len(episode.prefix)
        assert trajectory.steps[:n] == list(episode.prefix)
        assert trajectory.steps[n].observation == old.steps[n].observation
        ids = [i for step in old.steps[:n] for i in (*step.prompt_ids.tolist(), *step.response_ids.tolist())]
        assert trajectory.steps[n].prompt_ids.tolist() == ids + old.steps[n].prompt_ids.tolist()
        differ += trajectory.steps[n].text != old.steps[n].text
    assert len(branches) > 10
    assert differ > len(branches) / 2


def test_the_policy_reads_the_whole_conversation(sampler, played):
    """Log-probabilities of the branch are those of one forward pass over the conversation, played and new."""
    long = [t for t in played if len(t.steps) > 2]
    trajectories = sampler.play([Branch(t.episode.task, 0, 0, 7, tuple(t.steps[:2])) for t in long])
    for trajectory, old in zip(trajectories, long, strict=True):
        trajectory.steps[2] = replace(trajectory.steps[2], prompt_ids=old.steps[2].prompt_ids)
    (pack,) = packs(conversations(trajectories, apart=False), 10**6, torch.device("cpu"))
    with torch.no_grad():
        logprobs, entropies = pack.statistics(sampler.network, 1.0)
    steps = [step for t in trajectories for step in t.steps]
    np.testing.assert_allclose(np.concatenate([s.logprobs for s in steps]), logprobs, atol=1e-4)
    np.testing.assert_allclose(np.concatenate([s.entropies for s in steps]), entropies, atol=1e-4)


def test_continuations_share_state_and_response_and_nothing_else(sampler, played, monkeypatch):
    seen: list[Trajectory] = []
    play = sampler.play

    def spy(episodes, progress=lambda _: None):
        seen.extend(found := play(episodes, progress))
        return found

    monkeypatch.setattr(sampler, "play", spy)
    states, told = draw_states(played, 10**6, 3), []
    found = branch(
        sampler, states, responses=3, continuations=3, seed=1, value=lambda t: len(t.steps), progress=told.append
    )
    assert sum(told) == len(states) * 3 * 3
    assert [b.state for b in found] == states
    assert len({t.episode.seed for t in seen}) == len(seen), "every branch has random numbers of its own"
    later = seen[3 * len(states) :]
    assert later
    for t in later:
        state, response = found[t.episode.group].state, found[t.episode.group].responses[t.episode.trajectory]
        assert content(t.steps[state.step]) == content(response)
        assert [*map(content, t.steps[: state.step])] == [*map(content, state.trajectory.steps[: state.step])]
    for b in found:
        assert sum(len(set(values)) == 1 for values in b.returns) >= b.ended
        assert all(len(t) == 3 for t in b.returns)
    assert sum(b.ended for b in found) > 0, "a response at the step limit ends the episode"
    assert any(len({s.text for s in b.responses}) > 1 for b in found)


def test_states_are_drawn_without_repetition_from_all_steps(played):
    every = sum(len(t.steps) for t in played)
    assert len(draw_states(played, 10**6, 0)) == every
    keys = [(s.trajectory.episode.trajectory, s.step) for s in draw_states(played, 9, 4)]
    assert len(set(keys)) == 9
    assert keys == sorted(keys)
    assert keys != [(s.trajectory.episode.trajectory, s.step) for s in draw_states(played, 9, 5)]


def test_an_environment_that_answers_otherwise_is_an_error(make_policy, played):
    policy = make_policy("qwen2")
    limits = cycle((6,))
    other = GeneratedGames("small", 1)
    sampler = BranchingSampler(
        policy.network, policy.chat, Arena(lambda: Guided(other, next(limits))), max_response=12, max_context=512
    )
    steps = tuple(played[0].steps[:2])
    with pytest.raises(DataError, match="step 0: expected the recorded observation"):
        sampler.play([Branch(played[0].episode.task, 0, 0, 1, steps)])
