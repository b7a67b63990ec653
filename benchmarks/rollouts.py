"""Whole rollouts beside ``model.generate``, and what environments and credit cost of an iteration.

``generate`` encodes the whole conversation each turn, as trainers without an inference server do. Both sides play the
same ALFWorld episodes with the same weights and the same random numbers. The policy is the default study's after a
short warm start on these rooms, with room for whole episodes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LogitsProcessor, PreTrainedModel

from benchmarks.measure import DefaultStudy, Line, in_turns, times
from empg.config import TinyPolicy, WarmStartRun, train_run, warmstart_run
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.generated.rooms import PROFILES
from empg.environments.alfworld.registration import AlfworldData
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.base import Arena
from empg.environments.text import parse_action
from empg.policy.chat import Chat
from empg.policy.policy import Policy
from empg.provenance import stage
from empg.rollouts.collect import group_episodes
from empg.rollouts.episodes import Episode, Trajectory
from empg.rollouts.sampler import Sampler
from empg.training.credit import Credit
from empg.training.rl import Loop, build
from empg.training.warmstart import fine_tune, make_policy

POSITIONS = 2048
WARM_START_TOKENS = 300_000
GROUPS, GROUP_SIZE = 8, 8
TARGETS = {"official": 20.0, "small": 5.0}
TURNS = {"official": 3, "small": 5}
ITERATIONS = 12  # of training, for the shares of environments and credit
Responses = list[list[list[int]]]  # ids of each episode's each step


def short_warm_start(study: DefaultStudy, profile: str) -> Policy:
    """The default policy after a few demonstrations: it writes well-formed steps and solves little."""
    config = warmstart_run(study.study, dict(study.data_sets), "alfworld")
    assert isinstance(config.policy, TinyPolicy)
    config = WarmStartRun(
        environment="alfworld",
        data=AlfworldData(profile=profile),
        system=config.system,
        interface=config.interface,
        policy=config.policy.model_copy(update={"max_positions": POSITIONS}),
        warmstart=config.warmstart.model_copy(update={"tokens": WARM_START_TOKENS}),
    )
    no_files = Path()  # the games of demonstrations are drawn
    policy = make_policy(config, no_files)
    for _ in fine_tune(policy, config, no_files):
        pass
    return policy


class InverseTransform(LogitsProcessor):
    """Leaves one token a row: the one that the row's next uniform number falls on, as in our sampler."""

    def __init__(self, uniforms: Tensor) -> None:
        self.uniforms = iter(uniforms.T)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        cumulative = scores.softmax(-1).cumsum(-1)
        tokens = (cumulative < next(self.uniforms)[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, 0.0)


class Conversation:
    """One episode as the other side plays it."""

    def __init__(self, chat: Chat, environment: AlfworldEnvironment, episode: Episode, max_response: int) -> None:
        self.chat, self.environment, self.max_response = chat, environment, max_response
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
        self.done = result.done or len(self.ids) + self.max_response > POSITIONS


def with_generate(
    model: PreTrainedModel, chat: Chat, make: Callable[[], AlfworldEnvironment], episodes: list[Episode], most: int
) -> Responses:
    """All conversations together, turn by turn, padded on the left; a turn ends when its longest response does."""
    conversations = [Conversation(chat, make(), episode, most) for episode in episodes]
    while active := [c for c in conversations if not c.done]:
        longest = max(len(c.ids) for c in active)
        ids = torch.tensor([[0] * (longest - len(c.ids)) + c.ids for c in active])
        attention = torch.tensor([[0] * (longest - len(c.ids)) + [1] * len(c.ids) for c in active])
        uniforms = torch.tensor(np.array([1 - c.random.random(most) for c in active]), dtype=torch.float32)
        answered = model.generate(
            ids,
            attention_mask=attention,
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=chat.end_of_turn,
            pad_token_id=chat.end_of_turn,
            logits_processor=[InverseTransform(uniforms)],
        )
        for conversation, response in zip(active, answered[:, longest:].tolist(), strict=True):
            conversation.take(response)
    return [c.responses for c in conversations]


def against_generate(study: DefaultStudy, profile: str) -> Line:
    """Agent tokens per CPU second of 64 whole episodes."""
    games, limit = GeneratedGames(profile, 0), PROFILES[profile].max_steps
    most = study.study.environments["alfworld"].sampling.max_response

    def make() -> AlfworldEnvironment:
        return AlfworldEnvironment(games, limit)

    policy = short_warm_start(study, profile)
    with tempfile.TemporaryDirectory() as folder:
        policy.save(Path(folder))
        policy, model = Policy.load(Path(folder), ""), AutoModelForCausalLM.from_pretrained(folder)
    sampler = Sampler(policy.network, policy.chat, Arena(make), max_response=most, max_context=POSITIONS)
    episodes = group_episodes(games.tasks("train", range(GROUPS)), GROUP_SIZE, 0, 0, "benchmark")
    played: dict[str, Responses] = {}

    def ours() -> None:
        trajectories = sampler.play(episodes)
        played["ours"] = [[step.response_ids.tolist() for step in t.steps] for t in trajectories]

    def theirs() -> None:
        played["theirs"] = with_generate(model, policy.chat, make, episodes, most)

    taken = in_turns({"ours": ours, "theirs": theirs}, TURNS[profile])
    tokens = {side: sum(len(r) for steps in p for r in steps) for side, p in played.items()}
    rate = {side: tokens[side] / np.median(taken[side]) for side in played}
    same = sum(a == b for a, b in zip(played["ours"], played["theirs"], strict=True))
    per_token = {side: taken[side] / tokens[side] for side in played}
    return Line(
        f"whole rollouts, {len(episodes)} ALFWorld episodes of the {profile} profile, {same} of them equal token by "
        "token (agent tokens per CPU second)",
        f"{rate['ours']:,.0f}",
        f"`generate` {rate['theirs']:,.0f}",
        times(per_token["theirs"], per_token["ours"]),
        target=TARGETS[profile],
    )


@dataclass
class Inside:
    """CPU seconds inside the functions that it wraps, of this thread: its clock costs less than that of the process."""

    seconds: float = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.thread_time() - start

        return timed


@dataclass(slots=True)
class TimedLoop(Loop):
    """A training loop that knows what its environments and its credit cost."""

    environments: Inside = field(default_factory=Inside)
    crediting: Inside = field(default_factory=Inside)

    def watch(self) -> None:
        """Time every reset, reading of actions and step from here on."""
        sampler, clock = self.batches.sampler, self.environments
        arena = sampler.arena

        def make() -> Any:
            environment = arena.make()
            environment.reset = clock.wrap(environment.reset)  # type: ignore[method-assign]
            return environment

        parse, step = clock.wrap(arena.parse_action), clock.wrap(arena.step_all)
        sampler.arena = replace(arena, make=make, parse_action=parse, step_all=step)

    def credit(self, trajectories: list[Trajectory]) -> Credit:
        return self.crediting.wrap(Loop.credit)(self, trajectories)


def shares(study: DefaultStudy, environment: str) -> list[Line]:
    """The environments' share of the rollouts, and the credit's of an iteration, in real iterations of GRPO+EMPG.

    Resets, reading of actions and searches count as the environments'.
    """
    method = next(name for name, m in study.study.methods.items() if m.modulation == "empg")
    config = train_run(study.study, dict(study.data_sets), environment, method, study.study.seeds[0])
    data = study.data / study.study.data_set(environment)
    rollouts = study.results / environment / "rollouts"
    with (
        tempfile.TemporaryDirectory() as folder,
        stage("train", config, Path(folder), inputs={}) as record,
    ):
        plain = build(config, data, study.model(environment), rollouts, record)
        loop = TimedLoop(*(getattr(plain, name) for name in Loop.__dataclass_fields__))
        loop.iterate()  # the recorded batch: nothing is sampled
        loop.watch()
        loop.iterate()  # warms up
        loop.environments.seconds = loop.crediting.seconds = 0.0
        for _ in range(ITERATIONS):
            loop.iterate()
        parts = loop.progress.seconds[-ITERATIONS:]
    collected = sum(part["collect"] for part in parts)
    whole = sum(sum(part.values()) for part in parts)
    played, credited = loop.environments.seconds, loop.crediting.seconds
    return [
        Line(
            f"environment in {environment}'s rollouts (CPU seconds in {ITERATIONS} iterations of training)",
            f"{played:.2f}",
            f"rollouts {collected:.2f}",
            played / collected,
            target=0.02,
            at_most=True,
        ),
        Line(
            f"credit, EMPG included, in an iteration of {environment} (alike)",
            f"{credited:.2f}",
            f"iterations {whole:.2f}",
            credited / whole,
            target=0.01,
            at_most=True,
        ),
    ]
