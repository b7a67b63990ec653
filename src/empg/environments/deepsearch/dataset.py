"""Deep Search's data sets: a generated encyclopaedia or the user's own corpus, as the pipeline's stages see them."""

from __future__ import annotations

import weakref
from pathlib import Path
from random import Random

from empg.environments.base import CLEAN, Arena, DemonstrationStep, PanelDataset, Rates, hash_list
from empg.environments.deepsearch import text
from empg.environments.deepsearch.demonstrations import demonstrate
from empg.environments.deepsearch.environment import DeepSearchEnvironment, step_all
from empg.environments.deepsearch.generated.names import PART
from empg.environments.deepsearch.generated.writer import write_dataset
from empg.environments.deepsearch.questions import QuestionSource
from empg.environments.deepsearch.registration import DeepsearchData, DeepsearchInterface
from empg.environments.deepsearch.search.retrieval import HttpRetriever, LocalRetriever, Retriever
from empg.environments.deepsearch.tasks import GeneratedQuestions, OfficialQuestions, StoredQuestions, open_index
from empg.files import write_text


class DeepsearchDataset(PanelDataset):
    """The questions of a data set whose files lie in ``directory``."""

    names = rf"{PART}|\d\d?"

    @staticmethod
    def format_step(thought: str, action: str) -> str:
        """A thought and an action as an agent writes them."""
        return text.format_step(thought, action)

    def __init__(self, data: DeepsearchData, directory: Path, interface: DeepsearchInterface) -> None:
        self._data, self._interface = data, interface
        self._stored = OfficialQuestions() if data.source == "official" else StoredQuestions(directory)
        drawn = None if data.source == "official" else GeneratedQuestions(data.seed)
        self._taught: QuestionSource = drawn or self._stored
        self._retrievers: dict[str, Retriever] = {}
        super().__init__(self._stored, drawn)

    def write(self, out: Path) -> None:
        """Write the generated corpus and questions; the user's files stay where they are, only hashes are written."""
        if isinstance(self._stored, OfficialQuestions):
            write_text(out / "files.sha256", hash_list(self._stored.files))
        else:
            sizes = {split: size for split, size in self._data.sizes.model_dump().items() if size}
            write_dataset(out, seed=self._data.seed, sizes=sizes, panel_start=self._data.panel_start)

    def arena(self, max_steps: int) -> Arena:
        """Where its questions are asked; the searches of a turn go to the retriever together."""
        return Arena(lambda: self._environment(self._stored, max_steps), text.parse_action, step_all)

    def without_files(self) -> DeepsearchDataset | None:
        """Data of the user's own never need files of the data stage. The generated corpus does: it is searched."""
        return self if isinstance(self._stored, OfficialQuestions) else None

    def demonstrate(
        self, number: int, random: Random, *, max_steps: int, rates: Rates = CLEAN
    ) -> list[DemonstrationStep]:
        """The expert's play of training question ``number``."""
        environment = self._environment(self._taught, max_steps)
        task = self.training_task(number)
        return demonstrate(environment, task, random, rates)

    def _environment(self, source: QuestionSource, max_steps: int) -> DeepSearchEnvironment:
        shown = self._interface
        return DeepSearchEnvironment(
            source,
            self._retriever(shown.retriever),
            max_steps=max_steps,
            max_searches=shown.max_searches,
            top_k=shown.top_k,
            max_observation_chars=shown.max_observation,
        )

    def _retriever(self, address: str) -> Retriever:
        """One for all episodes: the corpus is checked and its index opened once."""
        if address not in self._retrievers:
            if address == "local":
                self._retrievers[address] = LocalRetriever(open_index(self._stored.corpus()))
            else:
                self._retrievers[address] = remote = HttpRetriever(address)
                weakref.finalize(self, remote.close)  # with the data set, or at the latest when the process ends
        return self._retrievers[address]
