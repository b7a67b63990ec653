"""A real vLLM server with a real model: real episodes, the policy's own log-probabilities, new weights, seeds.

`make test-vllm` installs vLLM in an environment of its own and fetches the model. A server of the stage's own kind is
started once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from empg.config import Sampling
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.base import Arena
from empg.policy.policy import Policy
from empg.rollouts.collect import group_episodes
from empg.rollouts.episodes import Episode, Trajectory
from empg.rollouts.vllm import VllmSampler
from empg.rollouts.vllm_server import Server
from empg.training.importance import importance_metrics

pytestmark = pytest.mark.longer

MODEL = Path(os.environ.get("EMPG_TEST_MODEL", "models/smollm2"))
GAMES = GeneratedGames("small", 0)
SYSTEM = "You act in a house. Answer with <think>a thought</think><action>one action</action>."
SAMPLING = Sampling(engine="vllm", max_response=24, max_context=1024, max_refused=0, rows=4)
TOLERANCE = 1e-3  # nats, float32: two implementations of the same sums


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.set_num_threads(1)
    return Policy.load(MODEL, SYSTEM, dtype=torch.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, policy: Policy) -> Iterator[Server]:
    """A server of our own; it must have ended afterwards."""
    out = tmp_path_factory.mktemp("vllm")
    started = Server(SAMPLING, MODEL, out / ".vllm")
    began = time.monotonic()
    url = started.url(policy)
    print(f"\nstarted in {time.monotonic() - began:.0f} s")
    yield started
    started.close()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health", trust_env=False)


@pytest.fixture(scope="module")
def sampler(policy: Policy, server: Server) -> VllmSampler:
    return VllmSampler(policy, Arena(lambda: AlfworldEnvironment(GAMES, 3)), server)


@pytest.fixture(scope="module")
def played(sampler: VllmSampler) -> list[Trajectory]:
    began = time.monotonic()
    trajectories = sampler.play(episodes())
    tokens = sum(len(step.response_ids) for t in trajectories for step in t.steps)
    print(f"\n{len(trajectories)} episodes, {tokens} tokens in {time.monotonic() - began:.0f} s")
    return trajectories


def episodes() -> list[Episode]:
    return group_episodes(GAMES.tasks("train", range(2)), 2, 0, 5, "real")


def ids(trajectories: list[Trajectory]) -> list[list[list[int]]]:
    return [[step.response_ids.tolist() for step in t.steps] for t in trajectories]


def difference(trajectories: list[Trajectory]) -> float:
    steps = [step for t in trajectories for step in t.steps]
    return max(float(np.abs(step.logprobs - step.sampler_logprobs).max()) for step in steps)


def test_log_probabilities_are_the_policys_own(played: list[Trajectory]) -> None:
    print(f"\nlargest difference {difference(played):.1e} nats; {importance_metrics(played)}")
    assert difference(played) < TOLERANCE
    steps = [step for t in played for step in t.steps]
    assert len(steps) == 12
    assert np.concatenate([step.entropies for step in steps]).std() > 0.1  # nats: not about a constant


def test_seeds_reproduce_whatever_the_order(sampler: VllmSampler, played: list[Trajectory]) -> None:
    assert ids(sampler.play(episodes()[::-1])[::-1]) == ids(played)
    other = group_episodes(GAMES.tasks("train", range(1)), 1, 0, 6, "real")
    assert ids(sampler.play(other))[0] != ids(played)[0]


def test_reloaded_weights_change_what_is_sampled(
    sampler: VllmSampler, policy: Policy, server: Server, played: list[Trajectory]
) -> None:
    before = policy.network.state_dict()["norm"].clone()
    with torch.no_grad():
        policy.network.norm *= 0.8
    server.stale = True
    began = time.monotonic()
    changed = sampler.play(episodes()[:2])
    print(f"\nnew weights, 2 episodes in {time.monotonic() - began:.0f} s; difference {difference(changed):.1e} nats")
    assert difference(changed) < TOLERANCE, "the server has the new weights, and its cache none of the old ones"
    assert ids(changed) != ids(played[:2])
    with torch.no_grad():
        policy.network.norm.copy_(before)
    server.stale = True
    assert ids(sampler.play(episodes()[:2])) == ids(played[:2])
