"""A package from outside registers an environment; a study of a few lines takes it through the whole chain."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest
import yaml

from empg.tracking.database import connect

from .conftest import ROOT, Project, install_example

pytestmark = pytest.mark.xdist_group("example_environment")

STUDY = """
study: doors
seeds: [1]
methods:
  grpo: {advantage: grpo}
  grpo_empg: {advantage: grpo, modulation: empg}
environments:
  doors:
    max_steps: 4
    policy: {type: tiny, width: 48, layers: 2, mlp_width: 64, vocab_size: 330}
    sampling: {max_response: 24, max_context: 256}
    warmstart: {tokens: 100000, batch_tokens: 512, max_steps: 8}
    rollouts: {tasks: 8}
    train: {iterations: 3, groups: 4, group_size: 4}
"""


class Outside(Project):
    """A project whose Python also finds what lies in ``site``."""

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": os.pathsep.join([str(self.root / "site"), str(self.root / "src")])}


@pytest.fixture(scope="module")
def doors(unbuilt: Path, tmp_path_factory: pytest.TempPathFactory) -> Outside:
    """A project in which the example package is installed and its study has run."""
    root = Path(shutil.copytree(unbuilt, tmp_path_factory.mktemp("doors") / "empg"))
    install_example("environment", root / "site")
    project = Outside(root)
    (root / "config/data.yaml").write_text("data_sets:\n  doors: {type: doors}\n")
    (root / "config/study/doors.yaml").write_text(STUDY)
    result = project.snakemake("--cores", "2", "--config", "study=doors")
    assert result.returncode == 0, result.stdout + result.stderr
    return project


def test_no_file_of_the_package_names_it():
    command = ["grep", "-rlw", "doors", str(ROOT / "src"), str(ROOT / "workflow")]
    found = subprocess.run(command, check=False, capture_output=True)
    assert found.returncode == 1, found.stdout


def test_its_data_belong_to_dvc(doors):
    identity = json.loads((doors.root / "results/data/doors.json").read_text())
    lock = yaml.safe_load((doors.root / "dvc.lock").read_text())["stages"]["data@doors"]
    assert lock["outs"][0]["md5"] == identity["md5"]
    assert len((doors.root / "data/doors/train/tasks.jsonl").read_text().splitlines()) == 200


def test_its_policies_are_trained_and_evaluated_on_its_panels(doors):
    run = doors.root / "results/doors/doors/grpo_empg/seed1"
    assert len(list((run / "train/rollouts").glob("*.parquet"))) == 3
    episodes = pl.read_parquet(run / "evaluate/episodes.parquet")
    assert set(episodes["split"]) == {"few", "many"}
    assert len(episodes) == 200
    steps = pl.read_parquet(doors.root / "results/doors/doors/rollouts/rollouts.parquet")
    valid = steps.filter(~pl.col("invalid"))
    assert len(valid) / len(steps) > 0.5, "the warm start speaks the game's language"
    summary = json.loads((run / "evaluate/summary.json").read_text())
    assert summary["about"]["metrics"] == {"doors_opened": "Doors opened in the episode."}
    assert set(summary["panels"]["few"]["greedy"]["metrics"]) == {"doors_opened"}


def test_the_report_and_mlflow_show_it(doors):
    page = (doors.root / "results/doors/report/report.html").read_text()
    for text in ("doors", "doors_opened", "Doors opened in the episode.", "many"):
        assert text in page
    client = connect(doors.root / "results")
    experiment = client.get_experiment_by_name("doors")
    names = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert names == {"doors-warmstart", "doors-rollouts", "doors-grpo-seed1", "doors-grpo_empg-seed1", "report"}


def test_the_audit_agrees(doors):
    result = doors.run("empg", "audit", "results/doors")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "DIFFERS" not in result.stdout


def test_a_change_of_its_source_outdates_its_stages_and_nothing_is_planned_before(doors):
    assert _planned(doors) == set()
    source = doors.root / "site/empg_example_environment/__init__.py"
    text = source.read_text()
    source.write_text(text.replace("is empty", "holds nothing"))
    try:
        assert {"data", "warmstart", "train", "evaluate", "report"} <= _planned(doors)
    finally:
        source.write_text(text)


def _planned(project: Outside) -> set[str]:
    """The rules that the next run would run."""
    result = project.snakemake("--summary", "--config", "study=doors")
    assert result.returncode == 0, result.stderr
    header, *rows = [line.split("\t") for line in result.stdout.splitlines() if "\t" in line]
    return {row[header.index("rule")] for row in rows if row[header.index("plan")] != "no update"}
