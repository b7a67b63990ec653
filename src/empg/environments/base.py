"""What every environment shares: tasks, step results, the protocol and the agent's text format."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, ClassVar, NamedTuple, Protocol

from empg.environments import text
from empg.errors import DataError


@dataclass(frozen=True, slots=True)
class Task:
    """One task: (environment, split, id) always names the same task, on every machine and in every process.

    Tasks of one ``cluster`` share something that makes them alike, such as a room or a product; empty: nothing known.
    ``goal`` is what is asked for. Statistics use both; they are no part of a task's identity.
    """

    environment: str
    split: str
    id: int
    type: str
    cluster: str = field(default="", compare=False)
    goal: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class StepResult:
    """The answer to one action. ``reward`` is the outcome reward, 0.0 until the episode ends."""

    observation: str
    reward: float
    done: bool
    invalid: bool


class Expert(Protocol):
    """Solves an embedded task from observations alone."""

    def act(self, observation: str) -> tuple[str, str]:
        """The next (thought, action), given the observation that followed the last action."""
        ...


class Environment(Protocol):
    """One episode at a time; holds no global state, so hundreds of instances run in one process."""

    max_steps: int

    @property
    def score(self) -> float:
        """The dense score of the episode so far, from 0 to 1; where there is none, the outcome reward."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """What else is worth knowing of an episode once it has ended, by name; one that is unknown is left out."""
        ...

    @property
    def limit(self) -> str | None:
        """The limit that ended the episode (``step_limit``, …), if one did."""
        ...

    def reset(self, task: Task) -> str:
        """Start the task's episode and return its first observation."""
        ...

    def step(self, action: str | None) -> StepResult:
        """Play one action; None: the agent's text held none.

        Raises :class:`~empg.errors.EnvironmentStateError` once the episode has ended.
        """
        ...


class DemonstrationStep(NamedTuple):
    """One step: what was read, and what was thought and done then. A mistake is to be kept out of the loss."""

    observation: str
    thought: str
    action: str
    is_mistake: bool


class Rates(NamedTuple):
    """How often a demonstrator errs, as probabilities: ``mistake`` and ``detour`` at each step, ``gap`` once in a play.

    A mistake is what a weak agent does; a detour is slow and harmless. A play with a gap leaves a part of the task out,
    so it fails where the task has that part.
    """

    mistake: float = 0.0
    detour: float = 0.0
    gap: float = 0.0

    def has_gap(self, random: Random) -> bool:
        """Whether this play has a gap. Draws nothing where none has one."""
        return self.gap > 0 and random.random() < self.gap


CLEAN = Rates()


def step_each(environments: Sequence[Any], actions: Sequence[str | None]) -> list[StepResult]:
    """Play one action in each environment."""
    return [environment.step(action) for environment, action in zip(environments, actions, strict=True)]


@dataclass(frozen=True, slots=True)
class Arena:
    """How episodes of a data set are played.

    ``make`` gives a fresh environment for one episode. ``parse_action`` finds the action in an agent's text, or None.
    ``step_all`` plays one action in each of several environments: what asks a server asks once for all. With ``apart``
    each observation is a whole prompt, and a turn is a conversation of its own.
    """

    make: Callable[[], Environment]
    parse_action: Callable[[str], str | None] = text.parse_action
    step_all: Callable[[Sequence[Any], Sequence[str | None]], list[StepResult]] = step_each
    apart: bool = False


class Panels(Protocol):
    """Where a data set's fixed panels come from."""

    def tasks(self, split: str) -> list[Task]:
        """Every task of a split, in its order."""
        ...


class Draws(Protocol):
    """Where tasks are drawn by number, without end."""

    def tasks(self, split: str, ids: range) -> list[Task]:
        """The tasks with these ids."""
        ...


class DrawnPanels:
    """The panels that the data stage would write, drawn when they are asked for: see :class:`Panels`.

    A split has ``sizes[split]`` tasks. Their ids begin at 0 in the split ``train`` and at ``start`` in the others.
    """

    def __init__(self, draws: Draws, sizes: Mapping[str, int], start: int) -> None:
        self._draws, self._sizes, self._start = draws, sizes, start

    def tasks(self, split: str) -> list[Task]:
        """Every task of a split, in its order. Raises :class:`~empg.errors.DataError` for an unknown split."""
        if split not in self._sizes:
            raise DataError(f"split: expected one of {', '.join(self._sizes)}, found {split!r}")
        first = 0 if split == "train" else self._start
        return self._draws.tasks(split, range(first, first + self._sizes[split]))


class Dataset(ABC):
    """The tasks of a data set, how they are played and how an expert plays them.

    A registration names a subclass, which is called with the data set's settings, the folder of its files (empty when
    the data stage is about to write them) and the interface settings.

    ``names`` finds what an agent must copy or compare, for a tokenizer trained on the environment's text: see
    :func:`~empg.policy.tokenizer.train_tokenizer`. None: what is numbered.
    """

    names: ClassVar[str | None] = None

    @staticmethod
    def format_step(thought: str, action: str) -> str:
        """A thought and an action as an agent writes them."""
        return text.format_step(thought, action)

    @abstractmethod
    def write(self, out: Path) -> None:
        """Write the data set's files to ``out``: what the data stage does before anything else is asked of it."""

    @abstractmethod
    def arena(self, max_steps: int) -> Arena:
        """Where the tasks are played, each episode for at most ``max_steps`` steps."""

    @abstractmethod
    def demonstrate(
        self, number: int, random: Random, *, max_steps: int, rates: Rates = CLEAN
    ) -> list[DemonstrationStep]:
        """The expert's play of training task ``number``.

        ``rates`` says how often it errs: see :class:`Rates`.
        """

    @abstractmethod
    def tasks(self, split: str) -> list[Task]:
        """The fixed tasks of a split, in their order."""

    def without_files(self) -> Dataset | None:
        """The same tasks, played without files of the data stage; None where play needs them."""
        return None

    def training_task(self, number: int) -> Task:
        """The training task of any number >= 0: the tasks of the split ``train``, over and over."""
        return self._training[number % len(self._training)]

    @cached_property
    def _training(self) -> list[Task]:
        return self.tasks("train")


class PanelDataset(Dataset):
    """A data set of ``panels``, whose training tasks are drawn anew without end where there are ``draws``."""

    def __init__(self, panels: Panels, draws: Draws | None) -> None:
        self._panels, self._draws = panels, draws

    def tasks(self, split: str) -> list[Task]:
        return self._panels.tasks(split)

    def training_task(self, number: int) -> Task:
        if self._draws:
            return self._draws.tasks("train", range(number, number + 1))[0]
        return super().training_task(number)


def hash_list(files: Iterable[Path]) -> str:
    """The files' SHA-256 and names in the form of ``sha256sum``: what stands for data that stays where it is."""
    lines = []
    for path in files:
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return "".join(lines)
