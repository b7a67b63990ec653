"""Where a folder of results comes from, as far as a person asks: the commit of the code that made it."""

from __future__ import annotations

from pathlib import Path

from empg.files import read_json


def commit(folder: Path) -> str | None:
    """The commit recorded beside the folder's timing, and whether the code was changed since; None if unknown."""
    timing = read_json(path) if (path := folder / "timing.json").exists() else {}
    name = timing.get("commit")
    return None if name is None else f"{name} with uncommitted changes" if timing["dirty"] else str(name)
