"""Every registered environment for verifiers (https://github.com/PrimeIntellect-ai/verifiers): tasks, episodes, scores.

verifiers finds them under the name ``empg-verifiers``, as in ``vf-eval empg-verifiers --env.taskset.environment
webshop``. A model plays by chat: observations are user messages, responses hold the action in the environment's tags.
Needs verifiers 0.4 and no torch.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import httpx
import verifiers.v1 as vf
from openai import APIConnectionError, APIStatusError, AsyncOpenAI
from pydantic import Field
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.errors import MODEL_TRANSPORT_ERROR_EXIT_CODE

from empg.config import ENVIRONMENTS
from empg.environments.base import Arena
from empg.integrations.splits import TRAIN, Split, open_dataset

MODULE = "empg-verifiers"
_THINK = "Each turn, first think about what to do next and write it between <think> and </think>. "
_ACT = _THINK + "Then write one action between <action> and </action>. "
#: What a model is told of an environment that is built in.
SYSTEM = {
    "alfworld": "You are an agent in a household. "
    + _ACT
    + "Actions: look, inventory, go to X, open X, close X, take X "
    "from Y, move X to Y, use X, heat X with Y, cool X with Y, clean X with Y, examine X. Write X and Y with their "
    "numbers, as in: <think>I need a mug. I look in the cabinet.</think><action>go to cabinet 1</action>",
    "webshop": "You are an agent in a web shop and buy what the instruction asks for. "
    + _ACT
    + "Actions: search[words] "
    "on the search page, and click[name] for a button or product that the page shows, as in: <think>I search for it."
    "</think><action>search[red cotton shirt]</action>",
    "deepsearch": "You answer a question with the help of a search engine. " + _THINK + "Then write one of "
    "<search>query</search>, <access>page title</access> and, once you know it, <answer>short answer</answer>.",
}


class EpisodesConfig(vf.TasksetConfig):
    """Which tasks are played, and how: ``--env.taskset.*``. See :func:`~empg.integrations.splits.open_dataset`."""

    environment: str = "alfworld"
    """Name of the registered environment."""
    split: str = TRAIN
    """Split of the tasks."""
    data: Path | None = None
    """Folder that ``empg data NAME`` wrote; without one, tasks are drawn when they are played."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the data set, without ``data``."""
    interface: dict[str, Any] = Field(default_factory=dict)
    """What agents see and may do."""
    max_steps: int = Field(50, ge=1)
    """The most steps of an episode."""
    reward: Literal["outcome", "score"] = "outcome"
    """``outcome``: 1.0 for success, else 0.0. ``score``: the environment's dense score, in [0, 1]."""
    system: str | None = None
    """The system message; unset: what this module says of the environment."""


class EpisodeData(vf.TaskData):
    """A task's id and type within its split. The first observation opens the conversation, so there is no prompt."""

    number: int
    type: str


class EpisodeTask(vf.Task[EpisodeData]):
    """One task. It is scored by the environment, while it is played."""


class EpisodeTaskset(vf.Taskset[EpisodeTask, EpisodesConfig]):
    """The fixed tasks of a split, in their order.

    Raises :class:`~empg.errors.ConfigError` and :class:`~empg.errors.DataError` as ``open_dataset`` does.
    """

    def __init__(self, config: EpisodesConfig) -> None:
        super().__init__(config)
        dataset = open_dataset(
            config.environment, data=config.data, settings=config.settings, interface=config.interface
        )
        self.split = Split(dataset, config.split, config.max_steps)

    @property
    def arena(self) -> Arena:
        """Where the tasks are played."""
        return self.split.arena

    def load(self) -> Iterator[EpisodeTask]:
        """Yield the tasks."""
        name, system = self.config.environment, self.config.system
        if system is None:
            system = SYSTEM.get(name) or _told_by_tags(ENVIRONMENTS[name].tags)
        for task in self.split.tasks:
            data = EpisodeData(
                id=f"{name}/{task.split}/{task.id}",
                name=f"{name} {task.split} {task.id}",
                system_prompt=system,
                number=task.id,
                type=task.type,
            )
            yield EpisodeTask(data, self.config.task)


class EpisodeEnvConfig(vf.EnvConfig):
    """The one player, which is the model under evaluation or training: ``--env.agent.*``."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class EpisodeEnv(vf.Env[EpisodeEnvConfig]):
    """Plays a task's episode with the model, one user message for each observation.

    The trace gets the reward ``outcome`` or ``score``, the metrics ``success``, ``score``, ``steps``, ``invalid`` (the
    number of refused actions) and the environment's own, and, as info, the task and ``stop_reason``: ``success``,
    ``failure``, the environment's limit, or ``agent_stopped`` where the model's turns or tokens ended first. An episode
    that an error ended is not scored.
    """

    async def run(self, task: EpisodeTask, agents: vf.Agents) -> None:
        """Play one episode."""
        taskset = self.taskset
        assert isinstance(taskset, EpisodeTaskset)
        arena = taskset.arena
        environment: Any = arena.make()
        played = taskset.split.task(task.data.number)
        # A thread: a retriever behind HTTP may take its time, and other episodes go on meanwhile.
        observation = await asyncio.to_thread(environment.reset, played)
        success, steps, invalid, done = 0.0, 0, 0, False
        async with agents.agent.interaction(task) as interaction:
            while not done:
                segment = await interaction.turn(observation)
                if segment.terminated:
                    break
                result = await asyncio.to_thread(environment.step, arena.parse_action(segment.last_reply))
                observation, success, done = result.observation, result.reward, result.done
                steps, invalid = steps + 1, invalid + result.invalid
            # Before the interaction closes, so that verifiers' own line about the rollout shows its reward.
            trace = interaction.trace
            stop = environment.limit or ("success" if success == 1.0 else "failure") if done else "agent_stopped"
            trace.info["task"] = {"environment": played.environment, "split": played.split, "id": played.id}
            trace.info["stop_reason"] = stop
            if not trace.errors:
                self._score(trace, environment, success, {"steps": float(steps), "invalid": float(invalid)})

    def _score(self, trace: vf.Trace, environment: Any, success: float, counts: dict[str, float]) -> None:
        score = float(environment.score)
        name = self.config.taskset.reward
        trace.record_reward(name, success if name == "outcome" else score)
        trace.record_metrics({"success": success, "score": score, **counts})
        trace.record_metrics({name: float(value) for name, value in environment.metrics.items()})


class EpisodeHarnessConfig(vf.HarnessConfig):
    """The harness needs no settings."""

    id: str = MODULE


class EpisodeHarness(vf.Harness[EpisodeHarnessConfig]):
    """Asks the model for one response a turn, in this process. verifiers' own starts a program for each turn."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(  # noqa: PLR0917 - the signature is verifiers'
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """One response to the conversation so far; verifiers records it on its way through ``endpoint``."""
        system, prompt = self.resolve_prompt(data)
        messages: list[Any] = [{"role": "system", "content": system}] if system else []
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages += [message_to_wire(message) for message in prompt or []]
        http = httpx.AsyncClient(verify=_certificates(), timeout=None)  # noqa: S113 - verifiers has the time limit
        async with AsyncOpenAI(base_url=endpoint, api_key=secret, max_retries=0, http_client=http) as client:
            try:
                await client.chat.completions.create(model=ctx.model, messages=messages)
            except APIStatusError as error:
                return vf.ProgramResult(exit_code=1, stdout="", stderr=str(error))
            except APIConnectionError as error:
                return vf.ProgramResult(exit_code=MODEL_TRANSPORT_ERROR_EXIT_CODE, stdout="", stderr=str(error))
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: reading them takes longer than a turn."""
    return ssl.create_default_context()


def _told_by_tags(tags: tuple[str, ...]) -> str:
    """What a model is told of an environment of which nothing but its tags is known."""
    if "action" in tags:
        return _ACT.strip()
    return f"{_THINK}Write your action between its tags, which are among {', '.join(f'<{t}>' for t in tags)}."
