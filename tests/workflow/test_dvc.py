"""DVC owns the data: hashes are the same everywhere, and data is regenerated only when something has changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from empg.config import load_data, load_environments, load_study
from empg.pipeline.job_files import write_sources

from .conftest import Project

ROOT = Path(__file__).parents[2]
IDENTITY = "results/data/rooms.json"


def make(project):
    return project.run("empg", "dvc", "rooms", "--out", IDENTITY)


@pytest.fixture(scope="module")
def once(unbuilt, tmp_path_factory):
    """The project after its data were made."""
    project = Project(Path(shutil.copytree(unbuilt, tmp_path_factory.mktemp("made") / "empg")))
    assert make(project).returncode == 0
    return project.root


@pytest.fixture
def made(once, tmp_path):
    """The test's own project, whose data were made."""
    return Project(Path(shutil.copytree(once, tmp_path / "empg", symlinks=True)))


def test_data_is_made_once_and_restored_from_the_cache(made):
    identity = json.loads((made.root / IDENTITY).read_text())
    lock = (made.root / "dvc.lock").read_text()
    assert yaml.safe_load(lock)["stages"]["data@rooms"]["outs"][0]["md5"] == identity["md5"]
    shutil.rmtree(made.root / "data")
    again = make(made)
    assert again.returncode == 0
    assert "empg data rooms" not in again.stderr, "generated again although the cache has it"
    assert (made.root / "data/rooms/train/tasks.jsonl").exists()
    assert json.loads((made.root / IDENTITY).read_text()) == identity
    assert (made.root / "dvc.lock").read_text() == lock


def test_other_content_than_the_lock_promises_is_refused(made):
    lock = made.root / "dvc.lock"
    content = yaml.safe_load(lock.read_text())
    content["stages"]["data@rooms"]["outs"][0]["md5"] = "0" * 32 + ".dir"
    promised = yaml.safe_dump(content)
    lock.write_text(promised)
    shutil.rmtree(made.root / "data")
    shutil.rmtree(made.root / ".dvc/cache")
    for _ in range(2):  # and again the next time
        result = make(made)
        assert result.returncode == 2
        assert "data/rooms: expected the content that dvc.lock names, 0000" in result.stderr
        assert lock.read_text() == promised


def test_a_changed_default_is_seen(made):
    """DVC itself compares only the keys that the entry has."""
    before = json.loads((made.root / IDENTITY).read_text())
    config = made.root / "src/empg/environments/alfworld/registration.py"
    text = config.read_text()
    assert text.count('= "small"') == 1
    config.write_text(text.replace('= "small"', '= "official"'))
    assert make(made).returncode == 0
    after = json.loads((made.root / IDENTITY).read_text())
    assert after["config"]["profile"] == "official"
    assert after["md5"] != before["md5"]


def test_a_killed_run_blocks_nothing(fresh):
    command = [sys.executable, "-m", "empg", "dvc", "rooms", "--out", IDENTITY]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=fresh.root, env=fresh.env, start_new_session=True, **quiet)
    lock = fresh.root / ".dvc/tmp/rwlock"
    while not lock.exists() or '"data/rooms' not in lock.read_text().replace(f"{fresh.root}/", ""):
        assert process.poll() is None, "ended before it was to be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # without wait(), so that it stays a zombie, which counts as dead
    assert not (fresh.root / IDENTITY).exists()
    again = make(fresh)
    assert again.returncode == 0, again.stderr
    process.wait()
    timing = json.loads((fresh.root / "results/data/rooms.timing.json").read_text())
    assert timing["processes"] == 2
    assert timing["cpu_seconds"] > 0


def test_an_unknown_data_set_is_the_users_mistake(fresh):
    result = fresh.run("empg", "dvc", "nowhere", "--out", IDENTITY)
    assert result.returncode == 2
    assert "config/data.yaml: expected the data set 'nowhere', found rooms, other_rooms" in result.stderr


def stages(root):
    command = [sys.executable, "-m", "dvc", "stage", "list", "--all", "--name-only"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split()


def test_the_default_studys_data_sets_have_stages():
    """``params.yaml`` of this checkout may add others."""
    study = load_study(
        ROOT / "config/config.yaml",
        load_data(ROOT / "config/data.yaml"),
        load_environments(ROOT / "config/environments.yaml"),
    )
    assert {f"data@{study.data_set(name)}" for name in study.environments} <= set(stages(ROOT))


def test_status_speaks_of_the_data_sets_in_use_alone(fresh):
    """The configuration has two data sets, and the study uses one of them."""
    fresh.edit("dvc.yaml", lambda pipeline: pipeline["vars"][1].update(in_use={}))
    assert make(fresh).returncode == 0
    assert stages(fresh.root) == ["data@rooms"]
    status = fresh.run("dvc", "status")
    assert "up to date" in status.stdout, status.stdout


def test_the_lock_belongs_to_this_source(tmp_path):
    """Whoever changes the generator commits the lock that goes with it; ``dvc repro`` and ``make run`` write it."""
    entries = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    data, written = load_data(ROOT / "config/data.yaml"), yaml.safe_load((ROOT / "config/data.yaml").read_text())
    assert "data@alfworld" in entries
    for stage, entry in entries.items():
        name = stage.partition("@")[2]
        write_sources(name, data[name], tmp_path)
        (dependency,) = entry["deps"]
        assert dependency["path"] == f"results/sources/{name}/data.json"
        found = hashlib.md5((tmp_path / "sources" / name / "data.json").read_bytes()).hexdigest()
        assert dependency["md5"] == found, f"{name}: run `empg dvc {name} --out results/data/{name}.json`"
        assert entry["params"]["config/data.yaml"] == {f"data_sets.{name}": written["data_sets"][name]}
