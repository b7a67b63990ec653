"""What the stages see of a data set: its training tasks by number, and what identifies data that stays where it is."""

from __future__ import annotations

import gc
import hashlib
import json
from pathlib import Path

import pytest

from empg.config import ENVIRONMENTS
from empg.environments import data as data_stage
from empg.environments.datasets import open_dataset
from empg.files import read_json

EMBEDDED = ("alfworld", "webshop", "deepsearch")


def data(environment: str, source: str):
    return ENVIRONMENTS[environment].data(type=environment, source=source)


@pytest.mark.parametrize("environment", EMBEDDED)
def test_embedded_data_has_a_training_task_for_every_number(environment: str, tmp_path: Path) -> None:
    dataset = open_dataset(data(environment, "embedded"), tmp_path)
    tasks = [dataset.training_task(number) for number in (0, 1, 5000)]
    assert [(task.environment, task.split, task.id) for task in tasks] == [
        (environment, "train", i) for i in (0, 1, 5000)
    ]


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text(json.dumps({"id": "0", "contents": '"Lima"\nThe capital of Peru.'}) + "\n")
    lines = [{"id": str(i), "question": f"Where? {i}", "golden_answers": ["Lima"]} for i in range(2)]
    (folder / "train.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    monkeypatch.setenv("DEEPSEARCH_DATA", str(folder))
    return folder


def test_other_data_repeats(questions: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data("deepsearch", "official"), tmp_path)
    assert [dataset.training_task(number).id for number in range(5)] == [0, 1, 0, 1, 0]


def test_the_manifest_tells_the_users_files_apart(questions: Path, tmp_path: Path) -> None:
    """A run's input hash is made of the manifest's outputs, so other files must change it."""
    found = []
    for text in (None, '{"id": "9", "question": "Who?", "golden_answers": ["She"]}\n'):
        if text:
            (questions / "train.jsonl").write_text(text)
        data_stage.run(data("deepsearch", "official"), tmp_path / "out")
        listed = dict(line.split("  ")[::-1] for line in (tmp_path / "out/files.sha256").read_text().splitlines())
        assert listed["train.jsonl"] == hashlib.sha256((questions / "train.jsonl").read_bytes()).hexdigest()
        assert set(listed) == {"corpus.jsonl", "train.jsonl"}
        found.append(read_json(tmp_path / "out/manifest.json")["outputs"])
    assert set(found[0]) == set(found[1]) == {"files.sha256"}
    assert found[0] != found[1]


def test_a_retriever_elsewhere_is_closed_with_its_data_set(tmp_path: Path) -> None:
    interface = {"retriever": "http://127.0.0.1:1"}
    dataset = open_dataset(data("deepsearch", "embedded"), tmp_path, interface)
    (retriever,) = {dataset.arena(5).make().retriever for _ in range(2)}
    assert not retriever._client.is_closed
    del dataset
    gc.collect()
    assert retriever._client.is_closed
