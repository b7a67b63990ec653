"""Deep Search's data sets: a generated encyclopaedia or the user's own corpus, as the pipeline's stages see them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random

from empg.config import DeepsearchData, Interface
from empg.environments.base import Arena, DemonstrationStep, Task
from empg.environments.deepsearch import text
from empg.environments.deepsearch.demonstrations import demonstrate
from empg.environments.deepsearch.environment import DeepSearchEnvironment, step_all
from empg.environments.deepsearch.names import SYLLABLE
from empg.environments.deepsearch.questions import QuestionSource
from empg.environments.deepsearch.retrieval import HttpRetriever, LocalRetriever, Retriever
from empg.environments.deepsearch.tasks import GeneratedQuestions, OfficialQuestions, StoredQuestions, open_index
from empg.environments.deepsearch.writer import write_dataset


class DeepsearchDataset:
    """The questions of a data set whose files lie in ``directory``; see :class:`~empg.environments.base.Dataset`."""

    def __init__(self, data: DeepsearchData, directory: Path) -> None:
        self._data = data
        self._stored = OfficialQuestions() if data.source == "official" else StoredQuestions(directory)
        self._drawn = None if data.source == "official" else GeneratedQuestions(data.seed)

    names: str | None = rf"{SYLLABLE}|\d\d?"

    @staticmethod
    def format_step(thought: str, action: str) -> str:
        """A thought and an action as an agent writes them."""
        return text.format_step(thought, action)

    def write(self, out: Path) -> None:
        """Write the generated corpus and the questions of every split; the user's files stay where they are."""
        if self._drawn:
            sizes = self._data.sizes.model_dump()
            write_dataset(out, seed=self._data.seed, sizes=sizes, panel_start=self._data.panel_start)

    def arena(self, max_steps: int, interface: Interface) -> Arena:
        """Where its questions are asked; the searches of a turn go to the retriever together."""
        retriever = self._retriever(interface)
        return Arena(lambda: _environment(self._stored, retriever, max_steps, interface), text.parse_action, step_all)

    def tasks(self, split: str) -> list[Task]:
        """The fixed panel of a split, in its order."""
        return self._stored.tasks(split)

    def demonstrate(self, number: int, random: Random, *, max_steps: int, interface: Interface, mistake_rate: float,
                    detour_rate: float) -> list[DemonstrationStep]:  # fmt: skip
        """The expert's play of a training task; generated questions are drawn anew for every number, others repeat."""
        questions: QuestionSource = self._drawn or self._stored
        if self._drawn:
            task = self._drawn.tasks("train", range(number, number + 1))[0]
        else:
            tasks = self.tasks("train")
            task = tasks[number % len(tasks)]
        environment = _environment(questions, self._retriever(interface), max_steps, interface)
        return demonstrate(environment, task, random, mistake_rate=mistake_rate, detour_rate=detour_rate)

    def _retriever(self, interface: Interface) -> Retriever:
        return _local(self._stored.corpus()) if interface.retriever == "local" else _remote(interface.retriever)


def _environment(source: QuestionSource, retriever: Retriever, max_steps: int,
                 interface: Interface) -> DeepSearchEnvironment:  # fmt: skip
    return DeepSearchEnvironment(source, retriever, max_steps=max_steps, max_searches=interface.max_searches,
                                 top_k=interface.top_k, max_observation_chars=interface.max_observation)  # fmt: skip


@cache
def _local(corpus: Path) -> LocalRetriever:
    """One index for all episodes of a process."""
    return LocalRetriever(open_index(corpus))


@cache
def _remote(url: str) -> HttpRetriever:
    return HttpRetriever(url)
