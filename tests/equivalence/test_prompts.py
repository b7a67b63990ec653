"""With the paper's prompt a turn is a conversation of its own: to the sampler, to the scorer and to a loss."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest
import torch

from empg.config import TinyPolicy
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.base import Arena, StepResult
from empg.environments.prompts import ALFWORLD, PromptedEnvironment
from empg.policy.packing import packs
from empg.policy.policy import Policy
from empg.rollouts.collect import group_episodes
from empg.rollouts.episodes import StopReason, Trajectory
from empg.rollouts.sampler import Sampler
from empg.training.update import conversations
from empg.training.warmstart import tiny_policy

GAMES = GeneratedGames("small", 0)
HISTORY, MAX_RESPONSE, MAX_CONTEXT = 2, 12, 2048
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


class Guided(AlfworldEnvironment):
    """A game that reads any text as an admissible action, so that random words lead somewhere."""

    def step(self, action: str | None) -> StepResult:
        actions = self.admissible_actions
        return super().step(actions[(len(action or "") + 7 * self._steps) % len(actions)])


@pytest.fixture(scope="module")
def policy(chat) -> Policy:
    """A tiny policy whose entropies vary and that ends a turn now and then."""
    sizes = {"width": 32, "heads": 4, "kv_heads": 2, "layers": 2, "mlp_width": 48, "max_positions": MAX_CONTEXT}
    made = tiny_policy(TinyPolicy(**sizes), chat, seed=0)
    with torch.no_grad():
        made.network.embedding *= 15
        made.network.embedding[:, 0] = 1.0
        made.network.embedding[chat.end_of_turn, 0] = 2.5
    return made


@pytest.fixture(scope="module")
def trajectories(policy) -> list[Trajectory]:
    limits = cycle((2, 6, 3, 9, 5))  # rows end at different times
    arena = Arena(lambda: PromptedEnvironment(Guided(GAMES, next(limits)), ALFWORLD, HISTORY), apart=True)
    sampler = Sampler(policy.network, policy.chat, arena, max_response=MAX_RESPONSE, max_context=MAX_CONTEXT)
    return sampler.play(group_episodes(GAMES.tasks("train", range(3)), 4, 0, 5, "test"))


def test_each_turn_shows_the_last_two_and_the_actions(policy, trajectories):
    longest = max(trajectories, key=lambda t: len(t.steps))
    assert len(longest.steps) > 5
    assert {t.stop_reason for t in trajectories} == {StopReason.STEP_LIMIT}
    for number, step in enumerate(longest.steps):
        assert step.prompt_ids.tolist() == policy.chat.opening(step.observation)
        shown = [f"Action {i}: '{longest.steps[i - 1].action or ''}'" for i in range(1, number + 1)]
        assert [line in step.observation for line in shown] == [i >= number - HISTORY for i in range(number)]
        assert "'inventory'" in step.observation
        assert step.observation.startswith("You are an expert agent operating in the ALFRED Embodied Environment.")


def test_a_turn_is_sampled_as_if_nothing_came_before_it(policy, trajectories):
    """Each token's distribution is that of a forward pass over the turn's own prompt."""
    for step in [step for t in trajectories[:5] for step in t.steps]:
        ids = torch.from_numpy(np.concatenate([step.prompt_ids, step.response_ids[:-1]])).long()
        with torch.no_grad():
            hidden = policy.network.states(ids)[len(step.prompt_ids) - 1 :]
            logprobs = (hidden @ policy.network.output_weight.T).double().log_softmax(-1)
        entropies = -(logprobs.exp() * logprobs).sum(-1)
        chosen = logprobs.gather(-1, torch.from_numpy(step.response_ids).long()[:, None])[:, 0]
        np.testing.assert_allclose(step.logprobs, chosen, **TOLERANCE)
        np.testing.assert_allclose(step.entropies, entropies, **TOLERANCE)


def test_the_scorer_packs_turns_apart(policy, trajectories):
    steps = [step for t in trajectories for step in t.steps]
    sampled = np.concatenate([step.logprobs for step in steps])
    whole = conversations(trajectories, apart=True)
    assert len(whole) == len(steps)
    for tokens in (10**6, 3000):  # one pack or several
        with torch.no_grad():
            parts = [pack.statistics(policy.network)[0] for pack in packs(whole, tokens, torch.device("cpu"))]
        np.testing.assert_allclose(torch.cat(parts), sampled, **TOLERANCE)
