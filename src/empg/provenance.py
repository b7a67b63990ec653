"""Where a result comes from: the code, configuration and inputs behind every output folder, with hashes.

A stage writes ``manifest.json`` into its folder last. The manifest holds no time and no host, so identical results have
identical manifests. How long the stage took is in ``timing.json``.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel

from empg import arithmetic, progress
from empg.config import STAGES
from empg.errors import DataError
from empg.files import atomic_path, file_digest, read_json, write_json
from empg.locks import locked
from empg.schema import Schema, write_table
from empg.sources import commit, source_hashes
from empg.timing import Clock, processor

MANIFEST, TIMING, CHECKPOINT, LOCK = "manifest.json", "timing.json", "checkpoint", ".lock"


# ------------------------------------------------------------------------------------------------------------- hashes
def digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's file names and hashes.

    The hashes come from the folder's manifest; without one the files are hashed now. Raises :class:`DataError` when
    there is neither file nor folder.
    """
    if path.is_file():
        return file_digest(path)
    if not path.is_dir():
        raise DataError(f"{path}: expected a file or a folder, found none")
    manifest = path / MANIFEST
    return json_digest(_outputs(manifest) if manifest.exists() else tree(path))


def _outputs(manifest: Path) -> dict[str, str]:
    found = read_json(manifest)
    outputs = found.get("outputs") if isinstance(found, dict) else None
    if not isinstance(outputs, dict):
        raise DataError(f"{manifest}: expected the hashes of a stage's outputs, found {str(found)[:100]}")
    return outputs


def json_digest(value: Any) -> str:
    """SHA-256 of a JSON value. The order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of each result by relative path, without checkpoints, temporary files and records of the run."""
    result = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and not hidden and relative.parts[0] not in (MANIFEST, TIMING, CHECKPOINT):
            result[relative.as_posix()] = file_digest(path)
    return result


# ---------------------------------------------------------------------------------------------------------- manifests
@dataclass(slots=True)
class Record:
    """What a running stage adds to its folder.

    ``digest`` identifies everything that the results depend on. ``clock`` counts what the stage costs.
    """

    out: Path
    digest: str
    clock: Clock
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
def stage(
    name: str,
    config: BaseModel,
    out: Path,
    *,
    inputs: Mapping[str, Path],
    threads: int = 1,
    libraries: Sequence[str] = (),
) -> Iterator[Record]:
    """Run a stage: pin threads and arithmetic, lock its folder, and at the end write timing and manifest.

    A stage may live on after its caller is killed. The next one then waits here until it has ended. ``libraries`` names
    what can change a number beside the libraries of every stage.
    """
    import torch

    torch.set_num_threads(threads)
    if getattr(config, "arithmetic", "native") == "portable":
        arithmetic.install()
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32
    with only_writer(out):
        about = _about(name, config, inputs, libraries)
        digest_of_all = json_digest(about)
        clock = Clock(out, digest_of_all)
        record = Record(out, digest_of_all, clock)
        try:
            yield record
        finally:
            clock.stop()
        timing = {"stage": name, **clock.total(), "threads": threads, "iterations": record.iteration_seconds}
        write_json(out / TIMING, timing | commit() | {"processor": processor()})
        manifest = {**about, "outputs": tree(out), "summary": record.summary}
        progress.end_undisturbed()
        write_json(out / MANIFEST, manifest)
        clock.forget()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. The operating system releases it even if this process is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, f"{folder}: another process writes here; waiting until it has ended"):
        yield


def _about(stage: str, config: BaseModel, inputs: Mapping[str, Path], libraries: Sequence[str]) -> dict[str, Any]:
    environment = config.data.type if hasattr(config, "data") else None
    return {
        "stage": stage,
        "config": config.model_dump(mode="json"),
        "inputs": {name: digest(path) for name, path in inputs.items()},
        "sources": json_digest(source_hashes(STAGES[stage].module, environment)),
        "versions": versions() | {name: metadata.version(name) for name in libraries},
    }


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a number."""
    libraries = ("empg", "torch", "transformers", "tokenizers", "polars", "numpy")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in libraries}
