"""Questions: what each split may ask, that each has one right answer, and that their words say what is asked."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from empg.environments.deepsearch.generated.composer import (
    HELD_OUT_PAIRS,
    KINDS,
    SHORTCUTS,
    candidates,
    draw_query,
    draw_question,
    kind_of,
    pair_kind,
    split_of,
)
from empg.environments.deepsearch.generated.generator import draw_world
from empg.environments.deepsearch.generated.phrases import COMPARISONS, COMPOSITES
from empg.environments.deepsearch.generated.prose import read_page, write_pages
from empg.environments.deepsearch.generated.wording import parse_question, write_question
from empg.environments.deepsearch.generated.world import RELATIONS, Query
from empg.environments.deepsearch.questions import Question
from empg.errors import ConfigError, DataError

SIZES = {"train": 2000, "id": 500, "tune": 500, "ood": 500, "chains": 500}
PAIRS = [(a, b) for a in RELATIONS for b in RELATIONS if RELATIONS[a].object in RELATIONS[b].subjects]


@pytest.fixture(scope="module")
def questions() -> dict[str, list[tuple[Query, Question]]]:
    """The panels and the first training questions, each with what it asks."""
    return {
        split: [(draw_query(split, i, 0), draw_question(split, i, 0)) for i in range(size)]
        for split, size in SIZES.items()
    }


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The text of every page."""
    return dict(write_pages(draw_world(0), 0))


def reachable(facts: dict[str, dict[str, str]], anchor: str, relations: tuple[str, ...]) -> str:
    """Where a chain ends, by the facts that the pages' texts state."""
    for relation in relations:
        anchor = facts[anchor][relation]
    return anchor


# -------------------------------------------------------------------------------------------------------------- answers
def test_each_question_has_one_right_answer_which_its_evidence_states(
    questions: dict[str, list[tuple[Query, Question]]], pages: dict[str, str]
) -> None:
    facts = {title: read_page(title, text) for title, text in pages.items()}
    for query, question in (both for panel in questions.values() for both in panel):
        (answer,) = question.golden_answers
        ends = {anchor: reachable(facts, anchor, query.relations) for anchor in query.anchors}
        if query.most is None:
            assert answer == ends[query.anchors[0]]
            assert answer in pages[question.supporting_titles[-1]]
            assert f" {answer} " not in f" {query.anchors[0]} "
        else:
            values = {anchor: int(end.split()[0]) for anchor, end in ends.items()}
            (loser,) = set(query.anchors) - {answer}
            assert (values[answer] > values[loser]) is query.most
            assert values[answer] != values[loser]
            assert answer in pages
        hops = len(query.relations)
        assert len(set(question.supporting_titles)) == len(query.anchors) * hops
        passed = [reachable(facts, query.anchors[0], query.relations[:i]) for i in range(hops + 1)]
        assert len(set(passed)) == hops + 1
        assert query.most is not None or list(question.supporting_titles) == passed[:-1]


def test_the_answer_of_a_comparison_is_named_first_as_often_as_second(
    questions: dict[str, list[tuple[Query, Question]]],
) -> None:
    first = [
        question.golden_answers[0] == query.anchors[0]
        for query, question in questions["train"]
        if query.most is not None
    ]
    assert 0.43 < sum(first) / len(first) < 0.57


# --------------------------------------------------------------------------------------------------------------- splits
def test_no_split_starts_from_a_page_where_another_starts(questions: dict[str, list[tuple[Query, Question]]]) -> None:
    starts = {split: {anchor for query, _ in panel for anchor in query.anchors} for split, panel in questions.items()}
    assert {split_of(anchor, 0) for anchor in starts.pop("chains")} == {"ood"}
    assert sum(map(len, starts.values())) == len(set().union(*starts.values()))
    for split, anchors in starts.items():
        assert {split_of(anchor, 0) for anchor in anchors} == {split}
    far = {anchor for i in range(10**6, 10**6 + 400) for anchor in draw_query("train", i, 0).anchors}
    assert {split_of(anchor, 0) for anchor in far} == {"train"}


def test_no_question_of_a_panel_comes_twice(questions: dict[str, list[tuple[Query, Question]]]) -> None:
    for panel in questions.values():
        assert len({query for query, _ in panel}) == len({question.question for _, question in panel}) == len(panel)


def test_kinds_follow_each_other_and_mean_what_they_say(questions: dict[str, list[tuple[Query, Question]]]) -> None:
    shapes = {
        "single": 1,
        "comparison": 1,
        "bridge": 2,
        "composition": 2,
        "new_pair": 2,
        "three_hops": 3,
        "four_hops": 4,
    }
    for split, panel in questions.items():
        counts = Counter(question.type for _, question in panel)
        assert set(counts) == set(KINDS[split])
        assert max(counts.values()) - min(counts.values()) <= 1
        for query, question in panel:
            assert len(query.relations) == shapes[question.type]
            assert len(query.anchors) == (2 if question.type == "comparison" else 1)
            assert not any(pair in SHORTCUTS for pair in pairwise(query.relations))


def test_the_pairs_kept_for_ood_are_never_combined_elsewhere_but_their_relations_are() -> None:
    combined = {
        split: {q.relations for kind in KINDS[split] for q in candidates(split, kind, 0) if len(q.relations) == 2}
        for split in KINDS
    }
    assert combined["ood"] == set(HELD_OUT_PAIRS)
    for split in ("train", "id", "tune"):
        assert not combined[split] & set(HELD_OUT_PAIRS)
    assert combined["id"] | combined["tune"] <= combined["train"]
    assert len(combined["train"]) >= 80
    for first, second in HELD_OUT_PAIRS:
        assert first in {pair[0] for pair in combined["train"]}
        assert second in {pair[1] for pair in combined["train"]}


def test_every_relation_pair_and_comparison_is_asked_early(questions: dict[str, list[tuple[Query, Question]]]) -> None:
    asked = Counter((question.type, query.relations, query.most) for query, question in questions["train"])
    assert {r for kind, (r, *_), _ in asked if kind == "single"} == set(RELATIONS)
    pairs = {relations for kind, relations, _ in asked if kind in ("bridge", "composition")}
    assert pairs == {pair for pair in PAIRS if pair_kind(pair) in ("bridge", "composition")}
    assert {(relations[0], most) for kind, relations, most in asked if kind == "comparison"} == {
        c[:2] for c in COMPARISONS
    }
    assert set(COMPOSITES.values()) <= pairs


def test_a_number_names_the_same_question_in_any_order_and_another_seed_another_one() -> None:
    forwards = [draw_question("train", i, 0) for i in range(60)]
    assert forwards == [draw_question("train", i, 0) for i in reversed(range(60))][::-1]
    assert all(a != draw_question("train", i, 1) for i, a in enumerate(forwards))


@pytest.mark.parametrize(("split", "number", "found"), [("test", 0, "'test'"), ("train", -1, "-1")])
def test_what_does_not_exist_is_refused(split: str, number: int, found: str) -> None:
    with pytest.raises(ConfigError, match=f"expected .*, found {found}"):
        kind_of(split, number)


# -------------------------------------------------------------------------------------------------------------- wording
def test_questions_say_what_is_asked(questions: dict[str, list[tuple[Query, Question]]]) -> None:
    for query, question in (both for panel in questions.values() for both in panel):
        assert parse_question(question.question) == query


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_relation_is_asked_in_two_or_three_forms(relation: str) -> None:
    query = Query(("Velmor",), (relation,))
    forms = {write_question(query, Random(i)) for i in range(60)}
    assert 2 <= len(forms) <= 3
    assert all(parse_question(form) == query for form in forms)


@pytest.mark.parametrize(
    ("question", "query"),
    [
        ("Who founded Kelmir Works?", Query(("Kelmir Works",), ("founder",))),
        ("Where was the person who founded Kelmir Works born?", Query(("Kelmir Works",), ("founder", "birthplace"))),
        ("Name the mother of the author of Song of Kordun.", Query(("Song of Kordun",), ("author", "mother"))),
        ("Who is the maternal grandfather of Velmin Katlat?", Query(("Velmin Katlat",), ("mother", "father"))),
        ("What is the country of birth of Velmin Katlat?", Query(("Velmin Katlat",), ("birthplace", "country"))),
        (
            "How high is the highest mountain of the country of the birthplace of Velmin Katlat?",
            Query(("Velmin Katlat",), ("birthplace", "country", "highest_mountain", "height")),
        ),
        ("Which is longer, Kelmir River or Dorsan River?", Query(("Kelmir River", "Dorsan River"), ("length",), True)),
        (
            "Of Velmin Katlat and Selnak Dorsan, who is older?",
            Query(("Velmin Katlat", "Selnak Dorsan"), ("birth_year",), False),
        ),
    ],
)
def test_hand_made_questions_are_understood(question: str, query: Query) -> None:
    assert parse_question(question) == query


@pytest.mark.parametrize(
    "question", ["", "Who is the king of Kelmir?", "Who founded the Works?", "Which is longer, A or B?"]
)
def test_other_questions_are_refused(question: str) -> None:
    with pytest.raises(DataError, match="expected one of the published forms, found"):
        parse_question(question)
