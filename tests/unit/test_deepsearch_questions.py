"""Question files of each data set in its own form, and what is wrong with some."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from empg.environments.deepsearch.questions import Question, load_aliases, load_questions, write_context_corpus
from empg.environments.deepsearch.search.corpus import read_corpus
from empg.errors import DataError

DATA = Path(os.environ.get("EMPG_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "deepsearch"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"needs the test data: {DATA} is absent and EMPG_TEST_DATA does not name another place"
)

FLASHRAG = {"id": "dev_0", "question": "Who?", "golden_answers": ["Ann", "A. Lee", "Ann"], "metadata": {}}
HOTPOTQA = {
    "_id": "5a8b",
    "answer": "yes",
    "question": "Were they?",
    "type": "comparison",
    "level": "hard",
    "supporting_facts": [["Scott", 0], ["Ed Wood", 0], ["Scott", 2]],
    "context": [
        ["Ed Wood", ["He was born.", " He died."]],
        ["Scott", ["One."]],
        ["Ed Wood", ["He was born. He died."]],
    ],
}
TWO_WIKI = {
    "_id": "13f5",
    "type": "compositional",
    "question": "Where?",
    "answer": "USA",
    "answer_id": "Q30",
    "supporting_facts": [["Move", 0]],
    "evidences": [["Move", "country", "USA"]],
    "context": [["Move", ["Move is a film.", "It stars Gould."]], ["Blank", ["", " "]]],
}
MUSIQUE = {
    "id": "3hop1__141138_2053_52946",
    "question": "When?",
    "answer": "February 7, 2018",
    "answer_aliases": ["7 February"],
    "answerable": True,
    "question_decomposition": [],
    "paragraphs": [
        {"idx": 0, "title": "ABC", "paragraph_text": "A network.", "is_supporting": False},
        {"idx": 1, "title": "CBS", "paragraph_text": "Another.", "is_supporting": True},
    ],
}
EMBEDDED = {
    "id": "train-7",
    "question": "Who founded it?",
    "golden_answers": ["Velmor"],
    "metadata": {"type": "bridge", "supporting_titles": ["Orvane Works", "Velmor"]},
}

EXPECTED = {
    "flashrag": (FLASHRAG, Question("dev_0", "Who?", ("Ann", "A. Lee"))),
    "hotpotqa": (HOTPOTQA, Question("5a8b", "Were they?", ("yes",), "comparison", ("Scott", "Ed Wood"))),
    "2wiki": (TWO_WIKI, Question("13f5", "Where?", ("USA",), "compositional", ("Move",))),
    "musique": (
        MUSIQUE,
        Question("3hop1__141138_2053_52946", "When?", ("February 7, 2018", "7 February"), "3hop1", ("CBS",)),
    ),
    "embedded": (EMBEDDED, Question("train-7", "Who founded it?", ("Velmor",), "bridge", ("Orvane Works", "Velmor"))),
}


@pytest.mark.parametrize("form", EXPECTED)
def test_a_record_of_each_form_as_lines_and_as_one_json(tmp_path: Path, form: str) -> None:
    record, expected = EXPECTED[form]
    other = {**record, "_id" if "_id" in record else "id": "other"}
    (tmp_path / "lines.jsonl").write_text(f"{json.dumps(record)}\n\n{json.dumps(other)}\n", encoding="utf-8")
    (tmp_path / "one.json").write_text("\n " + json.dumps([record, other], indent=1), encoding="utf-8")
    for name in ("lines.jsonl", "one.json"):
        first, second = load_questions(tmp_path / name)
        assert first == expected
        assert second.id == "other"


def test_aliases_of_2wikimultihopqa_are_further_answers(tmp_path: Path) -> None:
    lines = [
        {"Q_id": "Q30", "aliases": ["United States", "USA"], "demonyms": ["American"]},
        {"Q_id": "Q1", "aliases": [], "demonyms": []},
    ]
    (tmp_path / "id_aliases.json").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    (tmp_path / "dev.json").write_text(json.dumps([TWO_WIKI]), encoding="utf-8")
    (question,) = load_questions(tmp_path / "dev.json", load_aliases(tmp_path / "id_aliases.json"))
    assert question.golden_answers == ("USA", "United States", "American")

    (tmp_path / "id_aliases.json").write_text('{"Q_id": "Q30", "aliases": [3]}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"id_aliases\.json: line 1: expected Q_id"):
        load_aliases(tmp_path / "id_aliases.json")


@needs_data
def test_real_questions_keep_their_type_and_evidence() -> None:
    questions = load_questions(DATA / "hotpotqa_distractor_dev_sample100.jsonl")
    assert questions[0].supporting_titles == ("VIVA Media", "Gesellschaft mit beschränkter Haftung")
    assert questions[0].golden_answers == ("Gesellschaft mit beschränkter Haftung",)
    assert sum(question.type == "bridge" for question in questions) == 85
    assert {question.type for question in questions} == {"bridge", "comparison"}
    assert {len(question.supporting_titles) for question in questions} == {2}

    popqa = {question.id: question for question in load_questions(DATA / "deepresearcher_dev_popqa.jsonl")}
    assert popqa["popqa_3868066"].golden_answers == ("Malcolm Kerr", "Malcolm H. Kerr", "Malcolm Hooper Kerr")


def test_contexts_of_every_form_become_a_corpus(tmp_path: Path) -> None:
    table = {"title": ["Lima"], "sentences": [["A city.", " In Peru."]]}
    hugging_face = {"id": "1", "question": "?", "golden_answers": ["x"], "metadata": {"context": table}}
    (tmp_path / "hotpot.json").write_text(json.dumps([HOTPOTQA, TWO_WIKI]), encoding="utf-8")
    (tmp_path / "lines.jsonl").write_text(f"{json.dumps(MUSIQUE)}\n{json.dumps(hugging_face)}\n", encoding="utf-8")
    assert write_context_corpus([tmp_path / "hotpot.json", tmp_path / "lines.jsonl"], tmp_path / "corpus.jsonl") == 7
    assert list(read_corpus(tmp_path / "corpus.jsonl")) == [
        ("0", "Ed Wood", "He was born. He died."),
        ("1", "Scott", "One."),
        ("2", "Move", "Move is a film. It stars Gould."),
        ("3", "Blank", ""),
        ("4", "ABC", "A network."),
        ("5", "CBS", "Another."),
        ("6", "Lima", "A city. In Peru."),
    ]


def without(record: dict[str, Any], *keys: str, **changes: Any) -> dict[str, Any]:
    """A copy without some keys and with others changed."""
    return {key: value for key, value in {**record, **changes}.items() if key not in keys}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (without(FLASHRAG, golden_answers=[]), r"\(id 'dev_0'\): expected golden_answers or an answer, found \[\]"),
        (without(FLASHRAG, golden_answers=["", " "]), r"expected golden_answers"),
        (without(FLASHRAG, golden_answers=[3]), r"expected golden_answers .*found \[3\]"),
        (without(FLASHRAG, golden_answers=None), r"expected golden_answers"),
        (without(HOTPOTQA, "answer"), r"\(id '5a8b'\): expected golden_answers or an answer, found \[\]"),
        (without(HOTPOTQA, answer=None), r"expected golden_answers or an answer"),
        (without(HOTPOTQA, supporting_facts=[[3, 0]]), r"expected the titles of supporting pages, found \[3\]"),
        (without(HOTPOTQA, supporting_facts="none"), r"expected the titles of supporting pages"),
        (without(MUSIQUE, answerable=False), r"marked as not answerable"),
        (without(FLASHRAG, "id"), r"expected an id and a question, found the fields"),
        (without(FLASHRAG, question=" "), r"expected an id and a question"),
        (without(FLASHRAG, question="\ud800"), r"expected an id and a question"),
        (["dev_0", "Who?"], r"expected a question as a JSON object"),
    ],
)
def test_a_bad_record_is_refused_by_file_and_record(tmp_path: Path, record: Any, message: str) -> None:
    good = {**FLASHRAG, "id": "good"}
    (tmp_path / "q.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(record)}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"q\.jsonl: line 2.*{message}"):
        load_questions(tmp_path / "q.jsonl")
    (tmp_path / "q.json").write_text(json.dumps([good, record]), encoding="utf-8")
    with pytest.raises(DataError, match=rf"q\.json: record 2.*{message}"):
        load_questions(tmp_path / "q.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected at least one question, found none"),
        ("[]", "expected at least one question, found none"),
        ("[{", "expected JSON"),
        ('{"id": "0"', "line 1: expected JSON"),
        ("<html>", "line 1: expected JSON"),
        (f"{json.dumps(FLASHRAG)}\n{json.dumps(FLASHRAG)}\n", r"line 2 .*found id 'dev_0' again"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "q.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"q\.jsonl: .*{message}|q\.jsonl: {message}"):
        load_questions(tmp_path / "q.jsonl")
    with pytest.raises(DataError, match=r"none\.json: expected a file of questions"):
        load_questions(tmp_path / "none.json")


@pytest.mark.parametrize(
    "context",
    [None, [], [["Lima"]], [[3, ["x"]]], [["Lima", [3]]], {"title": ["Lima"], "sentences": []}, [{"title": "x"}]],
)
def test_a_record_without_paragraphs_is_refused(tmp_path: Path, context: Any) -> None:
    (tmp_path / "q.json").write_text(json.dumps([without(HOTPOTQA, context=context)]), encoding="utf-8")
    with pytest.raises(DataError, match=r"record 1 \(id '5a8b'\): expected paragraphs with titles and texts"):
        write_context_corpus([tmp_path / "q.json"], tmp_path / "corpus.jsonl")
    assert not (tmp_path / "corpus.jsonl").exists()
