"""DVC owns the data: hashes that are the same everywhere, regenerated when and only when something changed."""

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

import yaml

from empg.config import load_data
from empg.provenance import ENVIRONMENTS, PACKAGE, STAGES, sources

ROOT = Path(__file__).parents[2]
IDENTITY = "results/data/rooms.json"


def _md5(path: Path) -> str:
    """A file's or a folder's hash as DVC writes it to its lock; caches of compiled modules do not count."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    entries = [{"md5": _md5(p), "relpath": p.relative_to(path).as_posix()} for p in files]
    listed = json.dumps(sorted(entries, key=lambda e: e["relpath"]), sort_keys=True)
    return f"{hashlib.md5(listed.encode()).hexdigest()}.dir"


def make(project):
    return project.run("empg", "dvc", "rooms", "--out", IDENTITY)


def test_data_is_made_once_and_restored_from_the_cache(fresh):
    assert make(fresh).returncode == 0
    identity = json.loads((fresh.root / IDENTITY).read_text())
    lock = (fresh.root / "dvc.lock").read_text()
    assert yaml.safe_load(lock)["stages"]["data@rooms"]["outs"][0]["md5"] == identity["md5"]
    shutil.rmtree(fresh.root / "data")
    again = make(fresh)
    assert again.returncode == 0
    assert "empg data rooms" not in again.stderr, "generated again although the cache has it"
    assert (fresh.root / "data/rooms/train/tasks.jsonl").exists()
    assert json.loads((fresh.root / IDENTITY).read_text()) == identity
    assert (fresh.root / "dvc.lock").read_text() == lock


def test_other_content_than_the_lock_promises_is_refused(fresh):
    assert make(fresh).returncode == 0
    lock = fresh.root / "dvc.lock"
    content = yaml.safe_load(lock.read_text())
    content["stages"]["data@rooms"]["outs"][0]["md5"] = "0" * 32 + ".dir"
    promised = yaml.safe_dump(content)
    lock.write_text(promised)
    shutil.rmtree(fresh.root / "data")
    shutil.rmtree(fresh.root / ".dvc/cache")
    for _ in range(2):  # and again the next time
        result = make(fresh)
        assert result.returncode == 2
        assert "data/rooms: expected the content that dvc.lock names, 0000" in result.stderr
        assert lock.read_text() == promised


def test_a_changed_default_is_seen(fresh):
    """DVC sees the entry's own keys only."""
    assert make(fresh).returncode == 0
    before = json.loads((fresh.root / IDENTITY).read_text())
    config = fresh.root / "src/empg/config/data.py"
    text = config.read_text()
    assert text.count('= "small"') == 1
    config.write_text(text.replace('= "small"', '= "official"'))
    assert make(fresh).returncode == 0
    after = json.loads((fresh.root / IDENTITY).read_text())
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
    os.killpg(process.pid, signal.SIGKILL)  # and no wait: a zombie is as dead
    assert not (fresh.root / IDENTITY).exists()
    again = make(fresh)
    assert again.returncode == 0, again.stderr
    process.wait()


def test_an_unknown_data_set_is_the_users_mistake(fresh):
    result = fresh.run("empg", "dvc", "nowhere", "--out", IDENTITY)
    assert result.returncode == 2
    assert "config/data.yaml: expected the data set 'nowhere', found rooms, other_rooms" in result.stderr
    fresh.edit("dvc.yaml", lambda pipeline: pipeline["stages"]["data"]["foreach"].pop("rooms"))
    result = make(fresh)
    assert result.returncode == 2
    assert "dvc.yaml: stages.data.foreach: expected the data set 'rooms', found other_rooms" in result.stderr


def test_the_stage_depends_on_the_generators_source():
    """Its environment's whole folder, and the modules outside of it that the stage imports.

    DVC gives all data sets one list, so it has what any environment imports.
    """
    first, *shared = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["data"]["do"]["deps"]
    assert first == "src/empg/environments/${item.type}"
    imported = set()
    for environment in ENVIRONMENTS:
        folder = PACKAGE / "environments" / environment
        imported |= {path for path in sources(STAGES["data"], environment) if folder not in path.parents}
    assert [ROOT / path for path in shared] == sorted(imported)
    assert PACKAGE == ROOT / "src/empg"


def test_every_data_set_has_a_stage():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["data"]["foreach"]
    data = load_data(ROOT / "config/data.yaml")
    assert {name: item["type"] for name, item in stages.items()} == {name: d.type for name, d in data.items()}


def test_the_lock_belongs_to_this_source():
    """Whoever changes the generator commits the lock that goes with it; ``dvc repro`` and ``make run`` write it."""
    entries = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    assert "data@alfworld" in entries
    for name, entry in entries.items():
        found = {d["path"]: _md5(ROOT / d["path"]) for d in entry["deps"]}
        assert {d["path"]: d["md5"] for d in entry["deps"]} == found, f"{name}: run `dvc repro {name}`"
        data = yaml.safe_load((ROOT / "config/data.yaml").read_text())
        assert entry["params"]["config/data.yaml"] == {name.partition("@")[2]: data[name.partition("@")[2]]}
