"""``dvc metrics`` and ``dvc plots`` of a study's outputs, with real DVC and git; results are never committed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from empg.analysis.tables import panel_files
from empg.files import write_json

ROOT = Path(__file__).parents[2]
REPORT = "results/quick/report"
NAMES, MODES = ("alfworld", "deepsearch", "webshop"), ("greedy", "sampled")


@pytest.fixture
def reported(fresh):
    """A project with a study's metrics and learning curves."""
    write(fresh.root, success=0.5)
    curves = {
        "environment": ["e"] * 4,
        "method": ["grpo", "grpo", "empg", "empg"],
        "iteration": [0, 1] * 2,
        "success": [0.2, 0.4, 0.25, 0.5],
        "low": [0.1] * 4,
        "high": [0.6] * 4,
    }
    tables = fresh.root / REPORT / "tables"
    tables.mkdir(parents=True)
    pl.DataFrame(curves).write_csv(tables / "learning_curves.csv")
    return fresh


def write(root: Path, *, success: float) -> None:
    """The table of results of two policies that solve ``success`` of each panel of three environments."""
    panels = [(name, split, mode) for name in NAMES for split in ("valid_seen", "unseen") for mode in MODES]
    rows = [(*panel, method, success) for panel in panels for method in ("grpo", "grpo_empg")]
    table = pl.DataFrame(rows, schema=["environment", "split", "mode", "method", "success"], orient="row")
    for name, content in panel_files(table).items():
        write_json(root / REPORT / "dvc" / name, content)


def dvc(project, *arguments: str) -> str:
    done = project.run("dvc", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_show_fits_a_screen(reported):
    """80 columns by 40 lines, for three environments and two methods."""
    shown = dvc(reported, "metrics", "show").splitlines()
    assert len(shown) == 1 + 3 * 2 * 2
    assert max(map(len, shown)) <= 80
    assert shown[0].split() == ["Path", "grpo", "grpo_empg"]
    assert shown[-1].split() == [f"{REPORT}/dvc/webshop/valid_seen_sampled.json", "50.0", "50.0"]


def test_plots_need_no_git(reported):
    (plot,) = json.loads(dvc(reported, "plots", "show", "--json"))["data"]["learning curves"]
    drawn = plot["content"] if isinstance(plot["content"], dict) else json.loads(plot["content"])
    assert drawn["spec"]["encoding"]["color"]["field"] == "method"
    line = drawn["spec"]["layer"][-1]
    assert (line["mark"], line["encoding"]["y"]["field"]) == ("line", "success")


def test_diff_against_results_that_no_commit_holds(reported):
    """The way of docs/auditing.md: the earlier results are saved as an experiment, outside all branches."""
    shutil.copy(ROOT / ".gitignore", reported.root)
    for command in (
        ["init", "-q"],
        ["config", "user.name", "a"],
        ["config", "user.email", "a@b"],
        ["add", "."],
        ["commit", "-qm", "all"],
    ):
        subprocess.run(["git", *command], cwd=reported.root, check=True)
    assert reported.run("empg", "dvc", "rooms", "--out", "results/data/rooms.json").returncode == 0
    dvc(reported, "config", "--local", "core.no_scm", "false")
    path = f"{REPORT}/dvc/alfworld/valid_seen_sampled.json"
    dvc(reported, "exp", "save", "--name", "before", "--include-untracked", f"{REPORT}/dvc", "data@rooms")
    write(reported.root, success=0.75)
    changed = json.loads(dvc(reported, "metrics", "diff", "before", "--json"))
    assert len(changed) == 3 * 2 * 2
    assert changed[path]["grpo"] == {"old": 50.0, "new": 75.0, "diff": 25.0}
    listed = ["git", "ls-files", "results"]
    assert subprocess.run(listed, cwd=reported.root, capture_output=True, text=True, check=True).stdout == ""
