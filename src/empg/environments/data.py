"""The data stage: a data set's files and the index of each split, for DVC to own."""

from __future__ import annotations

import hashlib
from pathlib import Path

from empg.config import DataSet
from empg.environments.datasets import open_dataset
from empg.files import write_json


def run(config: DataSet, out: Path) -> None:
    """Write the data set and, last, ``out/manifest.json``: what it was made from and what identifies its content.

    That is the hash of each split's index, which has one line a task with the SHA-256 of what the task is played from,
    and of each list of other files' hashes (``*.sha256``).
    """
    open_dataset(config, out).write(out)
    lists = sorted([*out.glob("*/tasks.jsonl"), *out.glob("*.sha256")])
    outputs = {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in lists}
    write_json(out / "manifest.json", {"stage": "data", "config": config.model_dump(mode="json"), "outputs": outputs})
