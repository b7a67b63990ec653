"""The prompt of the paper's protocol: each turn shows the task, the last turns and the admissible actions.

A turn is then a conversation of its own, and a policy sees nothing older than the turns shown. The wording is that of
the prompts printed in arXiv 2505.10978 (GiGPO), whose protocol the paper follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from empg.environments.base import Environment, StepResult, Task


def turns_apart(interface: Mapping[str, Any]) -> bool:
    """Whether each turn is a conversation of its own, which shows only the last turns: the setting ``history``."""
    return interface.get("history") is not None


_FORMAT = (
    "This reasoning process MUST be enclosed within <think> </think> tags. Once you've finished your reasoning, you "
    "should choose an admissible action for current step and present it within <action> </action> tags."
)


@dataclass(frozen=True, slots=True)
class Prompts:
    """How an environment's turns read.

    Attributes:
        opening: the prompt of the first turn, with ``{task}``, ``{observation}`` and ``{actions}``.
        turn: the prompt of a later turn, with ``{taken}`` steps, ``{count}`` turns of ``{history}`` and ``{step}`` too.
        task: finds the task in the first observation.
        show: how an observation is shown, given the task.
        list_actions: how the admissible actions are shown.
    """

    opening: str
    turn: str
    task: Callable[[str], str]
    show: Callable[[str, str], str]
    list_actions: Callable[[Sequence[str]], str]


class Listing(Environment, Protocol):
    """An environment that can list what it would not refuse."""

    @property
    def admissible_actions(self) -> Sequence[str]:
        """The actions that would not be refused now."""
        ...


class PromptedEnvironment:
    """An environment whose every observation is a whole prompt; the last one of an episode is as it was.

    Args:
        environment: what is played.
        prompts: how its turns read.
        history: turns that a prompt shows, the last of those before it.
    """

    def __init__(self, environment: Listing, prompts: Prompts, history: int) -> None:
        self.environment, self.prompts, self.history = environment, prompts, history
        self.max_steps = environment.max_steps
        self._task = ""
        self._shown = ""  # the present observation
        self._turns: list[tuple[str, str]] = []  # earlier observations with the actions that answered them

    def reset(self, task: Task) -> str:
        """Start the task's episode and return its first prompt."""
        observation = self.environment.reset(task)
        self._task, self._turns = self.prompts.task(observation), []
        self._shown = self.prompts.show(observation, self._task)
        return self._prompt()

    def step(self, action: str | None) -> StepResult:
        """Play one action; None: the agent's text held none, and the history shows an empty one."""
        result = self.environment.step(action)
        self._turns.append((self._shown, action or ""))
        self._shown = self.prompts.show(result.observation, self._task)
        return result if result.done else replace(result, observation=self._prompt())

    @property
    def score(self) -> float:
        """That of the environment."""
        return self.environment.score

    @property
    def metrics(self) -> Mapping[str, float]:
        """Those of the environment."""
        return self.environment.metrics

    @property
    def limit(self) -> str | None:
        """That of the environment."""
        return self.environment.limit

    def _prompt(self) -> str:
        first = max(len(self._turns) - self.history, 0)
        history = "\n".join(
            f"[Observation {number}: '{observation}', Action {number}: '{action}']"
            for number, (observation, action) in enumerate(self._turns[first:], first + 1)
        )
        template = self.prompts.turn if self._turns else self.prompts.opening
        return template.format(
            task=self._task,
            observation=self._shown,
            actions=self.prompts.list_actions(self.environment.admissible_actions),
            taken=len(self._turns),
            count=len(self._turns) - first,
            history=history,
            step=len(self._turns) + 1,
        )


_PAST = (
    "Prior to this step, you have already taken {taken} step(s). Below are the most recent {count} observations and "
    "the corresponding actions you took: {history}\n"
    "You are now at step {step} and your current observation is: {observation}"
)

_ALFWORLD = "You are an expert agent operating in the ALFRED Embodied Environment."
_ALFWORLD_END = (
    "Your admissible actions of the current situation are: [{actions}].\n\n"
    "Now it's your turn to take an action. You should first reason step-by-step about the current situation. "
) + _FORMAT
_ALFWORLD_TASK = "Your task is to: "
ALFWORLD = Prompts(
    opening=f"{_ALFWORLD}\nYour current observation is: {{observation}}\n{_ALFWORLD_END}",
    turn=f"{_ALFWORLD} {_ALFWORLD_TASK}{{task}}\n{_PAST}\n{_ALFWORLD_END}",
    task=lambda observation: observation.partition(_ALFWORLD_TASK)[2].strip(),
    show=lambda observation, task: observation,
    list_actions=lambda actions: "\n ".join(f"'{action}'" for action in actions if action != "help"),
)

_WEBSHOP = (
    "You are an expert autonomous agent operating in the WebShop e-commerce environment.\nYour task is to: {task}.\n"
)
_WEBSHOP_END = (
    "Your admissible actions of the current situation are:\n[\n{actions}\n].\n\n"
    "Now it's your turn to take one action for the current step. You should first reason step-by-step about the "
    "current situation, then think carefully which admissible action best advances the shopping goal. "
) + _FORMAT
_SEPARATOR, _INSTRUCTION = " [SEP] ", "Instruction:"


def _webshop_task(observation: str) -> str:
    """The instruction, which the search page shows after a label."""
    shown = observation.partition(_INSTRUCTION)[2].removeprefix(_SEPARATOR).strip()
    return shown.partition(_SEPARATOR)[0].partition("\n")[0].strip()  # in the mode text_rich, buttons follow on lines


def _webshop_page(observation: str, task: str) -> str:
    """What the page shows beside the instruction, each string in quotes; the text of ``text_rich`` as it is."""
    parts = observation.split(_SEPARATOR)
    if task not in parts:
        return observation
    return _SEPARATOR.join(f"'{part}'" for part in parts[parts.index(task) + 1 :])


WEBSHOP = Prompts(
    opening=f"{_WEBSHOP}Your current observation is: {{observation}}.\n{_WEBSHOP_END}",
    turn=f"{_WEBSHOP}{_PAST}.\n{_WEBSHOP_END}",
    task=_webshop_task,
    show=_webshop_page,
    list_actions=lambda actions: ",\n".join(f"'{action}'" for action in actions),
)
