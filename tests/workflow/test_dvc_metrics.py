"""``dvc metrics`` and ``dvc plots`` of a study's outputs, with real DVC and git; results are never committed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
REPORT = "results/quick/report"


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
    tables.mkdir()
    pl.DataFrame(curves).write_csv(tables / "learning_curves.csv")
    return fresh


def write(root: Path, *, success: float) -> None:
    (root / REPORT).mkdir(parents=True, exist_ok=True)
    content = {"rooms": {"valid_seen": {"greedy": {"grpo": {"success": success}}}}}
    (root / REPORT / "metrics.json").write_text(json.dumps(content))


def dvc(project, *arguments: str) -> str:
    done = project.run("dvc", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_show_needs_no_git(reported):
    shown = json.loads(dvc(reported, "metrics", "show", "--json"))[""]["data"][f"{REPORT}/metrics.json"]["data"]
    assert shown == {"rooms": {"valid_seen": {"greedy": {"grpo": {"success": 0.5}}}}}
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
    path = f"{REPORT}/metrics.json"
    dvc(reported, "exp", "save", "--name", "before", "--include-untracked", path, "data@rooms")
    write(reported.root, success=0.75)
    changed = json.loads(dvc(reported, "metrics", "diff", "before", "--json"))
    assert changed[path]["rooms.valid_seen.greedy.grpo.success"] == {"old": 0.5, "new": 0.75, "diff": 0.25}
    listed = ["git", "ls-files", "results"]
    assert subprocess.run(listed, cwd=reported.root, capture_output=True, text=True, check=True).stdout == ""
