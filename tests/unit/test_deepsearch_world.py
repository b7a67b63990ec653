"""The fictional world: facts that agree with each other, names that can be cut into syllables, answers by triples."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from empg.environments.deepsearch.environment import NO_PAGE, NO_RESULTS, NO_SEARCHES, REMINDER
from empg.environments.deepsearch.generated.generator import draw_world
from empg.environments.deepsearch.generated.names import FIRST, NEXT, PART, TITLES
from empg.environments.deepsearch.generated.phrases import CAPITAL_SENTENCE, COMPARISONS, COMPOSITES, WORDS
from empg.environments.deepsearch.generated.world import (
    ENTITY_TYPES,
    RELATIONS,
    UNITS,
    Entity,
    Fact,
    Query,
    World,
    number,
)

SYLLABLES = [*map(str.lower, FIRST), *NEXT]


@pytest.fixture(scope="module", params=[0, 1, 2])
def world(request: pytest.FixtureRequest) -> World:
    """The world of a seed."""
    return draw_world(request.param)


def years(world: World, relation: str) -> dict[str, int]:
    return {fact.subject: int(fact.object) for fact in world.facts if fact.relation == relation}


def stated(world: World, relation: str) -> dict[str, str]:
    return {fact.subject: fact.object for fact in world.facts if fact.relation == relation}


# --------------------------------------------------------------------------------------------------------------- names
def test_a_word_can_be_cut_into_its_syllables_in_one_way() -> None:
    assert 80 <= len(SYLLABLES) == len(set(SYLLABLES)) <= 120
    for left in SYLLABLES:
        for right in SYLLABLES:
            for start in (1, 2):
                assert (left + right)[start : start + 3] not in SYLLABLES


def test_no_syllable_is_part_of_another_word_that_is_used() -> None:
    fixed = [CAPITAL_SENTENCE, *COMPOSITES, *(c.words for c in COMPARISONS), REMINDER, NO_SEARCHES, NO_RESULTS, NO_PAGE]
    for words in WORDS.values():
        fixed += [words.noun, *words.sentences, *words.asks, words.clause]
    fixed += [title for titles in TITLES.values() for title in titles]
    fixed += [
        "I need the of. Search Access No page here. I cannot find it. Answer unknown. Check it. is more less than"
    ]
    fixed += ["Question: Name What Who Which Of and or Doc Title He She It His Her Its system user assistant"]
    assert [syllable for syllable in FIRST + NEXT if syllable in " ".join(fixed)] == []


def test_the_parts_of_names_are_found_in_text() -> None:
    text = "The founder of Mount Kelmir is Belmir Dorsanvik. He came from Kel, mir and Lake Yarzar's shore."
    assert re.findall(PART, text) == [" Mount", " Kel", "mir", " Dor", "san", "vik", " Lake", " Yar", "zar"]


def test_names_have_one_or_two_words_of_two_or_three_syllables(world: World) -> None:
    fixed = {
        "River",
        "Mount",
        "Lake",
        "Garden",
        "House",
        "Song",
        "Winter",
        "of",
        "Broken",
        "Golden",
        "Hidden",
        "Silent",
    }
    fixed |= {"Works", "Mills", "Lines", "Motors", "College", "Academy", "Museum", "Gallery", "Quartet", "Singers"}
    for entity in world.entities:
        words = [word for word in entity.title.split() if word not in fixed]
        assert len(words) == (2 if entity.type == "person" else 1)
        for word in words:
            assert len(word) == (9 if entity.type == "country" else 6)
            assert word[:3] in FIRST
            assert all(word[i : i + 3] in NEXT for i in range(3, len(word), 3))


# --------------------------------------------------------------------------------------------------------------- shape
def test_it_is_large_and_has_every_type_and_relation(world: World) -> None:
    assert len(world.entities) >= 3000
    assert set(Counter(entity.type for entity in world.entities)) == set(ENTITY_TYPES)
    assert len(ENTITY_TYPES) == 12
    uses = Counter(fact.relation for fact in world.facts)
    assert set(uses) == set(RELATIONS)
    assert len(RELATIONS) >= 25
    assert min(uses.values()) >= 30


def test_no_two_titles_are_equal_and_every_object_is_a_page_or_a_number(world: World) -> None:
    types = {entity.title: entity.type for entity in world.entities}
    assert len(types) == len({title.lower() for title in types}) == len(world.entities)
    assert len({(fact.subject, fact.relation) for fact in world.facts}) == len(world.facts)
    for fact in world.facts:
        relation = RELATIONS[fact.relation]
        assert types[fact.subject] in relation.subjects
        if relation.object in UNITS:
            assert fact.object == f"{number(fact.object)}{UNITS[relation.object]}"
        else:
            assert types[fact.object] == relation.object
            assert fact.object != fact.subject


def test_names_and_words_are_shared_between_pages(world: World) -> None:
    uses = Counter(word for entity in world.entities for word in entity.title.split())
    sharing = [e for e in world.entities if e.type != "country" and any(uses[w] > 1 for w in e.title.split())]
    assert len(sharing) > 0.9 * len(world.entities)


# --------------------------------------------------------------------------------------------------------- consistency
def test_families_agree(world: World) -> None:
    pronouns = {entity.title: entity.pronoun for entity in world.entities}
    father, mother, spouse, child, born = (
        stated(world, name) for name in ("father", "mother", "spouse", "child", "birth_year")
    )
    assert {pronouns[name] for name in father.values()} == {"He"}
    assert {pronouns[name] for name in mother.values()} == {"She"}
    for person, other in spouse.items():
        assert pronouns[person] != pronouns[other]
        assert spouse.get(other, person) == person
        assert father.get(person) is None or father.get(person) != father.get(other)
    for parent, only in child.items():
        assert parent == (father if pronouns[parent] == "He" else mother).get(only, parent)
    for parents in (father, mother):
        for person, parent in parents.items():
            assert child.get(parent, person) == person
            if person in born and parent in born:
                assert 16 <= int(born[person]) - int(born[parent]) <= 60
    for person in father.keys() & mother.keys():
        assert spouse.get(father[person], mother[person]) == mother[person]


def test_places_agree(world: World) -> None:
    country, heights = stated(world, "country"), stated(world, "height")
    for home, city in stated(world, "capital").items():
        assert country[city] == home
    for home, highest in stated(world, "highest_mountain").items():
        assert country[highest] == home
        others = [number(heights[m]) for m, c in country.items() if c == home and m in heights and m != highest]
        assert number(heights[highest]) > max(others)
    for relation in ("river", "source", "mouth"):
        for place, other in stated(world, relation).items():
            if place in country and other in country:
                assert country[place] == country[other]
    leaders = [*stated(world, "mayor").values(), *stated(world, "president").values()]
    assert len(leaders) == len(set(leaders))


def test_years_are_in_order(world: World) -> None:
    born, founded, released = (years(world, name) for name in ("birth_year", "founding_year", "release_year"))
    assert min(born.values()) >= 1850
    assert max([*founded.values(), *released.values()]) <= 2010
    for relation, made, least, most in (
        ("founder", founded, 22, 45),
        ("singer", founded, 18, 30),
        ("author", released, 22, 55),
        ("director", released, 25, 55),
    ):
        ages = [made[x] - born[person] for x, person in stated(world, relation).items() if x in made and person in born]
        assert len(ages) > 20
        assert least <= min(ages) <= max(ages) <= most
    for relation, age in (("school", 18), ("employer", 30)):
        for person, place in stated(world, relation).items():
            assert person not in born or place not in founded or founded[place] <= born[person] + age
    for film, book in stated(world, "based_on").items():
        assert released[book] < released[film]


# ------------------------------------------------------------------------------------------------------------- answers
SMALL = World(
    (Entity("Kelmir Works", "company"), Entity("Velmin Kattan", "person", "He"), Entity("Zanven", "city")),
    (
        Fact("Kelmir Works", "founder", "Velmin Kattan"),
        Fact("Kelmir Works", "founding_year", "1901"),
        Fact("Velmin Kattan", "birthplace", "Zanven"),
        Fact("Kordun Mills", "founding_year", "1899"),
        Fact("Kordun Mills", "founder", "Velmin Kattan"),
        Fact("Kordun Mills", "founder", "Selnak Kattan"),
        Fact("Selnak Kattan", "birthplace", "Zanven"),
        Fact("Dalven Lines", "founding_year", "1899"),
    ),
)


@pytest.mark.parametrize(
    ("query", "answers"),
    [
        (Query(("Kelmir Works",), ("founder",)), ["Velmin Kattan"]),
        (Query(("Kelmir Works",), ("founder", "birthplace")), ["Zanven"]),
        (Query(("Kordun Mills",), ("founder",)), ["Velmin Kattan", "Selnak Kattan"]),
        (Query(("Kordun Mills",), ("founder", "birthplace")), ["Zanven"]),
        (Query(("Zanven",), ("mayor",)), []),
        (Query(("Kelmir Works", "Kordun Mills"), ("founding_year",), False), ["Kordun Mills"]),
        (Query(("Kelmir Works", "Kordun Mills"), ("founding_year",), True), ["Kelmir Works"]),
        (Query(("Dalven Lines", "Kordun Mills"), ("founding_year",), True), ["Dalven Lines", "Kordun Mills"]),
        (Query(("Dalven Lines", "Zanven"), ("founding_year",), True), []),
    ],
)
def test_answers_are_found_by_following_the_triples(query: Query, answers: list[str]) -> None:
    assert SMALL.answers(query) == answers


def test_evidence_is_the_pages_that_state_the_facts_in_order() -> None:
    assert SMALL.evidence(Query(("Kelmir Works",), ("founder", "birthplace"))) == ["Kelmir Works", "Velmin Kattan"]
    compared = Query(("Kelmir Works", "Kordun Mills"), ("founding_year",), True)
    assert SMALL.evidence(compared) == ["Kelmir Works", "Kordun Mills"]
