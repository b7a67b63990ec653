"""MLflow's database and DVC's cache are taken away while a study runs."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path

from ..workflow.conftest import Project
from .case import Case, kept, run
from .processes import cpu_seconds, settle, snakemake
from .stages import STAGES, STUDY

MOST_SECONDS = 12.0  # CPU seconds before the fault
DATABASE = "results/mlflow.db"


def database_locked(case: Case) -> None:
    """Another program holds MLflow's database for longer than a writer waits: no stage fails for it."""
    project = case.finished()
    stage, out = STAGES["training"], case.scratch / "out"
    holder = sqlite3.connect(project.root / DATABASE)
    holder.execute("BEGIN EXCLUSIVE")
    begin = time.monotonic()
    ended = run(project, [*stage.command(out), "--track", STUDY])
    waited = time.monotonic() - begin
    assert ended.code == 0, ended.output[-1500:]
    assert "no more live curves, `empg track` will log them" in ended.output, ended.output[-1500:]
    expected = (case.reference / stage.folder / "manifest.json").read_bytes()
    assert (out / "manifest.json").read_bytes() == expected, "other bits"
    ended = run(project, ["empg", "track", "--results", STUDY])
    assert ended.code == 1, ended.output[-1500:]
    assert "Traceback" not in ended.output, ended.output[-1500:]
    assert "one that another program has held" in ended.output, ended.output[-1500:]
    holder.close()
    case.log.append(f"training waited, then went on without curves ({waited:.0f} s in all)")
    case.completes(project)


def database_corrupt(case: Case) -> None:
    """Bytes of MLflow's database are overwritten at a random moment of a run."""
    project = case.unfinished()
    _at_a_random_moment(case, project, lambda: _overwrite(project.root / DATABASE))
    with kept(project.root / "results"):
        case.completes(project)


def database_deleted(case: Case) -> None:
    """MLflow's database is deleted at a random moment of a run."""
    project = case.unfinished()
    _at_a_random_moment(case, project, (project.root / DATABASE).unlink)
    with kept(project.root / "results"):
        case.completes(project)


def cache_emptied(case: Case) -> None:
    """DVC's cache is lost together with data that is needed, and again at a random moment of the run."""
    project = case.unfinished()
    for part in ("data/search", "results/data/search.json", ".dvc/cache"):
        path = project.root / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _at_a_random_moment(case, project, lambda: shutil.rmtree(project.root / ".dvc/cache", ignore_errors=True))
    case.completes(project)


def _at_a_random_moment(case: Case, project: Project, fault) -> None:
    start, after = cpu_seconds(), case.random.uniform(2.0, MOST_SECONDS)
    command = snakemake(project)
    still = command.until(lambda: cpu_seconds() - start >= after)
    fault()
    ended = command.wait()
    settle()
    assert "an error in the program" not in ended.output, ended.output[-2000:]
    case.log.append(f"{'while it ran' if still else 'after its end'}; that run ended with code {ended.code}")


def _overwrite(database: Path) -> None:
    with database.open("r+b") as file:
        for place in range(0, database.stat().st_size, 8192):
            file.seek(place)
            file.write(b"\xde\xad\xbe\xef" * 128)
