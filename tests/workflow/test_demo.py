"""`make demo`: a small study that runs the whole chain. Its plan is checked here; its run takes a minute and a half."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from empg.pipeline.job_files import read_study

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo():
    return read_study(ROOT / "config", "demo")


def test_it_shows_both_methods_on_one_environment_with_few_tasks(demo):
    study, data_sets = demo
    (environment,) = study.environments
    assert {m.modulation for m in study.methods.values()} == {"none", "empg"}
    assert len(study.seeds) == 1
    assert sum(data_sets[study.data_set(environment)].sizes.model_dump().values()) < 500


def test_the_first_batch_has_as_many_tasks_as_were_collected(demo):
    study, _ = demo
    (settings,) = study.environments.values()
    assert settings.rollouts.tasks >= settings.train.groups


def test_make_demo_runs_it():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^demo:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert "--config study=demo\n" in recipe
    assert "results/demo/report/report.html" in recipe
    assert "[ -t 1 ]" in recipe, "a browser opens only for somebody at a terminal"


def test_its_plan_is_the_whole_chain(fresh):
    shutil.copy(ROOT / "config/data.yaml", fresh.root / "config/data.yaml")
    done = fresh.snakemake("-n", "--quiet", "rules", "--config", "study=demo")
    assert done.returncode == 0, done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    assert jobs.pop("total") == "12"
    assert jobs.keys() >= {
        "data",
        "warmstart",
        "rollouts",
        "train",
        "evaluate",
        "evaluate_warmstart",
        "report",
        "track",
    }
