"""What a study left: the bits that must be the same, and what its timings say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from empg.timing import FOLDER

from ..workflow.conftest import STUDY

NAME = STUDY["study"]

# What differs between two runs that nothing happened to: times, and what shows them.
TABLES = ("cost", "cost_by_part", "progress")
TIMES = {
    *(f"results/{NAME}/report/tables/{table}.{form}" for table in TABLES for form in ("csv", "parquet")),
    f"results/{NAME}/report/figures/cost.svg",
    f"results/{NAME}/report/report.html",
    f"results/{NAME}/report/manifest.json",  # hashes of the files above
}
FOLDERS = ("data", "results", "dvc.lock")


def bits(root: Path) -> dict[str, str]:
    """SHA-256 of every result of the project by relative path: weights, metrics, rollouts, tables, manifests, data.

    Left out are timings, logs, hidden files and MLflow's database, whose ids are random.
    """
    found = {}
    for path in sorted(path for name in FOLDERS for path in [root / name, *(root / name).rglob("*")]):
        relative = path.relative_to(root)
        if path.is_file() and not _differs(relative):
            found[relative.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _differs(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    mlflow = path.parts[1:2] in (("mlflow.db",), ("mlartifacts",)) or path.name.startswith("mlflow.db")
    return hidden or mlflow or "logs" in path.parts or path.name.endswith("timing.json") or path.as_posix() in TIMES


def difference(root: Path, expected: Mapping[str, str]) -> list[str]:
    """The files of the project that are missing, too many or have other bits."""
    found = bits(root)
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def recorded(root: Path) -> dict[str, dict[str, float]]:
    """CPU seconds that processes of unfinished stages have noted down: stage's folder → process → seconds."""
    found: dict[str, dict[str, float]] = {}
    for path in root.glob(f"results/{NAME}/**/{FOLDER}/*.json"):
        folder = path.parents[1].relative_to(root).as_posix()
        found.setdefault(folder, {})[path.name] = json.loads(path.read_text())["cpu_seconds"]
    return found


def timing(root: Path, folder: str) -> tuple[int, float]:
    """Processes and CPU seconds in the timing of a finished stage."""
    place = root / folder
    hidden = place.name.startswith(".")  # the tracking, which has no folder of its own
    told = json.loads(
        (place.with_name(f"{place.name[1:]}.timing.json") if hidden else place / "timing.json").read_text()
    )
    return told["processes"], told["cpu_seconds"]
