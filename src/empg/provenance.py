"""Where a result came from: the code, configuration and inputs behind every output folder, with hashes.

A stage's folder ends with ``manifest.json``, written last. It holds no time and no host, so identical results have
identical manifests; how long a stage took is in ``timing.json``.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl
import psutil
from filelock import FileLock, Timeout
from pydantic import BaseModel

from empg.errors import DataError
from empg.files import atomic_path, read_json, write_json
from empg.schema import Schema, write_table

MANIFEST, TIMING, CHECKPOINT, LOCK = "manifest.json", "timing.json", "checkpoint", ".lock"
PACKAGE = Path(__file__).parent
# The module of each stage.
STAGES = {
    "data": "empg.environments.data",
    "warmstart": "empg.training.warmstart",
    "rollouts": "empg.rollouts.collect",
    "train": "empg.training.rl",
    "evaluate": "empg.rollouts.evaluate",
    "report": "empg.report.page",
    "track": "empg.tracking.tracker",
}
# Modules that cannot change a stage's result except through its resolved configuration, which is an input of its own:
# the package's lazy names, the models of the configuration (a package) and the kinds of errors.
NOT_SOURCES = frozenset({"empg", "empg.config", "empg.errors"})
ENVIRONMENTS = ("alfworld", "webshop", "deepsearch")  # each has a package of its own, which no other one imports


# ------------------------------------------------------------------------------------------------------------- source
def sources(module: str, environment: str | None = None) -> list[Path]:
    """The files that a stage's result depends on, found without importing anything.

    They are the modules of this package that ``module`` imports, at any depth and also inside functions, and files in
    ``assets`` and ``templates`` beside them. A stage of one environment does not depend on the others' packages.
    """
    others = [f"{PACKAGE.name}.environments.{name}" for name in ENVIRONMENTS if environment and name != environment]
    pending, seen = [module], set()
    while pending:
        name = pending.pop()
        if name not in seen and _file(name) and not any(f"{name}.".startswith(f"{other}.") for other in others):
            seen.add(name)
            pending += _imports(name)
    modules = {path for name in seen if _is_source(name) and (path := _file(name))}
    beside = {path for file in modules for name in ("assets", "templates") for path in (file.parent / name).glob("*")}
    return sorted(path for path in {*modules, *beside} if path.is_file() and path.stat().st_size)


@cache
def _imports(name: str) -> list[str]:
    """Every module of this package that the module's statements import, with their parent packages."""
    if not _is_source(name):
        return []
    path = _file(name)
    assert path is not None
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    parents = [n.rsplit(".", i)[0] for n in [name, *found] for i in range(1, n.count(".") + 1)]
    return [n for n in found + parents if n.split(".")[0] == PACKAGE.name]


def _is_source(name: str) -> bool:
    return name not in NOT_SOURCES and not name.startswith("empg.config.")


def _file(name: str) -> Path | None:
    """The source file of a module of this package; None for a name that is not a module."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


# ------------------------------------------------------------------------------------------------------------- hashes
def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder: its files' names and hashes (those that its manifest records, if it has one).

    Raises :class:`DataError` when there is nothing.
    """
    if path.is_file():
        return file_digest(path)
    if not path.is_dir():
        raise DataError(f"{path}: expected a file or a folder, found none")
    manifest = path / MANIFEST
    return json_digest(read_json(manifest)["outputs"] if manifest.exists() else tree(path))


def json_digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Relative path → SHA-256 of every file that is a result: no checkpoints, temporary files or records of the run."""
    result = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and not hidden and relative.parts[0] not in (MANIFEST, TIMING, CHECKPOINT):
            result[relative.as_posix()] = file_digest(path)
    return result


def source_hashes(module: str, environment: str | None = None) -> dict[str, str]:
    """Path relative to the package's folder → SHA-256 of each of a stage's source files."""
    return {path.relative_to(PACKAGE.parent).as_posix(): file_digest(path) for path in sources(module, environment)}


# ---------------------------------------------------------------------------------------------------------- manifests
@dataclass(slots=True)
class Record:
    """What a running stage adds to its folder. ``digest`` identifies everything that the results depend on."""

    out: Path
    digest: str
    summary: dict[str, Any] = field(default_factory=dict)
    iteration_seconds: list[dict[str, float]] = field(default_factory=list)

    def write_table(self, frame: pl.DataFrame, schema: Schema, name: str) -> None:
        """Write a table of a declared schema to ``out/name``."""
        write_table(frame, schema, self.out / name)

    def write_frame(self, frame: pl.DataFrame, name: str) -> None:
        """Write a table without a declared schema to ``out/name``."""
        with atomic_path(self.out / name) as temporary:
            frame.write_parquet(temporary, compression="zstd", statistics=False)


@contextmanager
def stage(name: str, config: BaseModel, out: Path, *, inputs: Mapping[str, Path], threads: int = 1) -> Iterator[Record]:
    """Run a stage: pins threads and precision, keeps other processes off its folder, writes timing and manifest last.

    A stage whose caller was killed may live on; its successor waits here until it has ended.
    """
    import torch

    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32
    with only_writer(out):
        startup, wall, cpu = _process_age(), time.perf_counter(), time.process_time()
        about = _about(name, config, inputs)
        record = Record(out, json_digest(about))
        yield record
        timing = {"stage": name, "startup_seconds": startup, "wall_seconds": time.perf_counter() - wall,
                  "cpu_seconds": time.process_time() - cpu, "threads": threads,
                  "iterations": record.iteration_seconds}  # fmt: skip
        write_json(out / TIMING, timing)
        write_json(out / MANIFEST, {**about, "outputs": tree(out), "summary": record.summary})


def _process_age() -> float:
    """Seconds since this process was started: what imports cost before a stage begins."""
    return time.time() - float(psutil.Process().create_time())


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which the operating system lets go of even when this process is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{folder}: another process writes here; waiting until it has ended", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _about(stage: str, config: BaseModel, inputs: Mapping[str, Path]) -> dict[str, Any]:
    environment = config.data.type if hasattr(config, "data") else None
    return {
        "stage": stage,
        "config": config.model_dump(mode="json"),
        "inputs": {name: digest(path) for name, path in inputs.items()},
        "sources": json_digest(source_hashes(STAGES[stage], environment)),
        "versions": versions(),
    }


@cache
def versions() -> dict[str, str]:
    """Python and the libraries whose version can change a number."""
    libraries = ("empg", "torch", "transformers", "tokenizers", "polars", "numpy")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in libraries}
