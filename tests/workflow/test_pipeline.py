"""A real run of the pipeline: its outputs, and how it resumes after it is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from base64 import urlsafe_b64encode

import pytest

from empg import timing
from empg.pipeline import job_files
from empg.progress import BEGIN
from empg.provenance import CHECKPOINT, MANIFEST, digest, tree
from empg.report.captions import CAPTIONS

from ..campaign.results import bits, difference

pytestmark = pytest.mark.xdist_group("pipeline")

RUN = "results/mini/rooms/grpo/seed1"
# Sends training a signal when it has done everything and ends.
LATE_SIGNALS = """
import atexit, os, signal, sys
if "train" in sys.orig_argv:
    for number in (signal.SIGTERM, signal.SIGINT):
        atexit.register(os.kill, os.getpid(), number)
"""


def test_nothing_is_planned_after_a_run(project):
    assert project.plan() == set()


def test_every_stage_leaves_a_manifest_that_holds(project):
    results = project.root / "results/mini"
    manifests = sorted(results.rglob("manifest.json"))
    assert (
        len(manifests) == 3 + 2 * 2 + 1
    )  # warm start, its evaluation, rollouts; two runs' training, evaluation; report
    for path in manifests:
        manifest = json.loads(path.read_text())
        assert manifest["outputs"] == tree(path.parent), path
    train = json.loads((project.root / RUN / "train/manifest.json").read_text())
    assert train["inputs"]["data"] == digest(project.root / "data/rooms")
    assert train["inputs"]["model"] == digest(project.root / "results/mini/rooms/warmstart/model")
    assert train["config"] == json.loads((project.root / "results/mini/config/rooms/grpo/seed1/train.json").read_text())


def test_decisiveness_of_the_policies(project):
    """Measured on demand, from the models as they are; no other stage runs."""
    small = {"episodes": 4, "steps": 3, "responses": 2, "continuations": 2}
    project.edit("config/config.yaml", lambda study: study.update(decisiveness=small))
    result = project.snakemake("--cores", "2", "--", "results/mini/decisiveness/report/README.md")
    assert result.returncode == 0, result.stdout + result.stderr
    page = (project.root / "results/mini/decisiveness/report/README.md").read_text()
    assert "| rooms | warm start | 3 of" in page
    assert "| rooms | half-way of grpo, seed 1 | 3 of" in page
    assert "| rooms | after grpo, seed 1 | 3 of" in page
    for folder in ("warmstart_decisiveness", "grpo/seed1/decisiveness_halfway", "grpo/seed1/decisiveness"):
        manifest = json.loads((project.root / "results/mini/rooms" / folder / "manifest.json").read_text())
        assert manifest["outputs"].keys() == {"states.parquet", "summary.json"}
    assert project.plan() == {"report", "track"}
    for part in ("rooms", "decisiveness"):
        audited = project.run("empg", "audit", f"results/mini/{part}")
        assert audited.returncode == 0, audited.stdout + audited.stderr


def test_snakemakes_own_report(project):
    page = project.root / "snakemake.html"
    result = project.snakemake("--report", str(page))
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    assert "report.html" in text
    figures = [path.stem for path in (project.root / "results/mini/report/figures").glob("*.svg")]
    assert len(figures) >= 8  # a study this small has too few steps for some
    assert [name for name in figures if CAPTIONS[name].title not in text] == []
    assert page.stat().st_size < 5e6


def begun(log):
    """How many processes have begun, by the log, which goes on with each."""
    return sum(line.startswith(BEGIN) for line in log.read_text().splitlines())


def start(project, log):
    """Start Snakemake in a session of its own. Returns once the job with this log has begun."""
    before = begun(log)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    process = subprocess.Popen(command, cwd=project.root, env=project.env, start_new_session=True, **quiet)
    while begun(log) == before:
        assert process.poll() is None, "ended before the job that was to be cut off"
        time.sleep(0.05)
    return process


def test_a_job_whose_end_snakemake_did_not_see_is_not_run_again(project):
    """Its manifest is there, and Snakemake's mark of a job at work too."""
    train, marks = project.root / RUN / "train", project.root / ".snakemake/incomplete"
    checkpoint = train / CHECKPOINT / "000001"
    checkpoint.mkdir(parents=True)
    os.utime(train / CHECKPOINT, (0, 0))
    for name in ("manifest.json", "metrics.parquet", "model"):
        (marks / urlsafe_b64encode(f"{RUN}/train/{name}".encode()).decode()).write_text("{}")
    (marks / "no mark of an output").touch()
    assert project.plan() == set()
    assert not checkpoint.exists()
    assert [path.name for path in marks.iterdir()] == ["no mark of an output"]
    (train / "manifest.json").unlink()
    mark = marks / urlsafe_b64encode(f"{RUN}/train/model".encode()).decode()
    mark.write_text("{}")
    project.plan()
    assert mark.exists(), "without a manifest it was not finished"


def test_a_signal_after_the_manifest_costs_nothing(project):
    train = project.root / RUN / "train"
    manifest = (train / "manifest.json").read_bytes()
    (train / "manifest.json").unlink()
    (project.root / "src/sitecustomize.py").write_text(LATE_SIGNALS)
    result = project.snakemake("--cores", "2", "--", f"{RUN}/train/manifest.json")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (train / "manifest.json").read_bytes() == manifest


def test_what_a_finished_job_leaves_behind_has_the_names_that_stages_use():
    assert (job_files.MANIFEST, *job_files.LEFT_BEHIND) == (MANIFEST, CHECKPOINT, timing.FOLDER)


def test_a_killed_run_continues(built, project):
    """The short form of ``make campaign``."""
    shutil.rmtree(project.root / RUN)
    shutil.rmtree(project.root / "results/mini/report")  # what needs the run
    log = project.root / "results/mini/logs/rooms/grpo/seed1/.train.log"  # Snakemake deletes the link to it
    for ending in (signal.SIGKILL, signal.SIGINT):  # of Snakemake and its job alike
        process = start(project, log)
        os.killpg(process.pid, ending)
        process.wait()
        assert not (project.root / RUN / "train/manifest.json").exists()
    process = start(project, log)
    process.kill()  # Snakemake alone: its training lives on, and the next training waits for it
    process.wait()
    project.build()
    assert project.plan() == set()
    assert difference(project.root, bits(built)) == []
    assert begun(log) == 5, "a process's lines were lost"
