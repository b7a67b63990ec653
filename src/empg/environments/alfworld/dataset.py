"""ALFWorld's data sets: generated games or the official ones, as the pipeline's stages see them."""

from __future__ import annotations

import hashlib
import json
from copy import copy
from pathlib import Path
from random import Random

from empg.environments.alfworld.demonstrations import demonstrate
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.generated.writer import INDEX, write_dataset
from empg.environments.alfworld.registration import AlfworldData, AlfworldInterface
from empg.environments.alfworld.tasks import (
    OFFICIAL_SPLITS,
    GameSource,
    GeneratedGames,
    KeptGames,
    OfficialGames,
    StoredGames,
)
from empg.environments.base import CLEAN, Arena, DemonstrationStep, DrawnPanels, Environment, PanelDataset, Rates
from empg.environments.prompts import ALFWORLD, PromptedEnvironment
from empg.files import write_text


class AlfworldDataset(PanelDataset):
    """The games of a data set whose files lie in ``directory``."""

    def __init__(self, data: AlfworldData, directory: Path, interface: AlfworldInterface) -> None:
        self._data, self._interface = data, interface
        self._stored = OfficialGames() if data.source == "official" else StoredGames(directory)
        drawn = None if data.source == "official" else GeneratedGames(data.profile, data.seed)
        self._drawn = drawn
        self._taught: GameSource = drawn or self._stored
        self._played = KeptGames(self._stored)
        super().__init__(self._stored, drawn)

    def write(self, out: Path) -> None:
        """Write the generated games of every split; official games stay where they are, only indices are written."""
        if isinstance(self._stored, OfficialGames):
            _write_indices(self._stored, out)
        else:
            sizes = self._data.sizes.model_dump()
            data = self._data
            write_dataset(out, profile=data.profile, seed=data.seed, sizes=sizes, panel_start=data.panel_start)

    def arena(self, max_steps: int) -> Arena:
        """Where its games are played."""
        history = self._interface.history

        def make() -> Environment:
            environment = AlfworldEnvironment(self._played, max_steps)
            return environment if history is None else PromptedEnvironment(environment, ALFWORLD, history)

        return Arena(make, apart=history is not None)

    def without_files(self) -> AlfworldDataset:
        """The same games, drawn when they are played. Official games never need files of the data stage."""
        if self._drawn is None:
            return self
        other = copy(self)
        other._panels = DrawnPanels(self._drawn, self._data.sizes.model_dump(), self._data.panel_start)
        other._played = KeptGames(self._drawn)
        return other

    def demonstrate(
        self, number: int, random: Random, *, max_steps: int, rates: Rates = CLEAN
    ) -> list[DemonstrationStep]:
        """The expert's play of training game ``number``."""
        environment = AlfworldEnvironment(self._taught, max_steps)
        task = self.training_task(number)
        return demonstrate(environment, task, random, rates)


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
