"""The fictional world as triples: what kinds of thing there are, which facts hold, and which questions they answer.

Facts are those that the encyclopaedia's pages state, no others. Every relation has one object for a subject, so that a
question has one answer; :meth:`World.answers` finds all of them by following the triples and so checks just that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

ENTITY_TYPES = (
    "person",
    "city",
    "country",
    "river",
    "mountain",
    "lake",
    "company",
    "school",
    "museum",
    "band",
    "book",
    "film",
)
#: What an object is that is no entity, and the unit behind its number.
UNITS = {"year": "", "kilometres": " km", "metres": " m"}


class Relation(NamedTuple):
    """Which types of entity have it, and what its object is: an entity type or a key of :data:`UNITS`."""

    subjects: tuple[str, ...]
    object: str


_PERSON, _PLACES = ("person",), ("city", "river", "mountain", "lake")
_ORGANISATIONS = ("company", "school", "museum", "band")

RELATIONS: dict[str, Relation] = {
    "father": Relation(_PERSON, "person"),
    "mother": Relation(_PERSON, "person"),
    "spouse": Relation(_PERSON, "person"),
    "child": Relation(_PERSON, "person"),
    "birthplace": Relation(_PERSON, "city"),
    "birth_year": Relation(_PERSON, "year"),
    "school": Relation(_PERSON, "school"),
    "employer": Relation(_PERSON, "company"),
    "country": Relation(_PLACES, "country"),
    "mayor": Relation(("city",), "person"),
    "river": Relation(("city",), "river"),
    "capital": Relation(("country",), "city"),
    "president": Relation(("country",), "person"),
    "highest_mountain": Relation(("country",), "mountain"),
    "length": Relation(("river",), "kilometres"),
    "source": Relation(("river",), "mountain"),
    "mouth": Relation(("river",), "lake"),
    "height": Relation(("mountain",), "metres"),
    "first_climber": Relation(("mountain",), "person"),
    "depth": Relation(("lake",), "metres"),
    "founder": Relation(("company", "school", "museum"), "person"),
    "city": Relation(_ORGANISATIONS, "city"),
    "founding_year": Relation(_ORGANISATIONS, "year"),
    "singer": Relation(("band",), "person"),
    "author": Relation(("book",), "person"),
    "director": Relation(("film",), "person"),
    "based_on": Relation(("film",), "book"),
    "release_year": Relation(("book", "film"), "year"),
}


class Entity(NamedTuple):
    """What a page is about. ``pronoun`` is "He", "She" or "It"."""

    title: str
    type: str
    pronoun: str = "It"


class Fact(NamedTuple):
    """A triple of texts; the object is a title, or a number with its unit."""

    subject: str
    relation: str
    object: str


class Query(NamedTuple):
    """What a question asks: to follow relations from an anchor, or which of two anchors has more (or less) of one.

    ``most`` is None for a chain, True where the greater number wins and False where the smaller one does.
    """

    anchors: tuple[str, ...]
    relations: tuple[str, ...]
    most: bool | None = None


@dataclass(frozen=True)
class World:
    """Entities and facts; the facts of a page are in the order in which the page states them."""

    entities: tuple[Entity, ...]
    facts: tuple[Fact, ...]
    _objects: dict[tuple[str, str], list[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        objects: dict[tuple[str, str], list[str]] = {}
        for subject, relation, value in self.facts:
            objects.setdefault((subject, relation), []).append(value)
        object.__setattr__(self, "_objects", objects)

    def objects(self, subject: str, relation: str) -> list[str]:
        """Everything to which the subject stands in the relation."""
        return self._objects.get((subject, relation), [])

    def follow(self, anchor: str, relations: Iterable[str]) -> list[str]:
        """Everything that a chain of relations leads to from an anchor, each once."""
        ends = [anchor]
        for relation in relations:
            ends = list(dict.fromkeys(value for end in ends for value in self.objects(end, relation)))
        return ends

    def answers(self, query: Query) -> list[str]:
        """All right answers; a comparison has none if a number is missing, and both anchors if they are equal."""
        if query.most is None:
            return self.follow(query.anchors[0], query.relations)
        numbers = [[number(v) for v in self.follow(anchor, query.relations)] for anchor in query.anchors]
        if not all(numbers):
            return []
        extreme = max if query.most else min
        best = extreme(value for values in numbers for value in values)
        return [anchor for anchor, values in zip(query.anchors, numbers, strict=True) if best in values]

    def evidence(self, query: Query) -> list[str]:
        """The pages that state the facts of the answer, in the order in which they are needed."""
        steps = [query.relations[:i] for i in range(len(query.relations))]
        return [title for anchor in query.anchors for hops in steps for title in self.follow(anchor, hops)]


def number(value: str) -> int:
    """The number of an object such as "1874" or "340 km"."""
    return int(value.partition(" ")[0])
