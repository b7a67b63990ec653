"""Deep Search as an environment: a question, searches and page views, an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from empg.environments.base import StepResult, Task
from empg.environments.deepsearch.questions import Question, QuestionSource
from empg.environments.deepsearch.scoring import exact_match, f1_score
from empg.environments.deepsearch.search.corpus import title_key
from empg.environments.deepsearch.search.retrieval import MAX_QUERY_CHARS, Retriever
from empg.environments.deepsearch.text import information, split_action
from empg.errors import EnvironmentStateError

ANSWERED = "answered"  # the agent gave its answer
SEARCH_LIMIT = "search_limit"  # it went on searching after it was told that no searches were left
STEP_LIMIT = "step_limit"  # its steps were used up

REMINDER = "Write <search>query</search>, <access>title</access> or <answer>answer</answer>."
NO_SEARCHES = "No searches left. Answer now."
NO_RESULTS = "<information>No results.</information>"
NO_PAGE = "<information>No page has this title.</information>"

Documents = Sequence[tuple[str, str]]


class Request(NamedTuple):
    """What an action asks of the retriever."""

    action: str
    content: str


class DeepSearchEnvironment:
    """Plays a source's questions, each for at most ``max_steps`` actions and ``max_searches`` searches.

    The first search beyond the limit is refused with a notice, the next one ends the episode. A step without a readable
    action is answered with a reminder of the format; such steps and refused searches are invalid. One block of
    ``top_k`` documents, or one page, shows at most ``max_observation_chars`` characters. The reward is 1.0 if the
    answer matches exactly, else 0.0. Instances are cheap and share the retriever.
    """

    def __init__(
        self,
        source: QuestionSource,
        retriever: Retriever,
        *,
        max_steps: int,
        max_searches: int = 8,
        top_k: int = 3,
        max_observation_chars: int = 2000,
    ) -> None:
        self.source = source
        self.retriever = retriever
        self.max_steps = max_steps
        self.max_searches = max_searches
        self.top_k = top_k
        self.max_observation_chars = max_observation_chars
        self.stop: str | None = None
        """Why the episode ended: ``answered``, ``search_limit`` or ``step_limit``; None before that."""
        self._question: Question | None = None
        self._begin()

    def reset(self, task: Task) -> str:
        """Start the task's episode and return the question.

        Raises :class:`~empg.errors.DataError` if the source has no such task.
        """
        self._question = self.source.question(task)
        self._begin()
        return f"Question: {' '.join(self._question.question.split())}"

    def step(self, action: str | None) -> StepResult:
        """Play one action; None stands for a step without a readable one.

        Raises :class:`~empg.errors.EnvironmentStateError` before the first reset and once the episode has ended. If the
        retriever raises an error, the step has not been played.
        """
        return step_all([self], [action])[0]

    @property
    def limit(self) -> str | None:
        """``step_limit`` or ``search_limit``, if one of them ended the episode."""
        return None if self.stop == ANSWERED else self.stop

    @property
    def score(self) -> float:
        """Token F1 of the answer; 0.0 before it."""
        return self._f1

    @property
    def metrics(self) -> dict[str, float]:
        """``em``, ``f1``, ``searches`` and, where the evidence is known, ``evidence_recall``.

        ``em`` is exact match (0 or 1), ``f1`` token F1 in [0, 1], ``searches`` a count, and ``evidence_recall`` the
        share of the evidence's pages that were shown.
        """
        figures = {"em": float(self._right), "f1": self._f1, "searches": float(self._searches)}
        if self._question and self._question.supporting_titles:
            evidence = {title_key(title) for title in self._question.supporting_titles}
            figures["evidence_recall"] = len(evidence & self._seen) / len(evidence)
        return figures

    def request(self, action: str | None) -> Request | None:
        """What to ask the retriever before the action is played; None if nothing. Changes nothing.

        Raises :class:`~empg.errors.EnvironmentStateError` as :meth:`step` does.
        """
        if self._question is None or self.stop:
            raise EnvironmentStateError("deepsearch: expected reset() before step(), found no episode in progress")
        name, content = self._read(action)
        if name == "access" or (name == "search" and self._searches < self.max_searches):
            return Request(name, content[:MAX_QUERY_CHARS])
        return None

    def finish(self, action: str | None, documents: Documents) -> StepResult:
        """Play the action, given the (title, text) of what the retriever answered to :meth:`request`."""
        name, content = self._read(action)
        self._steps += 1
        observation, invalid = self._play(name, content, documents)
        if not self.stop and self._steps >= self.max_steps:
            self.stop = STEP_LIMIT
        return StepResult(observation, float(self._right), self.stop is not None, invalid)

    def _begin(self) -> None:
        self._steps = 0
        self._searches = 0
        self._refused = False
        self._right = False
        self._f1 = 0.0
        self._seen: set[str] = set()
        self.stop = None

    def _read(self, action: str | None) -> tuple[str, str]:
        return split_action(action or "") or ("", "")

    def _play(self, name: str, content: str, documents: Documents) -> tuple[str, bool]:
        if name == "answer":
            return self._answer(content), False
        if name == "access":
            return self._show(documents) or NO_PAGE, False
        if name != "search":
            return REMINDER, True
        if self._searches < self.max_searches:
            self._searches += 1
            return self._show(documents) or NO_RESULTS, False
        if self._refused:
            self.stop = SEARCH_LIMIT
        self._refused = True
        return NO_SEARCHES, True

    def _answer(self, content: str) -> str:
        assert self._question is not None
        self._right = exact_match(content, self._question.golden_answers)
        self._f1 = f1_score(content, self._question.golden_answers)
        self.stop = ANSWERED
        return "Answered."

    def _show(self, documents: Documents) -> str:
        self._seen.update(title_key(title) for title, _ in documents)
        return information(documents, self.max_observation_chars) if documents else ""


def step_all(environments: Sequence[DeepSearchEnvironment], actions: Sequence[str | None]) -> list[StepResult]:
    """One step of many episodes, with one call of their common retriever for all searches and one for all pages.

    Any error is raised before an episode has changed, so the turn can be played again. Raises
    :class:`~empg.errors.EnvironmentStateError` for episodes that are not in progress or have different retrievers.
    """
    if len({(id(e.retriever), e.top_k) for e in environments}) > 1:
        raise EnvironmentStateError("deepsearch: expected episodes with one retriever and one top_k, found several")
    requests = [e.request(action) for e, action in zip(environments, actions, strict=True)]
    documents: list[Documents] = [()] * len(environments)
    queries = {i: request.content for i, request in enumerate(requests) if request and request.action == "search"}
    titles = {i: request.content for i, request in enumerate(requests) if request and request.action == "access"}
    if queries:
        found = environments[0].retriever.search_batch([*queries.values()], environments[0].top_k)
        for i, hits in zip(queries, found, strict=True):
            documents[i] = [(hit.title, hit.text) for hit in hits]
    if titles:
        for i, page in zip(titles, environments[0].retriever.page_batch([*titles.values()]), strict=True):
            documents[i] = [(page.title, page.text)] if page else []
    results = zip(environments, actions, documents, strict=True)
    return [environment.finish(action, shown) for environment, action, shown in results]
