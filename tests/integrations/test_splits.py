"""Opening any registered environment, with and without the files of the data stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from empg.environments import data as data_stage
from empg.environments.base import StepResult, Task
from empg.errors import ConfigError, DataError
from empg.integrations.splits import Split, open_dataset

from .conftest import PLAYERS

SIZES = {
    "alfworld": {"train": 6, "valid_seen": 6, "valid_unseen": 2, "tune": 2},
    "webshop": {"train": 6, "valid": 6, "test": 2, "tune": 2},
    "deepsearch": {"train": 6, "id": 6, "ood": 2, "tune": 2},
}
PANEL = {"alfworld": "valid_seen", "webshop": "valid", "deepsearch": "id"}


@pytest.fixture(scope="module", params=SIZES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An environment and a folder of it, as ``empg data`` writes it."""
    from empg.config import ENVIRONMENTS

    name = request.param
    folder = tmp_path_factory.mktemp(name)
    data_stage.run(ENVIRONMENTS[name].data(sizes=SIZES[name], panel_start=40), folder)
    return name, folder


def play(split: Split, task: Task, name: str) -> list[str | StepResult]:
    """Everything that an episode of the expert says."""
    environment, expert = split.arena.make(), PLAYERS[name].expert()
    transcript: list[str | StepResult] = [environment.reset(task)]
    observation, done = str(transcript[0]), False
    while not done:
        result = environment.step(expert.act(observation)[1])
        transcript.append(result)
        observation, done = result.observation, result.done
    return transcript


@pytest.mark.parametrize("panel", [False, True])
def test_tasks_and_episodes_are_the_same_with_and_without_files(written, panel):
    name, folder = written
    stored = Split(open_dataset(name, data=folder), PANEL[name] if panel else "train", 30)
    settings = {"sizes": SIZES[name], "panel_start": 40}
    drawn = Split(open_dataset(name, settings=settings), stored.name, 30)
    assert drawn.tasks == stored.tasks
    assert [task.id for task in drawn.tasks] == list(range(40, 46) if panel else range(6))
    for task in drawn.tasks[:3]:
        transcript = play(drawn, task, name)
        assert transcript == play(stored, task, name)
        assert transcript[-1].reward == 1.0


def test_training_tasks_have_any_number_where_they_are_drawn():
    split = Split(open_dataset("alfworld", settings={"sizes": SIZES["alfworld"]}), "train", 30)
    first, other = (play(split, split.task(number), "alfworld") for number in (5, 123_456))
    assert first != other
    assert other[-1].reward == 1.0
    panel = Split(open_dataset("alfworld", settings={"sizes": SIZES["alfworld"]}), "tune", 30)
    with pytest.raises(DataError, match=r"expected the id of a task \(0 to 1\), found 2"):
        panel.task(2)
    with pytest.raises(DataError, match="found -1"):
        split.task(-1)


def test_files_are_written_once_and_for_all_processes(tmp_path):
    code = (
        "import json, sys; from empg.integrations.splits import *; "
        "s = Split(open_dataset('deepsearch', settings=json.loads(sys.argv[1])), 'train', 9); "
        "e = s.arena.make(); print(e.reset(s.tasks[0]))"
    )
    command = [sys.executable, "-c", code, json.dumps({"sizes": SIZES["deepsearch"]})]
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    processes = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert printed[0].startswith("Question: ")
    assert all(one == other for one, other in pairwise(printed))
    (folder,) = (tmp_path / "empg/data").iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    subprocess.run(command, env=env, check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    other = [*command[:3], json.dumps({"sizes": SIZES["deepsearch"], "seed": 1})]
    subprocess.run(other, env=env, check=True, capture_output=True)
    assert len(list((tmp_path / "empg/data").iterdir())) == 2, "other settings, another folder"


def test_no_torch_is_imported():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
        "from empg.integrations.splits import *; s = Split(open_dataset('webshop'), 'train', 9); "
        "print(s.arena.make().reset(s.task(3)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.startswith("WebShop")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"environment": "alfwrld"}, "found 'alfwrld'; did you mean alfworld?"),
        ({"environment": "alfworld", "settings": {"sede": 1}}, "settings of alfworld: sede: "),
        ({"environment": "deepsearch", "interface": {"top_k": 0}}, "interface of deepsearch: top_k: .* found 0"),
        ({"environment": "alfworld", "data": "there", "settings": {"seed": 1}}, "settings: expected none beside data"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        open_dataset(**arguments)


def test_wrong_folders_are_named(written, tmp_path):
    name, folder = written
    with pytest.raises(DataError, match=r"manifest.json: expected a JSON file, found none"):
        open_dataset(name, data=tmp_path)
    other = next(iter(SIZES.keys() - {name}))
    with pytest.raises(DataError, match=f"expected a data set of type {other}, found '{name}'"):
        open_dataset(other, data=folder)
    with pytest.raises(DataError):
        Split(open_dataset(name, data=folder), "nowhere", 9).tasks  # noqa: B018


def test_official_data_are_never_copied(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DEEPSEARCH_DATA", str(tmp_path))
    (tmp_path / "corpus.jsonl").write_text('{"id": "0", "contents": "\\"Peru\\"\\nLima is its capital."}\n')
    (tmp_path / "train.jsonl").write_text('{"id": "a", "question": "Capital of Peru?", "golden_answers": ["Lima"]}\n')
    split = Split(open_dataset("deepsearch", settings={"source": "official"}), "train", 9)
    environment = split.arena.make()
    assert environment.reset(split.tasks[0]) == "Question: Capital of Peru?"
    assert environment.step("<answer>Lima</answer>").reward == 1.0
    assert not (tmp_path / "cache/empg/data").exists()
