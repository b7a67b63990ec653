"""An expert that answers questions from what it reads, with a short thought per step, for an agent to imitate.

It reads the question and the pages by their published forms and knows nothing of the facts behind them. It looks for
one page at a time: it searches for the name, opens the page by its title if the search did not find it, then searches
for the name with what it needs to know, and then gives up. A thought says what was found, all that is still needed and
what to do. So each thought follows from the one before and the last observation, without the question.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from empg.environments.deepsearch.generated.phrases import WORDS, noun_phrase
from empg.environments.deepsearch.generated.prose import read_page
from empg.environments.deepsearch.generated.wording import parse_question
from empg.environments.deepsearch.generated.world import Query, number
from empg.environments.deepsearch.text import format_action

QUESTION_MARK = "Question: "
UNKNOWN = "unknown"
_DOCUMENT = re.compile(r"Doc \d+\(Title: (?P<title>[^()]+)\) (?P<text>.+)")


class Fact(NamedTuple):
    """What the expert has found out."""

    subject: str
    relation: str
    object: str

    def say(self, compared: bool) -> str:
        """A sentence: "The founder is Velmor Katin.", or "Lake Yarfik has 302 m." where numbers are compared.

        The relation or the subject stands right before the object, since the next words follow from it.
        """
        if compared:
            return f"{self.subject} has {self.object}."
        return f"The {WORDS[self.relation].noun} is {self.object}."


class Need(NamedTuple):
    """What is still needed: relations to follow from a subject, and further subjects to follow one from."""

    subject: str
    relations: tuple[str, ...]
    others: tuple[str, ...]

    def __str__(self) -> str:
        """All of it, as in "the mother of the founder of Kelmir Works": what is needed next follows from it."""
        phrase = self.subject
        for relation in self.relations:
            phrase = noun_phrase(relation, phrase)
        return " and ".join([phrase, *self.others])


def read_documents(observation: str) -> list[tuple[str, dict[str, str]]]:
    """Title and facts (relation, object) of each document that an observation shows, as far as it shows them."""
    shown = observation.removesuffix("</information>")
    return [(title, _facts(title, text)) for title, text in _DOCUMENT.findall(shown)]


class Expert:
    """Answers one question; make one per episode. A hasty one answers a chain with the first thing that it finds."""

    def __init__(self, *, hasty: bool = False) -> None:
        self._hasty = hasty
        self._query: Query | None = None
        self._pages: dict[str, dict[str, str]] = {}
        self._tried: set[str] = set()
        self._known: list[Fact] = []
        self._last = ""

    def act(self, observation: str) -> tuple[str, str]:
        """The next (thought, action), given the answer to the last action, or at first the question.

        Raises :class:`~empg.errors.DataError` for a question in none of the published forms.
        """
        if self._query is None:
            self._query = parse_question(observation.rpartition(QUESTION_MARK)[2])
        self._tried.add(self._last)
        self._read(observation)
        known, need = _follow(self._query, self._pages)
        compared = self._query.most is not None
        news = [fact.say(compared) for fact in known[len(self._known) :] or known[-1:]]
        self._known = known
        if self._hasty and known and not compared:
            thought, self._last = _conclude(self._query, known[:1], [known[0].say(False)])
        elif need is None:
            thought, self._last = _conclude(self._query, known, news)
        else:
            thought, self._last = self._look_for(need, news)
        return thought, self._last

    def played(self, action: str) -> None:
        """Say that this action was played in place of the one that the expert chose."""
        self._last = action

    def _read(self, observation: str) -> None:
        for title, facts in read_documents(observation):
            self._pages.setdefault(title, {}).update(facts)

    def _look_for(self, needed: Need, news: list[str]) -> tuple[str, str]:
        """Search the page that should say it; open it by its title; search more narrowly; give up."""
        subject, need = needed.subject, f"I need {needed}."
        narrow = f"{subject} {WORDS[needed.relations[0]].noun}"
        search, access, refined = (
            format_action(*a) for a in (("search", subject), ("access", subject), ("search", narrow))
        )
        if search not in self._tried:
            return " ".join([*news, need, f"Search {subject}."]), search
        if access not in self._tried:
            return f"{need} No page {subject} here. Access {subject}.", access
        if refined not in self._tried:
            return f"{need} Search {narrow}.", refined
        return f"{need} I cannot find it. Answer {UNKNOWN}.", format_action("answer", UNKNOWN)


def _follow(query: Query, pages: dict[str, dict[str, str]]) -> tuple[list[Fact], Need | None]:
    """The facts of the answer that the pages tell, and what is needed beyond them."""
    known: list[Fact] = []
    for number_of_anchor, anchor in enumerate(query.anchors, 1):
        subject = anchor
        for place, relation in enumerate(query.relations):
            found = pages.get(subject, {}).get(relation)
            if found is None:
                return known, Need(subject, query.relations[place:], query.anchors[number_of_anchor:])
            known.append(Fact(subject, relation, found))
            subject = found
    return known, None


def _conclude(query: Query, known: list[Fact], news: list[str]) -> tuple[str, str]:
    if query.most is None:
        answer, reason = known[-1].object, " ".join(news)
    else:
        best = (max if query.most else min)(known, key=lambda fact: number(fact.object))
        answer = best.subject
        reason = f"{known[1].say(True)} {known[0].say(True)} {best.object} is {'more' if query.most else 'less'}."
    return f"{reason} Answer {answer}.", format_action("answer", answer)


@lru_cache(maxsize=10_000)
def _facts(title: str, text: str) -> dict[str, str]:
    return read_page(title, text)
