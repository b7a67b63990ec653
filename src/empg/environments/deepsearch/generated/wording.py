"""Questions in words, and back: the published forms let a reader find out what is asked, whatever the names."""

from __future__ import annotations

import re
from functools import cache
from random import Random

from empg.environments.deepsearch.generated.phrases import (
    COMPARISONS,
    COMPOSITES,
    WORDS,
    Comparison,
    asking_word,
    noun_phrase,
)
from empg.environments.deepsearch.generated.prose import NAME
from empg.environments.deepsearch.generated.world import RELATIONS, Query
from empg.environments.draws import pick
from empg.errors import DataError

_NAME = re.compile(NAME)


def write_question(query: Query, rng: Random) -> str:
    """One of the ways to ask: two for a comparison, two or three for the last relation of a chain.

    Two relations that have a word together ("paternal grandfather") are mostly asked by it. The object between two
    relations is described by a clause ("the person who founded X") in half of the two-hop questions that allow it.
    """
    if query.most is not None:
        comparison = next(c for c in COMPARISONS if (c.relation, c.most) == (query.relations[0], query.most))
        return pick(rng, _comparison_forms(comparison)).format(a=query.anchors[0], b=query.anchors[1])
    name = query.anchors[0]
    composite = next((word for word, pair in COMPOSITES.items() if pair == query.relations), None)
    if composite and rng.random() < 0.75:
        opening = pick(rng, (f"{asking_word(query.relations[-1])} is the", "Name the"))
        return f"{opening} {composite} of {name}{'.' if opening == 'Name the' else '?'}"
    *inner, last = query.relations
    for relation in inner:
        clause = WORDS[relation].clause if len(inner) == 1 and rng.random() < 0.5 else ""
        name = clause.format(x=name) if clause else noun_phrase(relation, name)
    return pick(rng, _asks(last)).format(x=name)


def parse_question(question: str) -> Query:
    """What a question asks. Raises :class:`~empg.errors.DataError` for one that is in none of the published forms."""
    for comparison, compared in _comparison_patterns():
        if match := compared.fullmatch(question):
            return Query((match["a"], match["b"]), (comparison.relation,), comparison.most)
    for relations, pattern in _question_patterns():
        match = pattern.fullmatch(question)
        if match and (found := _parse_name(match["x"])):
            anchor, before = found
            return Query((anchor,), (*before, *relations))
    raise DataError(f"deepsearch question: expected one of the published forms, found {question!r}")


def _parse_name(text: str) -> tuple[str, tuple[str, ...]] | None:
    """The anchor and the relations, in the order in which to follow them, of a name or words that stand for one."""
    if _NAME.fullmatch(text):
        return text, ()
    for relations, pattern in _name_patterns():
        match = pattern.fullmatch(text)
        if match and (found := _parse_name(match["x"])):
            return found[0], (*found[1], *relations)
    return None


def _asks(relation: str) -> tuple[str, ...]:
    phrase = noun_phrase(relation, "{x}")
    return (f"{asking_word(relation)} is {phrase}?", f"Name {phrase}.", *WORDS[relation].asks)


def _comparison_forms(comparison: Comparison) -> tuple[str, str]:
    who = "who" if RELATIONS[comparison.relation].subjects == ("person",) else "which"
    words = comparison.words
    return f"{who.capitalize()} {words}, {{a}} or {{b}}?", f"Of {{a}} and {{b}}, {who} {words}?"


@cache
def _comparison_patterns() -> list[tuple[Comparison, re.Pattern[str]]]:
    names = {"a": f"(?P<a>{NAME})", "b": f"(?P<b>{NAME})"}
    return [
        (comparison, re.compile(f"{form.rstrip('?').format(**names)}\\?"))
        for comparison in COMPARISONS
        for form in _comparison_forms(comparison)
    ]


@cache
def _question_patterns() -> list[tuple[tuple[str, ...], re.Pattern[str]]]:
    forms: list[tuple[tuple[str, ...], str]] = [((relation,), form) for relation in WORDS for form in _asks(relation)]
    for word, pair in COMPOSITES.items():
        forms += [(pair, f"{asking_word(pair[-1])} is the {word} of {{x}}?"), (pair, f"Name the {word} of {{x}}.")]
    return [(relations, _pattern(form)) for relations, form in forms]


@cache
def _name_patterns() -> list[tuple[tuple[str, ...], re.Pattern[str]]]:
    forms = [((relation,), noun_phrase(relation, "{x}")) for relation in WORDS]
    forms += [((relation,), words.clause) for relation, words in WORDS.items() if words.clause]
    return [(relations, _pattern(form)) for relations, form in forms]


def _pattern(form: str) -> re.Pattern[str]:
    before, _, after = form.partition("{x}")
    return re.compile(f"{re.escape(before)}(?P<x>.+){re.escape(after)}")
