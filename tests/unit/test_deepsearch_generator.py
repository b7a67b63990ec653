"""The encyclopaedia as text and as files: what pages say, and that a written data set is read back as it was drawn."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from empg.environments.base import Task
from empg.environments.deepsearch.generated import writer
from empg.environments.deepsearch.generated.composer import KINDS
from empg.environments.deepsearch.generated.generator import draw_world
from empg.environments.deepsearch.generated.phrases import WORDS
from empg.environments.deepsearch.generated.prose import read_page, write_pages
from empg.environments.deepsearch.generated.writer import write_dataset
from empg.environments.deepsearch.search.corpus import read_corpus
from empg.environments.deepsearch.tasks import (
    GeneratedQuestions,
    OfficialQuestions,
    StoredQuestions,
    open_index,
)
from empg.errors import ConfigError, DataError

#: The bytes of a data set, which no machine, process or Python version may change.
FROZEN = "b55a996c5bd1be7394c4d71bfb48bb93aae131c411465d4453a18d7cda8ef41f"
SIZES = {"train": 12, "id": 8, "tune": 4, "ood": 6, "chains": 2}

DIGEST_SCRIPT = """
import sys
from empg.environments.deepsearch.generated.writer import write_dataset
write_dataset(sys.argv[1], seed=3, sizes={"train": 12, "id": 8, "tune": 4, "ood": 6, "chains": 2})
"""


def digest(folder: Path) -> str:
    """The hash of every file's path and content below a folder."""
    result = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        result.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return result.hexdigest()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small data set on disk."""
    write_dataset(tmp_path / "data", seed=3, sizes=SIZES)
    return tmp_path / "data"


# --------------------------------------------------------------------------------------------------------------- pages
def test_pages_state_each_fact_in_a_sentence_and_a_reader_finds_them_again() -> None:
    world = draw_world(0)
    facts: dict[str, dict[str, str]] = {}
    for fact in world.facts:
        facts.setdefault(fact.subject, {})[fact.relation] = fact.object
    pages = list(write_pages(world, 0))
    assert [title for title, _ in pages] == [entity.title for entity in world.entities]
    for title, text in pages:
        assert read_page(title, text) == facts[title]
        assert text.count(".") == len(facts[title])
        assert 2 <= len(facts[title]) <= 4
        assert len(text.split()) <= 45
        assert text.startswith(title)
        assert len(re.findall(rf"\b{title}\b", text)) == 1


def test_every_form_of_every_relation_is_used() -> None:
    text = " ".join(text for _, text in write_pages(draw_world(0), 0))
    for words in WORDS.values():
        assert len(words.sentences) >= 2
        counts = []
        for form in words.sentences:
            before, after = form.format(s="", p="", o="\0").split("\0")
            counts.append(len(re.findall(rf"{before}[A-Z\d][^.]*{re.escape(after)}", text)))
        assert min(counts) > 5, words


def test_a_capital_says_so_on_its_own_page() -> None:
    pages, world = dict(write_pages(draw_world(0), 0)), draw_world(0)
    said = {title for title, text in pages.items() if "is the capital of" in text}
    capitals = {fact.object for fact in world.facts if fact.relation == "capital"}
    assert len(capitals) == 36
    assert said == capitals


@pytest.mark.parametrize(
    ("title", "text", "facts"),
    [
        (
            "Kelmir Works",
            "Kelmir Works' founder is Velmin Katlat. It is based in Zanven. It dates from 1901.",
            {"founder": "Velmin Katlat", "city": "Zanven", "founding_year": "1901"},
        ),
        (
            "Velmin Katlat",
            "Velmin Katlat was born in Zanven. He was born in the year 1874. His only child is Sordun Katlat.",
            {"birthplace": "Zanven", "birth_year": "1874", "child": "Sordun Katlat"},
        ),
        (
            "Dorsan River",
            "Dorsan River is 340 km long. It rises on Mount Kelvas.",
            {"length": "340 km", "source": "Mount Kelvas"},
        ),
        ("Zanven", "Zanven is the capital of Lorsikmag. It stands on Dorsan …", {"country": "Lorsikmag"}),
        ("Zanven", "Zanven is a fine town. Kelmir lies in Lorsikmag. It has 3 mayors.", {}),
        ("Zanven", "", {}),
    ],
)
def test_hand_made_pages_are_read(title: str, text: str, facts: dict[str, str]) -> None:
    assert read_page(title, text) == facts


# ---------------------------------------------------------------------------------------------------------------- files
def test_the_bytes_are_frozen_and_do_not_depend_on_the_hash_seed(dataset: Path, tmp_path: Path) -> None:
    assert digest(dataset) == FROZEN
    environment = {**os.environ, "PYTHONHASHSEED": "42"}
    subprocess.run([sys.executable, "-c", DIGEST_SCRIPT, str(tmp_path / "again")], check=True, env=environment)
    assert digest(tmp_path / "again") == FROZEN


def test_files_have_the_forms_of_the_field(dataset: Path) -> None:
    passages = list(read_corpus(dataset / "corpus.jsonl"))
    assert len(passages) == len(draw_world(3).entities)
    assert [(p.title, p.text) for p in passages] == list(write_pages(draw_world(3), 3))
    assert [p.id for p in passages] == [str(i) for i in range(len(passages))]
    first = json.loads((dataset / "corpus.jsonl").read_text().splitlines()[0])
    assert first == {"id": "0", "contents": f'"{passages[0].title}"\n{passages[0].text}'}
    record = json.loads((dataset / "chains" / "questions.jsonl").read_text().splitlines()[1])
    assert list(record) == ["id", "question", "golden_answers", "metadata"]
    assert record["id"] == "chains-1"
    assert record["metadata"]["type"] == "four_hops"
    assert len(record["metadata"]["supporting_titles"]) == 4
    entry = json.loads((dataset / "chains" / "tasks.jsonl").read_text().splitlines()[1])
    assert (entry["split"], entry["id"], entry["type"]) == ("chains", 1, "four_hops")


def test_stored_questions_are_the_drawn_ones(dataset: Path) -> None:
    stored, drawn = StoredQuestions(dataset), GeneratedQuestions(3)
    for split, size in SIZES.items():
        assert stored.tasks(split) == drawn.tasks(split, range(size))
        assert Counter(task.type for task in stored.tasks(split)).keys() == set(KINDS[split])
        for task in stored.tasks(split):
            assert stored.question(task) == drawn.question(task)


def test_panels_start_where_they_are_told_and_train_at_0(tmp_path: Path) -> None:
    write_dataset(tmp_path, seed=3, sizes={"train": 4, "id": 4}, panel_start=1000)
    stored, drawn = StoredQuestions(tmp_path), GeneratedQuestions(3)
    assert [task.id for task in stored.tasks("train")] == [0, 1, 2, 3]
    assert [task.id for task in stored.tasks("id")] == [1000, 1001, 1002, 1003]
    assert all(stored.question(task) == drawn.question(task) for task in stored.tasks("id"))


def test_a_split_is_replaced_whole_or_not_at_all(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(dataset / "train")

    def full_disk(*_: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "question_line", full_disk)
        with pytest.raises(OSError, match="full disk"):
            write_dataset(dataset, seed=4, sizes={"train": 4})
    assert digest(dataset / "train") == before
    with pytest.raises(DataError, match=r"corpus.sha256: expected a file that the data stage writes"):
        StoredQuestions(dataset).corpus()
    write_dataset(dataset, seed=3, sizes={"train": 2})
    assert len(StoredQuestions(dataset).tasks("train")) == 2
    assert StoredQuestions(dataset).corpus() == dataset / "corpus.jsonl"


def test_damaged_files_are_named(dataset: Path) -> None:
    (task, *_) = StoredQuestions(dataset).tasks("train")
    path = dataset / "train" / "questions.jsonl"
    content = path.read_text()
    path.write_text(content.replace('"train-1"', '"train-x"'))
    with pytest.raises(DataError, match=r"train/questions.jsonl: line 2: expected sha256 [0-9a-f]+, found [0-9a-f]+"):
        StoredQuestions(dataset).question(task)
    path.write_text("".join(content.splitlines(keepends=True)[:5]))
    with pytest.raises(DataError, match=r"train/questions.jsonl: expected 12 lines as in tasks.jsonl, found 5"):
        StoredQuestions(dataset).question(task)
    path.unlink()
    with pytest.raises(DataError, match=r"train/questions.jsonl: expected a file .*, found: No such file"):
        StoredQuestions(dataset).question(task)
    with pytest.raises(DataError, match=r"id/tasks.jsonl: expected task 99, found no such id"):
        StoredQuestions(dataset).question(Task("deepsearch", "id", 99, "single"))
    with pytest.raises(DataError, match=r"test/tasks.jsonl: expected a file"):
        StoredQuestions(dataset).tasks("test")
    (dataset / "train" / "tasks.jsonl").write_text('{"id": 0}\n')
    with pytest.raises(DataError, match=r"train/tasks.jsonl: expected one JSON object a line"):
        StoredQuestions(dataset).tasks("train")
    with (dataset / "corpus.jsonl").open("a") as corpus:
        corpus.write("\n")
    with pytest.raises(DataError, match=r"corpus.jsonl: expected the sha256 in .*corpus.sha256"):
        StoredQuestions(dataset).corpus()


def test_unknown_splits_are_refused_before_anything_is_drawn() -> None:
    with pytest.raises(ConfigError, match="found 'test'"):
        GeneratedQuestions(0).tasks("test", range(1))


def test_the_index_is_built_once_in_the_cache_folder(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = digest(dataset)
    index = open_index(StoredQuestions(dataset).corpus())
    title, text = next(write_pages(draw_world(3), 3))
    page = index.page(title)
    assert page is not None
    assert page.text == text
    (folder,) = (p for p in (tmp_path / "cache" / "empg" / "deepsearch").iterdir() if p.is_dir())
    built = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert len(open_index(dataset / "corpus.jsonl")) == len(index)
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == built
    assert digest(dataset) == before


# ------------------------------------------------------------------------------------------------------ the user's data
def test_official_questions_are_read_in_the_order_of_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.jsonl").write_text(
        '{"id": "b", "question": "Who?", "golden_answers": ["Ada", "Ada L."], "metadata": {"type": "bridge"}}\n'
        '{"id": "a", "question": "When?", "golden_answers": ["1843"]}\n'
    )
    (tmp_path / "corpus.jsonl").write_text('{"id": "0", "contents": "\\"Ada\\"\\nAda wrote in 1843."}\n')
    monkeypatch.setenv("DEEPSEARCH_DATA", str(tmp_path))
    official = OfficialQuestions()
    first, second = official.tasks("train")
    assert first == Task("deepsearch", "train", 0, "bridge")
    assert official.question(first).golden_answers == ("Ada", "Ada L.")
    assert official.question(second).question == "When?"
    assert official.corpus() == tmp_path / "corpus.jsonl"
    with pytest.raises(DataError, match=r"train.jsonl: expected a task id below 2, found 2"):
        official.question(Task("deepsearch", "train", 2, "question"))
    with pytest.raises(DataError, match=r"dev.jsonl: expected a file of questions, found none; set DEEPSEARCH_DATA"):
        official.tasks("dev")


def test_absent_official_data_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEEPSEARCH_DATA", raising=False)
    with pytest.raises(DataError, match=r"DEEPSEARCH_DATA: expected a folder, found it unset; set DEEPSEARCH_DATA"):
        OfficialQuestions()
    with pytest.raises(DataError, match=r"corpus.jsonl: expected a corpus, found none; set DEEPSEARCH_DATA"):
        OfficialQuestions(tmp_path).corpus()
