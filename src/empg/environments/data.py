"""The data stage: a data set's games and the index of each split as files, for DVC to own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from empg.config import Data
from empg.environments.alfworld.tasks import OFFICIAL_SPLITS, OfficialGames
from empg.environments.alfworld.writer import INDEX, write_dataset
from empg.files import write_json, write_text


def run(config: Data, out: Path) -> None:
    """Write the data set and, last, ``out/manifest.json``: what it was made from and the hash of each split's index.

    An index has one line a game with its SHA-256. The official games stay where they are: only indices are written.
    """
    if config.source == "official":
        _index_official(out)
    else:
        write_dataset(out, profile=config.profile, seed=config.seed, sizes=config.sizes.model_dump())
    indices = {f"{path.parent.name}/{INDEX}": _sha256(path) for path in sorted(out.glob(f"*/{INDEX}"))}
    write_json(out / "manifest.json", {"stage": "data", "config": config.model_dump(mode="json"), "outputs": indices})


def _index_official(out: Path) -> None:
    games = OfficialGames()
    for split in OFFICIAL_SPLITS:
        entries = [
            {
                "split": split,
                "id": i,
                "type": task_type,
                "path": path.relative_to(games.root / split).as_posix(),
                "sha256": _sha256(path),
            }
            for i, (path, task_type) in enumerate(games.files(split))
        ]
        write_text(out / split / INDEX, "".join(f"{json.dumps(entry)}\n" for entry in entries))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
