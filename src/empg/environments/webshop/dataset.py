"""WebShop's data sets: a generated shop or upstream's own, as the pipeline's stages see them."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from random import Random

from empg.environments.base import (
    CLEAN,
    Arena,
    DemonstrationStep,
    DrawnPanels,
    Environment,
    PanelDataset,
    Rates,
    hash_list,
)
from empg.environments.prompts import WEBSHOP, PromptedEnvironment
from empg.environments.webshop.demonstrations import demonstrate
from empg.environments.webshop.environment import WebShopEnvironment
from empg.environments.webshop.generated.words import BRANDS, CATEGORIES, VALUES
from empg.environments.webshop.generated.writer import write_dataset
from empg.environments.webshop.registration import WebshopData, WebshopInterface
from empg.environments.webshop.tasks import GeneratedGoals, GoalSource, OfficialGoals, StoredGoals
from empg.files import write_text


def _names() -> str:
    """Product ids in their parts, prices, and the words that tell products apart."""
    attributes = [c.title_attributes + c.feature_attributes + tuple(k.name for k in c.kinds) for c in CATEGORIES]
    phrases = [*BRANDS, *(p for group in (*attributes, *VALUES.values()) for p in group)]
    words = "|".join(sorted({word for phrase in phrases for word in phrase.split()}, key=lambda w: (-len(w), w)))
    ids = r"B0(?=[A-Z]{6}\d\d)|(?<=B0)[A-Z]{3}|(?<=B0[A-Z]{3})[A-Z]{3}|(?<=B0[A-Z]{6})\d\d"
    return rf"{ids}|\d+\.\d+| ?\b(?:{words})\b"


class WebshopDataset(PanelDataset):
    """The goals of a data set whose files lie in ``directory``."""

    names = _names()

    def __init__(self, data: WebshopData, directory: Path, interface: WebshopInterface) -> None:
        self._data, self._interface = data, interface
        self._stored = OfficialGoals() if data.source == "official" else StoredGoals(directory)
        drawn = None if data.source == "official" else GeneratedGoals(data.seed)
        self._drawn = drawn
        self._taught: GoalSource = drawn or self._stored
        self._played: GoalSource = self._stored
        super().__init__(self._stored, drawn)

    def write(self, out: Path) -> None:
        """Write the generated shop and goals; upstream's files stay where they are, only their hashes are written."""
        if isinstance(self._stored, OfficialGoals):
            write_text(out / "files.sha256", hash_list(self._stored.files))
        else:
            sizes = self._data.sizes.model_dump()
            write_dataset(out, seed=self._data.seed, sizes=sizes, panel_start=self._data.panel_start)

    def arena(self, max_steps: int) -> Arena:
        """Where its goals are pursued."""
        shown, history = self._interface.observation, self._interface.history

        def make() -> Environment:
            environment = WebShopEnvironment(self._played, max_steps, shown)
            return environment if history is None else PromptedEnvironment(environment, WEBSHOP, history)

        return Arena(make, apart=history is not None)

    def without_files(self) -> WebshopDataset:
        """The same shop and goals, drawn when they are played. Upstream's never need files of the data stage."""
        if self._drawn is None:
            return self
        other = copy(self)
        other._panels = DrawnPanels(self._drawn, self._data.sizes.model_dump(), self._data.panel_start)
        other._played = self._drawn
        return other

    def demonstrate(
        self, number: int, random: Random, *, max_steps: int, rates: Rates = CLEAN
    ) -> list[DemonstrationStep]:
        """The expert's play of training goal ``number``."""
        environment = WebShopEnvironment(self._taught, max_steps, self._interface.observation)
        task = self.training_task(number)
        return demonstrate(environment, task, random, rates)
