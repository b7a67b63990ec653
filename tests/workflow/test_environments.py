"""Software environments and resources, as Snakemake itself resolves them from rules and profiles."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from empg.config import load_data
from empg.pipeline.job_files import read_study
from empg.pipeline.needs import Needs

ROOT = Path(__file__).parents[2]
POLICY_RULES = {"warmstart", "evaluate_warmstart", "rollouts", "train", "evaluate", "report"}
OTHER_RULES = {"data", "track", "mlflow_database"}
FIXED_MB = {"data": 4000, "track": 4000, "mlflow_database": 2000}
GPU, SLURM = "profiles/gpu", "profiles/slurm"
# Answers Snakemake's questions to conda, so that a dry run names the environments without conda.
CONDA = """#!/bin/sh
case "$1" in
  info) echo '{"conda_prefix": "/nowhere", "root_prefix": "/nowhere", "platform": "linux-64"}' ;;
  config) echo '{"get": {"channel_priority": "strict"}}' ;;
  *) echo "conda 24.11.0" ;;
esac
"""
# A logger plugin that prints each job's rule, threads and resources as JSON.
SPY = """
import json
from snakemake_interface_logger_plugins.base import LogHandlerBase

class LogHandler(LogHandlerBase):
    writes_to_stream, writes_to_file = True, False
    has_filter = has_formatter = True
    needs_rulegraph = False

    def emit(self, record):
        if getattr(record, "event", None) == "job_info" and record.shellcmd:
            resources = {name: value for name, value in record.resources.items() if isinstance(value, int)}
            print(json.dumps({"rule": record.rule_name} | resources | {"threads": record.threads}), flush=True)
"""


@pytest.fixture
def with_studies(fresh):
    """A project of the test's own with the study ``mini`` and another one, ``other``."""
    study = yaml.safe_load((fresh.root / "config/config.yaml").read_text())
    study["environments"]["rooms"]["warmstart"]["threads"] = 2
    study["study"] = "other"
    (fresh.root / "config/study").mkdir(exist_ok=True)
    (fresh.root / "config/study/other.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return fresh


@pytest.fixture
def conda(tmp_path, monkeypatch):
    """A program called ``conda`` on the path."""
    tool = tmp_path / "bin" / "conda"
    tool.parent.mkdir()
    tool.write_text(CONDA)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")


def options(profiles, study):
    """Options of a dry run. The local executor stands in for Slurm's, which is a separate package."""
    own = ["--executor", "local"] if SLURM in profiles else []
    return [
        "-n",
        "--cores",
        "2",
        *(part for name in profiles for part in ("--profile", name)),
        "--config",
        f"study={study}",
        *own,
    ]


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_versions_are_those_of_the_lock(name):
    pip = yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())["dependencies"][-1]["pip"]
    pinned = dict(line.split("==") for line in pip if "==" in line)
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock, flags=re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"torch=={pinned.pop('torch')} " in (ROOT / "Makefile").read_text()
    assert set(pinned.items()) <= locked
    wanted = {re.split("[>=[]", entry)[0] for entry in extras["pipeline"] + extras["envs"]}
    runs_no_job = {"snakemake", "snakemake-interface-logger-plugins", "optuna"}
    assert wanted - {"empg", "torch"} - runs_no_job == set(pinned)


def test_rules_name_no_environment_file():
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        named = re.findall(r"envs/\w+\.yaml", path.read_text())
        assert named == (["envs/cpu.yaml"] if path.name == "common.smk" else []), path


@pytest.mark.parametrize(
    ("profiles", "study", "environment"),
    [
        ([], "mini", "cpu"),
        ([GPU], "mini", "cuda"),
        ([GPU], "other", "cuda"),
        ([SLURM], "other", "cpu"),
        ([GPU, SLURM], "other", "cuda"),
    ],
)
@pytest.mark.usefixtures("conda")
def test_a_profile_chooses_the_environment_beside_the_study(with_studies, profiles, study, environment):
    result = with_studies.snakemake(*options(profiles, study), "--software-deployment-method", "conda")
    assert result.returncode == 0, result.stderr
    created = re.findall(r"Conda environment (\S+) will be created", result.stdout)
    assert created == [f"envs/{environment}.yaml"]
    assert (with_studies.root / f"results/{study}/config/study.json").exists()


@pytest.mark.parametrize("profiles", [[], [GPU], [SLURM], [GPU, SLURM]], ids=" ".join)
def test_every_job_has_its_resources(with_studies, profiles):
    package = with_studies.root / "src/snakemake_logger_plugin_spy"
    package.mkdir()
    (package / "__init__.py").write_text(SPY)
    result = with_studies.snakemake(*options(profiles, "other"), "--logger", "spy")
    assert result.returncode == 0, result.stderr
    jobs = [json.loads(line) for line in result.stdout.splitlines()]
    assert {job["rule"] for job in jobs} == POLICY_RULES | OTHER_RULES
    config = with_studies.root / "config"
    needs = Needs(read_study(config, "other")[0], load_data(config / "data.yaml"))
    for job in jobs:
        policy = job["rule"] in POLICY_RULES
        assert job["gpu"] == (policy and GPU in profiles)
        environment = None if job["rule"] == "report" else "rooms"  # the other one has the same settings
        estimate = needs.megabytes(job["rule"], environment, unknown=0) if policy else FIXED_MB[job["rule"]]
        assert job["mem_mb"] == (64000 if job["gpu"] else estimate)
        assert job["runtime"] >= 10
    threads = {(job["rule"], job["threads"]) for job in jobs}
    assert threads == {(rule, 1) for rule in POLICY_RULES | OTHER_RULES} | {("warmstart", 2)}


def test_every_rule_declares_all_of_its_resources_once():
    text = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    rules = {found[1]: found[0] for found in re.finditer(r"^rule (\w+):\n(?:(?:    .*)?\n)+", text, flags=re.MULTILINE)}
    asked_for = {"testbed", "testbed_report", "decisiveness_warmstart", "decisiveness_report"}  # sections of a study
    assert set(rules) == (POLICY_RULES | OTHER_RULES | asked_for) - {"evaluate"}  # evaluate_warmstart on other files
    for name, body in rules.items():
        for key in ("threads: ", "gpu=", "mem_mb=", "runtime="):
            assert len(re.findall(rf"^ +{key}", body, flags=re.MULTILINE)) == 1, (name, key)


@pytest.mark.parametrize("profiles", [[GPU], [SLURM], [GPU, SLURM]], ids=" ".join)
def test_a_profile_outdates_nothing(planned, profiles):
    result = planned.snakemake(*options(profiles, "mini"))
    assert "Nothing to be done" in result.stdout, result.stdout + result.stderr


def test_an_environment_that_is_not_there(fresh):
    result = fresh.snakemake("-n", "--config", "software=envs/none.yaml")
    assert result.returncode == 2
    assert "software: expected a conda environment file, found none at" in result.stderr
