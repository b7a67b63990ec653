"""WebShop's data sets: a generated shop or upstream's own, as the pipeline's stages see them."""

from __future__ import annotations

from pathlib import Path
from random import Random

from empg.config import Interface, WebshopData
from empg.environments import text
from empg.environments.base import Arena, DemonstrationStep, Task
from empg.environments.webshop.demonstrations import demonstrate
from empg.environments.webshop.environment import WebShopEnvironment
from empg.environments.webshop.tasks import GeneratedGoals, GoalSource, OfficialGoals, StoredGoals
from empg.environments.webshop.words import BRANDS, CATEGORIES, VALUES
from empg.environments.webshop.writer import write_dataset


def _names() -> str:
    """Product ids in their parts, prices, and the words that tell products apart."""
    attributes = [c.title_attributes + c.feature_attributes + tuple(k.name for k in c.kinds) for c in CATEGORIES]
    phrases = [*BRANDS, *(p for group in (*attributes, *VALUES.values()) for p in group)]
    words = "|".join(sorted({word for phrase in phrases for word in phrase.split()}, key=lambda w: (-len(w), w)))
    chunk = r"(?:[A-Z]\d){2}"
    return rf"B0(?={chunk})|(?<=B0){chunk}|(?<=B0[A-Z]\d[A-Z]\d){chunk}|\d+\.\d+| ?\b(?:{words})\b"


class WebshopDataset:
    """The goals of a data set whose files lie in ``directory``; see :class:`~empg.environments.base.Dataset`."""

    def __init__(self, data: WebshopData, directory: Path) -> None:
        self._data = data
        self._stored = OfficialGoals() if data.source == "official" else StoredGoals(directory)
        self._drawn = None if data.source == "official" else GeneratedGoals(data.seed)

    names: str | None = _names()

    @staticmethod
    def format_step(thought: str, action: str) -> str:
        """A thought and an action as an agent writes them."""
        return text.format_step(thought, action)

    def write(self, out: Path) -> None:
        """Write the generated shop and the goals of every split; upstream's files stay where they are."""
        if self._drawn:
            sizes = self._data.sizes.model_dump()
            write_dataset(out, seed=self._data.seed, sizes=sizes, panel_start=self._data.panel_start)

    def arena(self, max_steps: int, interface: Interface) -> Arena:
        """Where its goals are pursued; ``interface.observation`` says how pages are shown."""
        return Arena(lambda: WebShopEnvironment(self._stored, max_steps, interface.observation))

    def tasks(self, split: str) -> list[Task]:
        """The fixed panel of a split, in its order."""
        return self._stored.tasks(split)

    def demonstrate(self, number: int, random: Random, *, max_steps: int, interface: Interface, mistake_rate: float,
                    detour_rate: float) -> list[DemonstrationStep]:  # fmt: skip
        """The expert's play of a training task; generated goals are drawn anew for every number, others repeat."""
        goals: GoalSource = self._drawn or self._stored
        if self._drawn:
            task = self._drawn.tasks("train", range(number, number + 1))[0]
        else:
            tasks = self.tasks("train")
            task = tasks[number % len(tasks)]
        environment = WebShopEnvironment(goals, max_steps, interface.observation)
        return demonstrate(environment, task, random, mistake_rate=mistake_rate, detour_rate=detour_rate)
