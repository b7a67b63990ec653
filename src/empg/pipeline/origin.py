"""The commit of the code that made a folder of results."""

from __future__ import annotations

from pathlib import Path

from empg.files import read_json


def commit(folder: Path) -> str | None:
    """The commit in the folder's timing file, with a note if the code had uncommitted changes; None if unknown."""
    timing = read_json(path) if (path := folder / "timing.json").exists() else {}
    name = timing.get("commit")
    return None if name is None else f"{name} with uncommitted changes" if timing["dirty"] else str(name)
