"""A study of the testbed alone runs through Snakemake, reruns what its settings change, and is published."""

from __future__ import annotations

import json

import polars as pl
import pytest
import yaml

from .conftest import Project

pytestmark = pytest.mark.xdist_group("pipeline")

STUDY = {
    "study": "testbed",
    "methods": {
        "grpo": {"advantage": "grpo"},
        "empg": {"advantage": "grpo", "modulation": "empg"},
        "rtmc": {"advantage": "rtmc"},
    },
    "testbed": {
        "world": {"tasks": 3, "steps": 3, "actions": 3, "decisive": 1, "width": 4},
        "group_size": 4,
        "entropies": [0.4, 0.9],
        "places": [[0.4, 0.9]],
        "worlds": 3,
        "compared": ["empg"],
        "sweeps": {"k": [2, 3]},
        "learning": {"seeds": 3, "iterations": 1, "rates": {"adamw": 0.1}},
    },
}


def plan(project: Project) -> set[str]:
    """The rules that the next run would run."""
    done = project.snakemake("-n", "--quiet", "rules", "--config", "study=testbed")
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in (done.stdout + done.stderr).splitlines()]
    return {line[0] for line in words if len(line) == 2 and line[1].isdigit()} - {"total"}


def test_a_study_without_environments(fresh: Project):
    path = fresh.root / "config/study/testbed.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    assert plan(fresh) == {"all", "testbed", "testbed_report"}
    done = fresh.snakemake("--cores", "2", "--config", "study=testbed")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = fresh.root / "results/testbed/testbed"
    manifest = json.loads((folder / "gradients/manifest.json").read_text())
    assert manifest["outputs"].keys() == {"gradients.parquet"}
    assert set(pl.read_parquet(folder / "learning/learning.parquet")["method"]) == {"grpo", "empg", "rtmc"}
    assert "| rtmc |" in (folder / "report/README.md").read_text()
    assert plan(fresh) == set()
    audited = fresh.run("empg", "audit", "results/testbed")
    assert audited.returncode == 0, audited.stdout + audited.stderr
    assert "missing" not in audited.stdout

    published = fresh.root / "docs/results/testbed"
    done = fresh.run("empg", "publish", "--results", "results/testbed", "--out", str(published))
    assert done.returncode == 0, done.stderr
    page = (published / "README.md").read_text(encoding="utf-8")
    assert "CPU seconds on" in page
    assert (published / "figures/map_cosine.svg").is_file()
    assert (published / "tables/area.csv").is_file()

    changed = STUDY | {"testbed": STUDY["testbed"] | {"worlds": 4}}
    path.write_text(yaml.safe_dump(changed))
    assert plan(fresh) == {"all", "testbed", "testbed_report"}
