"""ALFWorld's data sets: generated games or the official ones, as the pipeline's stages see them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random

from empg.config import AlfworldData, Interface
from empg.environments import text
from empg.environments.alfworld.demonstrations import demonstrate
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.tasks import OFFICIAL_SPLITS, GameSource, GeneratedGames, OfficialGames, StoredGames
from empg.environments.alfworld.writer import INDEX, write_dataset
from empg.environments.base import Arena, DemonstrationStep, Task
from empg.files import write_text


class AlfworldDataset:
    """The games of a data set whose files lie in ``directory``; see :class:`~empg.environments.base.Dataset`."""

    names: str | None = None

    @staticmethod
    def format_step(thought: str, action: str) -> str:
        """A thought and an action as an agent writes them."""
        return text.format_step(thought, action)

    def __init__(self, data: AlfworldData, directory: Path) -> None:
        self._data = data
        self._stored = OfficialGames() if data.source == "official" else StoredGames(directory)
        self._drawn = None if data.source == "official" else GeneratedGames(data.profile, data.seed)

    def write(self, out: Path) -> None:
        """Write the generated games of every split; official games stay where they are, only indices are written."""
        if self._data.source == "embedded":
            sizes = self._data.sizes.model_dump()
            write_dataset(out, profile=self._data.profile, seed=self._data.seed, sizes=sizes,
                          panel_start=self._data.panel_start)  # fmt: skip
        else:
            _write_indices(OfficialGames(), out)

    def arena(self, max_steps: int, interface: Interface) -> Arena:
        """Where its games are played. Nothing of the interface concerns ALFWorld."""
        return Arena(lambda: AlfworldEnvironment(self._stored, max_steps))

    def tasks(self, split: str) -> list[Task]:
        """The fixed panel of a split, in its order."""
        return self._stored.tasks(split)

    def demonstrate(self, number: int, random: Random, *, max_steps: int, interface: Interface, mistake_rate: float,
                    detour_rate: float) -> list[DemonstrationStep]:  # fmt: skip
        """The expert's play of a training task; generated games are drawn anew for every number, others repeat."""
        games: GameSource = self._drawn or self._stored
        if self._drawn:
            task = self._drawn.tasks("train", range(number, number + 1))[0]
        else:
            tasks = self.tasks("train")
            task = tasks[number % len(tasks)]
        environment = AlfworldEnvironment(games, max_steps)
        return demonstrate(environment, task, random, mistake_rate=mistake_rate, detour_rate=detour_rate)


def _write_indices(games: OfficialGames, out: Path) -> None:
    for split in OFFICIAL_SPLITS:
        entries = [
            {
                "split": split,
                "id": i,
                "type": task_type,
                "path": path.relative_to(games.root / split).as_posix(),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for i, (path, task_type) in enumerate(games.files(split))
        ]
        write_text(out / split / INDEX, "".join(f"{json.dumps(entry)}\n" for entry in entries))
