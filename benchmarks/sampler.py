"""Agent tokens per CPU second: our sampler beside ``model.generate`` that encodes the whole conversation each turn.

Both play the same 64 ALFWorld episodes with the same weights and the same random numbers, on one thread of one process.
The second way is what trainers without an inference server do.

    python benchmarks/sampler.py [--profile small] [--model results/quick/alfworld/warmstart/model]

Without ``--model`` the policy is the default one after a short warm start, which takes half a minute first.
The longer the episodes, the more it costs to encode them anew: ``official`` games have 50 steps, ``small`` ones 20.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LogitsProcessor, PreTrainedModel

from empg.config import TinyPolicy, WarmStart, WarmStartRun
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.generated.rooms import PROFILES
from empg.environments.alfworld.registration import AlfworldData
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.base import Arena
from empg.environments.text import parse_action
from empg.policy.chat import Chat
from empg.policy.policy import Policy
from empg.rollouts.collect import group_episodes
from empg.rollouts.episodes import Episode
from empg.rollouts.sampler import Sampler
from empg.training.warmstart import fine_tune, make_policy

MAX_RESPONSE, MAX_CONTEXT = 40, 1024
TARGET = 8.0
WARM_START_TOKENS = 300_000
Responses = list[list[list[int]]]  # ids of each episode's each step
Environments = Callable[[], AlfworldEnvironment]


def short_warm_start(profile: str) -> Policy:
    """The default policy after a few demonstrations: it writes well-formed steps and solves little."""
    config = WarmStartRun(
        environment="alfworld",
        data=AlfworldData(profile=profile),
        system="",
        interface={},
        policy=TinyPolicy(),
        warmstart=WarmStart(tokens=WARM_START_TOKENS),
    )
    no_files = Path()  # the games of demonstrations are drawn
    policy = make_policy(config, no_files)
    for _ in fine_tune(policy, config, no_files):
        pass
    return policy


def with_sampler(policy: Policy, environments: Environments, episodes: list[Episode]) -> Responses:
    """The responses of our sampler."""
    sampler = Sampler(
        policy.network, policy.chat, Arena(environments), max_response=MAX_RESPONSE, max_context=MAX_CONTEXT
    )
    return [[step.response_ids.tolist() for step in t.steps] for t in sampler.play(episodes)]


class InverseTransform(LogitsProcessor):
    """Leaves one token a row: the one that the row's next uniform number falls on, as in our sampler."""

    def __init__(self, uniforms: Tensor) -> None:
        self.uniforms = iter(uniforms.T)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        cumulative = scores.softmax(-1).cumsum(-1)
        tokens = (cumulative < next(self.uniforms)[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, 0.0)


class Conversation:
    """One episode as the baseline plays it."""

    def __init__(self, chat: Chat, environment: AlfworldEnvironment, episode: Episode) -> None:
        self.chat, self.environment = chat, environment
        self.ids = chat.opening(self.environment.reset(episode.task))
        self.random = np.random.Generator(np.random.Philox(key=episode.seed))
        self.responses: list[list[int]] = []
        self.done = False

    def take(self, response: list[int]) -> None:
        """Hand a finished response to the environment."""
        end = self.chat.end_of_turn
        cut = end not in response
        response = response if cut else response[: response.index(end) + 1]
        result = self.environment.step(None if cut else parse_action(self.chat.text(response)))
        self.responses.append(response)
        self.ids += response + [end] * cut + self.chat.reply(result.observation)
        self.done = result.done or len(self.ids) + MAX_RESPONSE > MAX_CONTEXT


def with_generate(model: PreTrainedModel, chat: Chat, environments: Environments, episodes: list[Episode]) -> Responses:
    """All conversations together, turn by turn, padded on the left; a turn ends when its longest response does."""
    conversations = [Conversation(chat, environments(), episode) for episode in episodes]
    while active := [c for c in conversations if not c.done]:
        longest = max(len(c.ids) for c in active)
        ids = torch.tensor([[0] * (longest - len(c.ids)) + c.ids for c in active])
        attention = torch.tensor([[0] * (longest - len(c.ids)) + [1] * len(c.ids) for c in active])
        uniforms = torch.tensor(np.array([1 - c.random.random(MAX_RESPONSE) for c in active]), dtype=torch.float32)
        answered = model.generate(
            ids,
            attention_mask=attention,
            max_new_tokens=MAX_RESPONSE,
            do_sample=False,
            eos_token_id=chat.end_of_turn,
            pad_token_id=chat.end_of_turn,
            logits_processor=[InverseTransform(uniforms)],
        )
        for conversation, response in zip(active, answered[:, longest:].tolist(), strict=True):
            conversation.take(response)
    return [c.responses for c in conversations]


def measure(name: str, play: Callable[[list[Episode]], Responses], episodes: list[Episode]) -> tuple[Responses, float]:
    """Play the episodes, print the speed, and return the responses and the agent tokens per CPU second."""
    play(episodes[:2])  # warms up
    begin = time.process_time()
    responses = play(episodes)
    seconds = time.process_time() - begin
    tokens = sum(len(response) for steps in responses for response in steps)
    turns = sum(map(len, responses))
    print(
        f"{name:15} {tokens:7} agent tokens {turns:5} turns {seconds:8.2f} CPU s {tokens / seconds:9.0f} tokens/CPU s"
    )
    return responses, tokens / seconds


def main() -> int:
    """Measure and print; the exit status is 1 below the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a policy's folder (default: a short warm start)")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="official", help="of the games")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    games = GeneratedGames(arguments.profile, 0)

    def environments() -> AlfworldEnvironment:
        return AlfworldEnvironment(games, PROFILES[arguments.profile].max_steps)

    with tempfile.TemporaryDirectory() as folder:
        if arguments.model is None:
            short_warm_start(arguments.profile).save(Path(folder))
        path = arguments.model or Path(folder)
        policy, model = Policy.load(path, ""), AutoModelForCausalLM.from_pretrained(path)
    episodes = group_episodes(games.tasks("train", range(8)), 8, 0, 0, "benchmark")
    ours, fast = measure("our sampler", lambda e: with_sampler(policy, environments, e), episodes)
    theirs, slow = measure("model.generate", lambda e: with_generate(model, policy.chat, environments, e), episodes)
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    print(f"{same} of {len(episodes)} episodes are the same, token by token")
    print(f"ratio {fast / slow:.1f} (target: at least {TARGET:g})")
    return 0 if fast / slow >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
