"""The pipeline run for real: what it leaves, and what it does after it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.xdist_group("pipeline")

RUN = "results/mini/rooms/grpo/seed1"


def test_every_stage_leaves_a_manifest_that_holds(project):
    from empg.provenance import digest, tree

    results = project.root / "results/mini"
    manifests = sorted(results.rglob("manifest.json"))
    assert len(manifests) == 2 * (3 + 4) + 1
    for path in manifests:
        manifest = json.loads(path.read_text())
        assert manifest["outputs"] == tree(path.parent), path
    train = json.loads((project.root / RUN / "train/manifest.json").read_text())
    assert train["inputs"]["data"] == digest(project.root / "data/rooms")
    assert train["inputs"]["model"] == digest(project.root / "results/mini/rooms/warmstart/model")
    assert train["config"] == json.loads((project.root / "results/mini/config/rooms/grpo/seed1/train.json").read_text())


def test_snakemakes_own_report(project):
    page = project.root / "snakemake.html"
    result = project.snakemake("--report", str(page))
    assert result.returncode == 0, result.stderr
    assert "report.html" in page.read_text()


@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_continues(project, name):
    project.edit("config/config.yaml", lambda study: study["seeds"].append(2))
    log = project.root / "results/mini/logs/rooms/grpo/seed2/train.log"
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=project.root, env=project.env, start_new_session=True, **quiet)
    while not log.exists():
        assert process.poll() is None, "ended before the training that was to be killed"
        time.sleep(0.1)
    os.killpg(process.pid, name)
    process.wait()
    assert not (project.root / "results/mini/rooms/grpo/seed2/evaluate").exists()
    project.build()
    assert project.plan() == set()


def test_the_caller_killed_alone(project):
    """The training that outlives its Snakemake is waited for, and the two never write at the same time."""
    project.edit("config/config.yaml", lambda study: study["seeds"].append(2))
    log = project.root / "results/mini/logs/rooms/grpo/seed2/train.log"
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=project.root, env=project.env, **quiet)
    while not log.exists():
        assert process.poll() is None, "ended before the training that was to be killed"
        time.sleep(0.1)
    process.kill()
    process.wait()
    project.build()
    assert project.plan() == set()
