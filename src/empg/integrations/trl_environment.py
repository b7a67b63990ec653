"""The environments for TRL's ``environment_factory``: the model acts by tool calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

from datasets import Dataset as Rows

from empg.environments.base import Arena, Dataset, Task
from empg.errors import ConfigError, DataError


class Tool(NamedTuple):
    """A tool that a model calls with one ``text``, and the action that the call plays: ``form`` with the text in it."""

    name: str
    description: str
    form: str = "{}"


ACT = (Tool("act", "Plays one action in the environment."),)
#: The actions of Deep Search as tools of their own.
DEEPSEARCH = (
    Tool("search", "Searches the corpus.", "<search>{}</search>"),
    Tool("access", "Opens the page with this title.", "<access>{}</access>"),
    Tool("answer", "Gives the short answer to the question and ends the episode.", "<answer>{}</answer>"),
)
OVER = "The episode is over."


class Episode:
    """What TRL asks of an environment. :func:`environment` makes subclasses, whose other public methods are tools."""

    _arena: ClassVar[Arena]
    _tasks: ClassVar[Callable[[str], dict[int, Task]]]
    _dense: ClassVar[bool]

    def reset(self, *, split: str | None = None, id: int | None = None, **_: Any) -> str:
        """Start the episode of a row's task; returns the first observation, which TRL appends to the prompt."""
        if split is None or id is None:
            raise ConfigError("environment: expected rows with split and id, as prompts() gives, found others")
        task = type(self)._tasks(split).get(id)
        if task is None:
            raise DataError(f"environment: split {split!r}: expected the id of one of its tasks, found {id}")
        self._environment = self._arena.make()
        self._over, self._reward = False, 0.0
        self._failure: Exception | None = None
        return self._environment.reset(task)

    def get_reward(self) -> float:
        """1.0 for success, else 0.0; or the dense score. Raises what a step raised, which TRL tells the model alone."""
        if self._failure is not None:
            raise self._failure
        return self._environment.score if self._dense else self._reward

    def _play(self, action: str) -> str:
        if self._over:
            return OVER
        try:
            result = self._environment.step(action)
        except Exception as error:
            self._failure = error
            raise
        self._over, self._reward = result.done, result.reward
        return f"{result.observation}\n{OVER}" if result.done else result.observation


def environment(
    dataset: Dataset,
    *,
    max_steps: int = 50,
    reward: Literal["outcome", "score"] = "outcome",
    tools: Sequence[Tool] = ACT,
) -> type[Episode]:
    """Any registered environment for TRL's ``environment_factory``; ``train_dataset`` is what ``prompts`` gives.

    The model acts by tool calls of its chat template, not by the tags of this package. After its last tool result it
    writes a closing text, which is a step like the others.

    Args:
        dataset: an opened data set: :func:`empg.environments.datasets.open_dataset`.
        max_steps: the most actions of an episode.
        reward: ``outcome``, 1.0 for success and else 0.0, or ``score``, the dense score of the episode.
        tools: what the model may call; one tool ``act`` for every action, or one for each kind, as ``DEEPSEARCH``.
    """
    if reward not in ("outcome", "score"):
        raise ConfigError(f"reward: expected outcome or score, found {reward!r}")

    @cache
    def tasks(split: str) -> dict[int, Task]:
        return {task.id: task for task in dataset.tasks(split)}

    members: dict[str, Any] = {tool.name: _method(tool) for tool in tools}
    members |= {"_arena": dataset.arena(max_steps), "_tasks": staticmethod(tasks), "_dense": reward == "score"}
    return type(type(dataset).__name__.removesuffix("Dataset"), (Episode,), members)


def _method(tool: Tool) -> Callable[[Episode, str], str]:
    """The tool as TRL reads it: a method whose docstring describes it to the model."""

    def method(self: Episode, text: str) -> str:
        return self._play(tool.form.format(text))

    method.__name__ = method.__qualname__ = tool.name
    method.__annotations__ = {"text": str, "return": str}
    method.__doc__ = f"""{tool.description}

    Args:
        text: what to {tool.name}.

    Returns:
        what the environment answers.
    """
    return method


def prompts(dataset: Dataset, split: str = "train", *, system: str = "", limit: int | None = None) -> Rows:
    """The tasks of a split as rows for TRL: ``prompt``, which ``reset`` completes, ``split`` and ``id``.

    Args:
        dataset: the data set of the environment.
        split: its split.
        system: the system message, which should say what to do and how; "" for none.
        limit: how many tasks, from the first; None for all.
    """
    opening = [{"role": "system", "content": system}] if system else []
    chat = [*opening, {"role": "user", "content": ""}]
    tasks = dataset.tasks(split)[:limit]
    return Rows.from_list([{"prompt": chat, "split": task.split, "id": task.id} for task in tasks])
