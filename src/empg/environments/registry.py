"""What a data set's type stands for: its environment, tasks and demonstrations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from empg.config import AlfworldData, Data
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


def demonstration(
    data: Data, directory: Path, index: int, *, max_steps: int, random: Random, mistake_rate: float
) -> list[DemonstrationStep]:
    """The expert's play of a training task. Embedded data draws a new task for every index; others repeat theirs."""
    games: GameSource
    if data.source == "embedded":
        games = GeneratedGames(data.profile, data.seed)
        task = games.tasks("train", range(index, index + 1))[0]
    else:
        games = _games(data, directory)
        tasks = games.tasks("train")
        task = tasks[index % len(tasks)]
    return demonstrate(AlfworldEnvironment(games, max_steps), task, random, mistake_rate)


def _games(data: Data, directory: Path) -> StoredGames | OfficialGames:
    return StoredGames(directory) if data.source == "embedded" else OfficialGames()
