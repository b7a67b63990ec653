"""What a data set's type stands for: its environment, tasks and demonstrations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from empg.config import Data
from empg.environments.alfworld.demonstrations import demonstrate
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.tasks import GameSource, GeneratedGames, OfficialGames, StoredGames
from empg.environments.base import DemonstrationStep, Environment, Task


def environment_factory(data: Data, directory: Path, max_steps: int) -> Callable[[], Environment]:
    """Makes environments that play the data set's tasks, each episode for at most ``max_steps`` steps."""
    games = _games(data, directory)
    return lambda: AlfworldEnvironment(games, max_steps)


def load_tasks(data: Data, directory: Path, split: str) -> list[Task]:
    """The fixed panel of a split, in its order."""
    return _games(data, directory).tasks(split)


class Teacher:
    """Demonstrations of training tasks by number; embedded data draws a new task for every number, others repeat."""

    def __init__(self, data: Data, directory: Path, max_steps: int) -> None:
        self.max_steps = max_steps
        self._drawn = GeneratedGames(data.profile, data.seed) if data.source == "embedded" else None
        self._games: GameSource = self._drawn or _games(data, directory)
        self._tasks = [] if self._drawn else _games(data, directory).tasks("train")

    def demonstrate(
        self, number: int, random: Random, *, mistake_rate: float, detour_rate: float
    ) -> list[DemonstrationStep]:
        """The expert's play; each step is a mistake or a detour with these probabilities."""
        if self._drawn:
            task = self._drawn.tasks("train", range(number, number + 1))[0]
        else:
            task = self._tasks[number % len(self._tasks)]
        environment = AlfworldEnvironment(self._games, self.max_steps)
        return demonstrate(environment, task, random, mistake_rate=mistake_rate, detour_rate=detour_rate)


def _games(data: Data, directory: Path) -> StoredGames | OfficialGames:
    return StoredGames(directory) if data.source == "embedded" else OfficialGames()
