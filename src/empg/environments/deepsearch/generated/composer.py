"""Composing questions: which may be asked in which split, and the question that a split and a number name.

A question starts from one page, its anchor, or compares two. A digest of the anchor's title decides the split: seven of
ten anchors belong to ``train``, one of ten each to ``id``, ``tune`` and ``ood``. So no two splits share an anchor or a
question; pages on the way are common to all.
``ood`` asks pairs of relations that no question of another split combines; ``chains``, which starts from the same pages
as ``ood``, asks for three and four relations in a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from random import Random

from empg.environments.deepsearch.generated.generator import draw_world
from empg.environments.deepsearch.generated.phrases import COMPARISONS, COMPOSITES
from empg.environments.deepsearch.generated.wording import write_question
from empg.environments.deepsearch.generated.world import RELATIONS, Query, World, number
from empg.environments.deepsearch.questions import Question
from empg.environments.draws import shuffled
from empg.errors import ConfigError
from empg.seeding import derive_seed

IN_DISTRIBUTION = ("single", "bridge", "comparison", "composition")
KINDS = {
    "train": IN_DISTRIBUTION,
    "id": IN_DISTRIBUTION,
    "tune": IN_DISTRIBUTION,
    "ood": ("new_pair",),
    "chains": ("three_hops", "four_hops"),
}
_SHARES = ("train",) * 7 + ("id", "tune", "ood")

_ANCHORS = {"chains": "ood"}  # splits that start from another split's pages

#: Pairs of relations kept for ``ood``. Each of their relations is also combined, in the same place, with others.
HELD_OUT_PAIRS = (
    ("author", "mother"),
    ("author", "school"),
    ("birthplace", "mayor"),
    ("capital", "mayor"),
    ("child", "school"),
    ("city", "river"),
    ("director", "employer"),
    ("director", "spouse"),
    ("employer", "founding_year"),
    ("father", "birthplace"),
    ("first_climber", "father"),
    ("first_climber", "school"),
    ("founder", "employer"),
    ("founder", "spouse"),
    ("mayor", "birthplace"),
    ("mayor", "mother"),
    ("mother", "employer"),
    ("president", "birth_year"),
    ("president", "school"),
    ("school", "city"),
    ("singer", "birthplace"),
    ("singer", "father"),
    ("source", "first_climber"),
    ("spouse", "birth_year"),
)
#: Never asked: the anchor's own page may answer these.
SHORTCUTS = (
    ("capital", "country"),
    ("child", "father"),
    ("child", "mother"),
    ("father", "child"),
    ("father", "spouse"),
    ("highest_mountain", "country"),
    ("mother", "child"),
    ("mother", "spouse"),
    ("mouth", "country"),
    ("river", "country"),
    ("source", "country"),
    ("spouse", "child"),
    ("spouse", "spouse"),
)
_COMPOSED = ("author", "based_on", "child", "director", "father", "mother", "singer", "spouse")
_PARTNERS = 10  # the most comparisons in which an anchor is the first of the two


def kind_of(split: str, number: int) -> str:
    """The kind of a question: kinds take turns by number.

    Raises :class:`~empg.errors.ConfigError` for an unknown split or a negative number.
    """
    if split not in KINDS:
        raise ConfigError(f"deepsearch split: expected one of {list(KINDS)}, found {split!r}")
    if number < 0:
        raise ConfigError(f"deepsearch question: expected a number >= 0, found {number}")
    return KINDS[split][number % len(KINDS[split])]


def pair_kind(pair: tuple[str, str]) -> str | None:
    """ "composition" for kin, makers of works and pairs with a word of their own, else "bridge"; None if shortcut."""
    if pair in SHORTCUTS:
        return None
    if pair in HELD_OUT_PAIRS:
        return "new_pair"
    return "composition" if pair[0] in _COMPOSED or pair in COMPOSITES.values() else "bridge"


def split_of(anchor: str, seed: int) -> str:
    """The split in which questions start from a page."""
    return _SHARES[derive_seed(seed, "deepsearch", "anchor", anchor) % len(_SHARES)]


def draw_query(split: str, number: int, seed: int) -> Query:
    """What question ``number`` of a split asks. All queries of a kind are asked once before any is asked again."""
    kind = kind_of(split, number)
    queries = candidates(split, kind, seed)
    return queries[number // len(KINDS[split]) % len(queries)]


def draw_question(split: str, number: int, seed: int) -> Question:
    """The question that (split, number, seed) names, in words, the same on every machine and in any order."""
    query, world = draw_query(split, number, seed), draw_world(seed)
    text = write_question(query, Random(derive_seed(seed, "deepsearch", "wording", split, number)))
    return Question(
        id=f"{split}-{number}",
        question=text,
        golden_answers=tuple(world.answers(query)),
        type=kind_of(split, number),
        supporting_titles=tuple(world.evidence(query)),
    )


@cache
def candidates(split: str, kind: str, seed: int) -> tuple[Query, ...]:
    """All queries of a kind in a split. Relations, and pairs of relations, take turns as long as they last."""
    world = draw_world(seed)
    own = _ANCHORS.get(split, split)
    anchors = [entity.title for entity in world.entities if split_of(entity.title, seed) == own]
    if kind == "comparison":
        queries: Iterable[Query] = _comparisons(world, anchors, seed)
    else:
        queries = _chains(world, anchors, kind)
    groups: dict[tuple[tuple[str, ...], bool | None], list[Query]] = {}
    for query in queries:
        groups.setdefault((query.relations, query.most), []).append(query)
    rng = Random(derive_seed(seed, "deepsearch", "order", split, kind))
    shuffled_groups = [shuffled(rng, group) for group in shuffled(rng, list(groups.values()))]
    longest = max(map(len, shuffled_groups))
    return tuple(group[i] for i in range(longest) for group in shuffled_groups if i < len(group))


def _chains(world: World, anchors: list[str], kind: str) -> Iterator[Query]:
    hops = {"single": 1, "three_hops": 3, "four_hops": 4}.get(kind, 2)
    for anchor in anchors:
        for relations in _walks(world, (anchor,), (), hops):
            if hops != 2 or pair_kind((relations[0], relations[1])) == kind:
                yield Query((anchor,), relations)


def _walks(world: World, visited: tuple[str, ...], relations: tuple[str, ...], hops: int) -> Iterator[tuple[str, ...]]:
    """Chains of relations that never come back to a page, take no shortcut and whose answer the anchor's name lacks."""
    if len(relations) == hops:
        if f" {visited[-1]} " not in f" {visited[0]} ":
            yield relations
        return
    for relation in RELATIONS:
        if relations and (relations[-1], relation) in SHORTCUTS:
            continue
        for value in world.objects(visited[-1], relation):
            if value not in visited:
                yield from _walks(world, (*visited, value), (*relations, relation), hops)


def _comparisons(world: World, anchors: list[str], seed: int) -> Iterator[Query]:
    """Two anchors of one type whose numbers differ; each is compared with the next few in a random order."""
    types = {entity.title: entity.type for entity in world.entities}
    for relation, most, _ in COMPARISONS:
        for kind in RELATIONS[relation].subjects:
            able = [anchor for anchor in anchors if types[anchor] == kind and world.objects(anchor, relation)]
            able = shuffled(Random(derive_seed(seed, "deepsearch", "pairs", relation, kind)), able)
            for distance in range(1, min(_PARTNERS, (len(able) - 1) // 2) + 1):
                for i, first in enumerate(able):
                    second = able[(i + distance) % len(able)]
                    values = [number(world.objects(title, relation)[0]) for title in (first, second)]
                    if values[0] != values[1]:
                        yield Query((first, second), (relation,), most)
