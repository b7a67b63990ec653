"""DVC owns the task data. This module makes a data set through its DVC stage and records DVC's hash of it."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import yaml

from empg.config import DataSet, load_data, read_yaml
from empg.errors import ConfigError, DataError
from empg.files import file_digest, read_json, write_json, write_text
from empg.locks import locks_needed
from empg.pipeline.job_files import write_sources
from empg.registry import did_you_mean
from empg.timing import timed

PIPELINE, IN_USE, LOCKFILE = Path("dvc.yaml"), Path("params.yaml"), Path("dvc.lock")


def run(name: str, config: Path, out: Path) -> None:
    """Make ``data/NAME`` if it is missing or outdated and write its identity to ``out``. Runs in the project's root.

    Raises :class:`ConfigError` for a name that the configuration lacks, and :class:`DataError` when DVC fails or the
    generator's output differs from what ``dvc.lock`` promises for the same configuration and source, since data must be
    the same on every machine. ``dvc.lock`` then stays as it was.
    """
    data = load_data(config)
    if name not in data:
        hint = did_you_mean(name, data)
        raise ConfigError(f"{config}: expected the data set {name!r}, found {', '.join(data)}{hint}")
    write_sources(name, data[name], Path("results"))
    temporary = Path(".dvc/tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    with (temporary / "empg.lock").open("w") as lock:
        # A second DVC fails instead of waiting for the first, so a lock of our own makes it wait. DVC inherits the lock
        # and holds it even if this process is killed and DVC lives on.
        with locks_needed(temporary):
            fcntl.flock(lock, fcntl.LOCK_EX)
        sources = file_digest(Path("results/sources") / name / "data.json")
        with timed("data", temporary / name, sources, out.with_suffix(".timing.json")):
            _forget_the_dead(temporary / "rwlock")
            _add_stage(name)
            entry = _reproduce(name, data[name], lock.fileno())
    output = entry["outs"][0]
    identity = {"name": name, "path": output["path"], "config": data[name].model_dump(mode="json")}
    write_json(out, identity | {key: output[key] for key in ("md5", "size", "nfiles")})


def _add_stage(name: str) -> None:
    """Give a data set its stage. `dvc status` is silent about data sets that nobody has asked for."""
    added = read_yaml(IN_USE) if IN_USE.exists() else {"in_use": {}}
    listed = next(entry["in_use"] for entry in read_yaml(PIPELINE)["vars"] if "in_use" in entry)
    if name not in listed and name not in added["in_use"]:
        added["in_use"][name] = {}
        write_text(IN_USE, yaml.safe_dump(added))


def _reproduce(name: str, data: DataSet, lock: int) -> dict[str, Any]:
    """Run the DVC stage if something has changed. Returns its entry in ``dvc.lock``."""
    promised = LOCKFILE.read_text(encoding="utf-8") if LOCKFILE.exists() else None
    before, after = _entry(name), _repro(name, lock)
    if before and promised and _made_from(before) == _made_from(after) and before["outs"] != after["outs"]:
        write_text(LOCKFILE, promised)
        expected, found = before["outs"][0], after["outs"][0]
        raise DataError(
            f"data/{name}: expected the content that {LOCKFILE} names, {expected['md5']} ({expected['size']} bytes), "
            f"found {found['md5']} ({found['size']} bytes) from the same configuration and source; "
            f"if the new content is right, remove the entry data@{name} from {LOCKFILE}"
        )
    # DVC compares only the keys that the entry has. It misses a changed default of a key that is left out.
    if read_json(Path("data") / name / "manifest.json")["config"] != data.model_dump(mode="json"):
        after = _repro(name, lock, "--force")
    return after


def _forget_the_dead(path: Path) -> None:
    """Remove DVC's own lock file if no live DVC wrote it. A zombie or a reused process id would block DVC."""
    for pid in set(re.findall(r'"pid": (\d+)', path.read_text())) if path.exists() else ():
        try:
            process = psutil.Process(int(pid))
            if process.status() != psutil.STATUS_ZOMBIE and "dvc" in " ".join(process.cmdline()):
                return
        except psutil.Error:
            continue
    path.unlink(missing_ok=True)


def _repro(name: str, lock: int, *options: str) -> dict[str, Any]:
    """Run ``dvc repro`` for this stage alone with this interpreter. Returns its entry in ``dvc.lock``."""
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", *options, f"data@{name}"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    result = subprocess.run(command, env=os.environ | {"PATH": path}, stdout=sys.stderr, pass_fds=[lock], check=False)
    if result.returncode:
        raise DataError(
            f"data/{name}: `dvc repro data@{name}` failed with code {result.returncode}; its messages are above"
        )
    entry = _entry(name)
    assert entry is not None, f"{LOCKFILE} has no entry data@{name} after `dvc repro`"
    return entry


def _entry(name: str) -> dict[str, Any] | None:
    if not LOCKFILE.exists():
        return None
    entry = (read_yaml(LOCKFILE) or {}).get("stages", {}).get(f"data@{name}")
    return entry if isinstance(entry, dict) else None


def _made_from(entry: dict[str, Any]) -> list[Any]:
    return [entry.get(key) for key in ("cmd", "deps", "params")]
