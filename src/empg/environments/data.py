"""The data stage: a data set's files and the index of each split, for DVC to own."""

from __future__ import annotations

import hashlib
from pathlib import Path

from empg.config import Data
from empg.environments.registry import open_dataset
from empg.files import write_json


def run(config: Data, out: Path) -> None:
    """Write the data set and, last, ``out/manifest.json``: what it was made from and the hash of each split's index.

    An index has one line a task with the SHA-256 of what the task is played from.
    """
    open_dataset(config, out).write(out)
    indices = {path.relative_to(out).as_posix(): path for path in sorted(out.glob("*/tasks.jsonl"))}
    outputs = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in indices.items()}
    write_json(out / "manifest.json", {"stage": "data", "config": config.model_dump(mode="json"), "outputs": outputs})
