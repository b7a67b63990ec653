"""Pages: a short text for each entity, one fact a sentence, and the reader that finds the facts again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from random import Random

from empg.environments.deepsearch.generated.phrases import CAPITAL_SENTENCE, WORDS
from empg.environments.deepsearch.generated.world import RELATIONS, UNITS, Entity, Fact, World
from empg.seeding import derive_seed

_POSSESSIVES = {"He": "His", "She": "Her", "It": "Its"}
#: A name: words with a capital, perhaps with "of" between them ("Garden of Kelmir").
NAME = r"[A-Z][a-z]+(?: (?:of )?[A-Z][a-z]+)*"
_VALUES = {unit: r"\d+" + suffix for unit, suffix in UNITS.items()}


def write_pages(world: World, seed: int) -> Iterator[tuple[str, str]]:
    """(title, text) of every page, in the order of the entities. A text depends on its entity and the seed alone."""
    facts: dict[str, list[Fact]] = {}
    for fact in world.facts:
        facts.setdefault(fact.subject, []).append(fact)
    for entity in world.entities:
        rng = Random(derive_seed(seed, "deepsearch", "page", entity.title))
        yield entity.title, _page(world, entity, facts[entity.title], rng)


def read_page(title: str, text: str) -> dict[str, str]:
    """The object of every relation that a page's sentences state in one of the published forms; the rest is skipped."""
    found: dict[str, str] = {}
    for sentence in re.findall(r"[^.]+\.", text):
        statement = sentence.strip()
        for start, pronoun in ((f"{_possessive(title)} ", "Its "), (f"{title} ", "It ")):
            if statement.startswith(start):
                statement = pronoun + statement.removeprefix(start)
        for relation, pattern in _patterns():
            if match := pattern.fullmatch(statement):
                found.setdefault(relation, match["object"])
    return found


def _page(world: World, entity: Entity, facts: list[Fact], rng: Random) -> str:
    sentences: list[str] = []
    for fact in facts:
        forms = WORDS[fact.relation].sentences
        form = forms[int(rng.random() * len(forms))]
        if fact.relation == "country" and world.objects(fact.object, "capital") == [entity.title]:
            form = CAPITAL_SENTENCE
        subject, possessive = entity.pronoun, _POSSESSIVES[entity.pronoun]
        if not sentences:
            subject, possessive = entity.title, _possessive(entity.title)
        sentences.append(form.format(s=subject, p=possessive, o=fact.object))
    return " ".join(sentences)


def _possessive(title: str) -> str:
    return f"{title}'" if title.endswith("s") else f"{title}'s"


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    patterns = []
    for relation, words in WORDS.items():
        extra = (CAPITAL_SENTENCE,) if relation == "country" else ()
        value = _VALUES.get(RELATIONS[relation].object, NAME)
        for form in (*words.sentences, *extra):
            text = form.rstrip(".").format(s="(?:He|She|It)", p="(?:His|Her|Its)", o=f"(?P<object>{value})")
            patterns.append((relation, re.compile(rf"{text}\.")))
    return patterns
