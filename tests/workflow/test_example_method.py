"""A package from outside registers an outcome advantage and a modulation; a run trains with both."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from empg.config import RolloutsRun, WarmStartRun, parse
from empg.environments import data as data_stage
from empg.files import read_json
from empg.rollouts import collect
from empg.training import warmstart

from .conftest import install_example

pytestmark = pytest.mark.xdist_group("example_method")

ROOT = Path(__file__).parents[2]
STUDY = """
study: outside
seeds: [1]
baseline: grpo
methods:
  grpo: {advantage: grpo}
  shaped: {advantage: dr_grpo, modulation: entropy_shaping, scale: 3, alpha: 0.25}
environments:
  alfworld:
    data: small
    max_steps: 3
    policy: {type: tiny, width: 16, layers: 1, heads: 2, kv_heads: 1, mlp_width: 16, vocab_size: 300}
    sampling: {max_response: 8}
    warmstart: {tokens: 4000, batch_tokens: 2000}
    rollouts: {tasks: 2}
    train: {iterations: 2, groups: 2, group_size: 3, reward: score}
"""
DATA = "data_sets: {small: {type: alfworld, sizes: {train: 4, valid_seen: 1, valid_unseen: 1, tune: 1}}}\n"


class Installed:
    """The example package in a folder that Python's path names, and ``empg`` run with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        install_example("method", root / "site")
        (root / "config" / "study").mkdir(parents=True)
        (root / "config" / "config.yaml").write_text(STUDY)
        (root / "config" / "data.yaml").write_text(DATA)
        (root / "config" / "environments.yaml").write_text("{}\n")

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.root / "site"), str(ROOT / "src")])
        return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)

    def prepare(self) -> subprocess.CompletedProcess[str]:
        code = "from pathlib import Path; from empg.pipeline.job_files import prepare; "
        return self.python("-c", code + "prepare(Path('config'), None, Path('results'))")

    def empg(self, stage: str, *words: str) -> None:
        done = self.python("-m", "empg", stage, *words)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("outside"))


@pytest.fixture(scope="module")
def trained(installed) -> Path:
    """The folder of the run that trains with both."""
    assert installed.prepare().returncode == 0, installed.prepare().stderr
    configs = Path("results/outside/config/alfworld")
    model, data = ("--model", "warmstart/model"), ("--data", "data")
    warm_start(installed.root, installed.root / configs)
    collection = installed.root / "rollouts" / "rollouts.parquet"
    rows = pl.read_parquet(collection)  # an untrained policy scores 0, so the first batch gets made-up scores
    rows.with_columns(score=(pl.col("trajectory") % 3 / 4).cast(pl.Float32)).write_parquet(collection)
    run = str(configs / "shaped" / "seed1" / "train.json")
    installed.empg("train", "--config", run, *data, *model, "--rollouts", "rollouts", "--out", "train")
    return installed.root / "train"


def warm_start(root: Path, configs: Path) -> None:
    """``data``, ``warmstart`` and ``rollouts``, which know of no method."""
    start = parse(WarmStartRun, read_json(configs / "warmstart.json"), "warmstart.json")
    first = parse(RolloutsRun, read_json(configs / "rollouts.json"), "rollouts.json")
    quiet: dict[str, Any] = {"progress": lambda *_: None}
    data_stage.run(start.data, root / "data")
    warmstart.run(start, root / "data", root / "warmstart", on_metrics=lambda *_: None, **quiet)
    collect.run(first, root / "data", root / "warmstart" / "model", root / "rollouts", **quiet)


def test_its_settings_are_checked_and_resolved(trained):
    method = json.loads((trained / "manifest.json").read_text())["config"]["method"]
    assert method["scale"] == 3.0
    assert method["alpha"] == 0.25
    assert method["kappa"] == 2.0, "the default of its own model"
    assert method["aggregation"] == "seq-mean-token-sum", "its default of a shared setting"


def test_its_source_is_part_of_the_settings(trained):
    """A change of a method's code then reruns its training runs and no others."""
    recorded = json.loads((trained / "manifest.json").read_text())["config"]["method_sources"]
    site = trained.parent / "site"
    files = ("empg_example_method/__init__.py", "empg_example_method/functions.py")
    assert recorded == {name: hashlib.sha256((site / name).read_bytes()).hexdigest() for name in files}
    other = json.loads((trained.parent / "results/outside/config/alfworld/grpo/seed1/train.json").read_text())
    assert other["method_sources"] == {}


def test_both_functions_made_the_advantages(trained):
    """The advantage from the rows: A = 3·(R − mean of the group), plus min(α·H, |A|/2)."""
    files = sorted((trained / "rollouts").glob("iteration_*.parquet"))
    assert len(files) == 2
    for file in files:
        steps = pl.read_parquet(file)
        score = steps.group_by("trajectory", maintain_order=True).agg(pl.col("group", "score").first())
        score = score.with_columns(outcome=3 * (pl.col("score") - pl.col("score").mean().over("group")))
        outcome = steps.join(score.select("trajectory", "outcome"), on="trajectory", maintain_order="left")["outcome"]
        expected = outcome + np.minimum(0.25 * steps["step_entropy"], outcome.abs() / 2)
        if file is files[0]:
            assert sorted(set(outcome.round(6))) == [-0.75, 0.0, 0.75]
        np.testing.assert_allclose(steps["outcome_advantage"], outcome, atol=1e-5)
        np.testing.assert_allclose(steps["advantage"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("alpha: 0.25", ("alpah: 0.25", "methods.shaped.alpah: ", "did you mean alpha?")),
        ("dr_grpo", ("dr_gpro", "methods.shaped.advantage: ", "dapo, dr_grpo, gigpo, grpo, rloo, rtmc; did you mean")),
        ("alpha: 0.25", ("kappa: 1", "methods.shaped.kappa: ", "greater than 1")),
    ],
)
def test_a_mistake_in_its_settings_is_named(installed, wrong, message):
    file = installed.root / "config" / "config.yaml"
    replacement, *parts = message
    file.write_text(STUDY.replace(wrong, replacement))
    error = installed.prepare().stderr
    file.write_text(STUDY)
    for part in parts:
        assert part in error


def test_the_schema_completes_its_keys(installed):
    installed.empg("schema", "--out", "schemas")
    text = (installed.root / "schemas" / "config.schema.json").read_text()
    for word in ("dr_grpo", "entropy_shaping", "alpha", "kappa", "scale"):
        assert f'"{word}"' in text


def test_it_is_unknown_where_it_is_not_installed():
    from empg.config import ADVANTAGES, MODULATIONS

    assert "dr_grpo" not in ADVANTAGES
    assert "entropy_shaping" not in MODULATIONS
