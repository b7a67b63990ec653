"""Exact match and F1 against values worked out by hand, on gold answers of each data set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.environments.deepsearch.questions import load_questions
from empg.environments.deepsearch.scoring import exact_match, f1_score, normalise_answer

DATA = Path(os.environ.get("EMPG_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "deepsearch"
words = st.lists(st.sampled_from(["a", "the", "No", "yes", "Lima,", "of", "peru", "U.S."]), max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The English Water Spaniel", "english water spaniel"),
        ("  A\tMan, a plan:   an ape ", "man plan ape"),
        ("7,531", "7531"),
        ("U.S.A.", "usa"),
        ("Ya'akov", "yaakov"),
        ("twenty-one", "twentyone"),  # punctuation goes, it does not part words
        ("Theatre another atlas", "theatre another atlas"),  # articles are whole words
        ("Jaén — “Spain”", "jaén — “spain”"),  # only ASCII punctuation goes
        ("The", ""),
    ],
)
def test_normalisation(answer: str, expected: str) -> None:
    assert normalise_answer(answer) == expected


# question id, prediction, exact match, F1
CASES = {
    "deepresearcher_dev_2wiki.jsonl": [
        ("2wiki_f3fea6b40bdc11eba7f7acde48001122", "the kingdom of Sicily.", True, 1.0),
        ("2wiki_f3fea6b40bdc11eba7f7acde48001122", "Sicily", False, 0.5),  # P 1/1, R 1/3
        ("2wiki_dd1b6eb6087e11ebbd6bac1f6bf848b6", "Yes.", True, 1.0),
        ("2wiki_dd1b6eb6087e11ebbd6bac1f6bf848b6", "no", False, 0.0),
        ("2wiki_dd1b6eb6087e11ebbd6bac1f6bf848b6", "yes they were", False, 0.0),  # no part of a closed answer counts
        ("2wiki_512a07dc0bda11eba7f7acde48001122", "Jaen", False, 0.0),  # accents count
    ],
    "deepresearcher_dev_hotpotqa.jsonl": [
        ("hotpotqa_5a7bc1bf55429927d897c033", "english water spaniel", True, 1.0),
        ("hotpotqa_5a7bc1bf55429927d897c033", "Water spaniel, the old one", False, 4 / 7),  # P 2/4, R 2/3
        ("hotpotqa_5add64e35542992200553ae8", "Pound Puppies", False, 4 / 9),  # gold: 7 words without "the"
    ],
    "deepresearcher_dev_musique.jsonl": [
        ("musique_2hop__252311_366220", "Mike  Medavoy", True, 1.0),
        ("musique_3hop1__141138_2053_52946", "February 7 2018", True, 1.0),
        ("musique_3hop1__141138_2053_52946", "in February 2018", False, 2 / 3),  # P 2/3, R 2/3
        ("musique_4hop1__726391_153080_33952_33939", "7531", True, 1.0),
        ("musique_4hop1__726391_153080_33952_33939", "7531 people", False, 2 / 3),  # P 1/2, R 1/1
    ],
    "deepresearcher_dev_popqa.jsonl": [
        ("popqa_4174473", "Jacob", True, 1.0),
        ("popqa_4174473", "israel", True, 1.0),  # an alias
        ("popqa_4174473", "Yaakov.", True, 1.0),
        ("popqa_4174473", "Jacob or Israel", False, 0.5),  # P 1/3, R 1/1 with either
        ("popqa_3868066", "Malcolm H Kerr", True, 1.0),
        ("popqa_3868066", "Hooper Kerr", False, 0.8),  # best of the three: P 2/2, R 2/3
    ],
    "deepresearcher_test_bamboogle.jsonl": [
        ("Bamboogle_39", "a wool merchant", True, 1.0),
        ("Bamboogle_98", "28 March 1969", False, 1.0),  # F1 knows no order
        ("Bamboogle_59", "in 2012", False, 2 / 3),
        ("Bamboogle_59", "", False, 0.0),
    ],
}


@pytest.mark.skipif(
    not DATA.is_dir(), reason=f"needs the test data: {DATA} is absent and EMPG_TEST_DATA does not name another place"
)
@pytest.mark.parametrize("name", CASES)
def test_answers_to_questions_of_each_data_set(name: str) -> None:
    questions = {question.id: question for question in load_questions(DATA / name)}
    assert len(questions) == 125
    for number, prediction, right, f1 in CASES[name]:
        golden = questions[number].golden_answers
        assert exact_match(prediction, golden) is right, (number, prediction)
        assert f1_score(prediction, golden) == pytest.approx(f1, abs=1e-12), (number, prediction)
    for question in questions.values():
        for golden in question.golden_answers:
            assert exact_match(f"The {golden.upper()}!", question.golden_answers)


@pytest.mark.parametrize(
    ("prediction", "golden", "f1"),
    [
        ("no", ["no one"], 0.0),
        ("no one", ["no"], 0.0),
        ("noanswer", ["noanswer"], 1.0),
        ("yes or no", ["yes"], 0.0),
        ("the", ["A"], 1.0),  # both empty once normalised: equal
        ("", ["Lima"], 0.0),
        ("Lima", [""], 0.0),
        ("new new york", ["New York City"], 2 / 3),  # a word counts as often as both have it
        ("Lima", [], 0.0),
    ],
)
def test_corners(prediction: str, golden: list[str], f1: float) -> None:
    assert f1_score(prediction, golden) == pytest.approx(f1, abs=1e-12)


@given(words, st.lists(words, min_size=1, max_size=3))
def test_exact_match_and_only_word_equality_earn_the_full_f1(prediction: str, golden: list[str]) -> None:
    f1 = f1_score(prediction, golden)
    assert 0.0 <= f1 <= 1.0
    assert not exact_match(prediction, golden) or f1 == 1.0
    bags = [sorted(normalise_answer(g).split()) for g in golden]
    assert f1 < 1.0 or sorted(normalise_answer(prediction).split()) in bags
    assert f1 == max(f1_score(g, [prediction]) for g in golden)  # symmetric
