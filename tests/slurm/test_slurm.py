"""A study on a real Slurm cluster: killed, resumed, and equal to a run without Slurm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..workflow.conftest import MIMIC, Project, unbuilt  # noqa: F401
from .cluster import Cluster, wait

pytestmark = pytest.mark.longer
# What a cluster without an accounting database needs (docs/running-on-gpus.md), and a shorter wait than a real one.
OPTIONS = ["--slurm-status-command", "squeue", "--slurm-no-account", "--slurm-init-seconds-before-status-checks", "2"]
TRAIN = "results/mini/rooms/grpo_empg/seed1/train"
JOBS = 6  # warm start, its evaluation, rollouts, training, evaluation, report; the others run beside Snakemake
# Each stage notes down the GPU that Slurm gave it.
NOTE_GPU = """
import os
with open("gpus", "a") as file:
    file.write(f"{stage} {os.environ.get('CUDA_VISIBLE_DEVICES', 'none')}\\n")
"""
MINUTES = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def copy(source: Path, target: Path) -> Project:
    """The miniature study with one environment and one method, whose training writes forty checkpoints."""
    project = Project(Path(shutil.copytree(source, target)))

    def change(study: dict) -> None:
        study["environments"] = {"rooms": study["environments"]["rooms"]}
        study["environments"]["rooms"]["train"] |= {"iterations": 40}
        study["environments"]["rooms"]["warmstart"] = {"tokens": 2000}
        study["methods"] = {"grpo_empg": study["methods"]["grpo_empg"]}
        study["baseline"] = "grpo_empg"

    project.edit("config/config.yaml", change)
    return project


def submit(project: Project, cluster: Cluster, *profiles: str) -> subprocess.Popen:
    """Start Snakemake in a session of its own; its output goes to ``project/output``."""
    named = [part for name in (*profiles, "slurm") for part in ("--profile", f"profiles/{name}")]
    command = [sys.executable, "-m", "snakemake", *named, *OPTIONS]
    env = project.env | {name: cluster.env[name] for name in ("SLURM_CONF", "PATH")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [env["PYTHONPATH"], os.environ.get("PYTHONPATH")]))
    with (project.root / "output").open("a") as out:
        return subprocess.Popen(
            command, cwd=project.root, env=env, start_new_session=True, stdout=out, stderr=subprocess.STDOUT
        )


def finish(project: Project, snakemake: subprocess.Popen) -> None:
    assert snakemake.wait(40 * MINUTES) == 0, (project.root / "output").read_text()[-4000:]


def checkpoint(project: Project) -> int:
    """The iteration of the last checkpoint; 0 without one."""
    return max((int(path.name) for path in (project.root / TRAIN / "checkpoint").glob("[0-9]*[0-9]")), default=0)


def until_past(project: Project, snakemake: subprocess.Popen, iteration: int) -> None:
    """Wait until training has a checkpoint of a later iteration, and is still at work."""

    def holds() -> bool:
        assert snakemake.poll() is None, (project.root / "output").read_text()[-4000:]
        return checkpoint(project) > iteration

    wait(holds, f"a checkpoint after iteration {iteration}", 20 * MINUTES)


def test_a_study_survives_kills_and_ends_with_the_bits_of_a_local_run(cluster, unbuilt, tmp_path):  # noqa: F811
    project, local = (copy(unbuilt, tmp_path / name) for name in ("slurm", "local"))

    snakemake = submit(project, cluster)
    until_past(project, snakemake, 3)
    os.killpg(snakemake.pid, signal.SIGKILL)  # Snakemake's machine fails …
    cluster.cancel(*cluster.jobs())  # … and the nodes with it
    snakemake.wait()
    wait(lambda: not cluster.jobs(), "killed jobs to end")
    reached = checkpoint(project)
    assert 3 < reached < 40
    assert not (project.root / TRAIN / "manifest.json").exists()
    first = (project.root / TRAIN / "rollouts/iteration_0000.parquet").stat().st_mtime_ns

    snakemake = submit(project, cluster)
    until_past(project, snakemake, reached)
    cluster.cancel(*cluster.jobs("train"))  # the job alone: Snakemake submits it again
    finish(project, snakemake)

    assert (project.root / TRAIN / "rollouts/iteration_0000.parquet").stat().st_mtime_ns == first  # resumed both times
    states = [job["JobState"] for job in cluster.finished()]
    assert states.count("COMPLETED") == JOBS
    assert len(states) - states.count("COMPLETED") >= 2
    assert project.plan() == set()

    local.build()
    for name in ("model/model.safetensors", "metrics.parquet"):
        assert (project.root / TRAIN / name).read_bytes() == (local.root / TRAIN / name).read_bytes()
    assert (project.root / "results/mini/report/report.html").exists()


def test_gpus_and_memory_of_the_profile_are_requested(cluster, unbuilt, tmp_path):  # noqa: F811
    project = copy(unbuilt, tmp_path / "slurm")
    (project.root / "src/empg/__main__.py").write_text(MIMIC + NOTE_GPU)
    before = len(cluster.finished())
    finish(project, submit(project, cluster, "gpu"))
    requested = [job["Tres"] for job in cluster.finished()[before:]]
    assert len(requested) == JOBS
    assert all("mem=62.50G" in tres for tres in requested), requested  # 64,000 MB
    notes = sorted(set((project.root / "gpus").read_text().splitlines()))
    on_gpus = ["evaluate", "report", "rollouts", "train", "warmstart"]
    assert notes == sorted([f"{stage} 0" for stage in on_gpus] + ["dvc none", "track none"])
