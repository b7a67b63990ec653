"""The plan of the next run: nothing when nothing has changed, else exactly the jobs downstream of the change."""

from __future__ import annotations

import os
import shutil
import time

import pytest

pytestmark = pytest.mark.xdist_group("plans")  # one process makes the project that all these tests copy

ENVIRONMENTS = ("rooms", "other_rooms")
REPORT = {"report", "track"}
MEASURED = ("warmstart_decisiveness", "grpo/seed1/decisiveness_halfway", "grpo/seed1/decisiveness")


def environment_jobs(name):
    """All jobs of one environment."""
    runs = {f"{name}/{method}/seed1" for method in ("grpo", "grpo_empg")}
    return {f"data/{name}", f"{name}/warmstart", f"{name}/warmstart_evaluate", f"{name}/rollouts"} | stages(runs)


def stages(runs):
    return {f"{run}/{stage}" for run in runs for stage in ("train", "evaluate")}


def runs(method="", seed="seed1"):
    return {f"{e}/{m}/{seed}" for e in ENVIRONMENTS for m in ("grpo", "grpo_empg") if method in ("", m)}


def test_everything_is_planned_at_first(fresh):
    assert fresh.plan() == environment_jobs("rooms") | environment_jobs("other_rooms") | REPORT | {"mlflow"}


def test_nothing_is_planned_after_a_run(planned):
    begin = os.times()
    result = planned.run("snakemake", "--cores", "all")
    assert result.returncode == 0
    assert "Nothing to be done" in result.stdout + result.stderr
    end = os.times()
    seconds = end.children_user + end.children_system - begin.children_user - begin.children_system
    assert seconds < 5, "of CPU; the wall time of two idle cores is less"
    assert planned.plan() == set()


def test_touching_files_plans_nothing(planned):
    for path in [*planned.root.rglob("src/**/*.py"), *planned.root.glob("config/*.yaml"), planned.root / "dvc.yaml"]:
        path.touch()
    assert planned.plan() == set()


def test_one_methods_setting(planned):
    planned.edit("config/config.yaml", lambda study: study["methods"]["grpo_empg"].update(k=0.5))
    assert planned.plan() == stages(runs("grpo_empg")) | REPORT


def test_a_setting_put_back_plans_nothing(planned):
    planned.edit("config/config.yaml", lambda study: study["methods"]["grpo_empg"].update(k=0.5))
    assert planned.plan()
    planned.edit("config/config.yaml", lambda study: study["methods"]["grpo_empg"].pop("k"))
    assert planned.plan() == set()


def test_another_seed(planned):
    planned.edit("config/config.yaml", lambda study: study["seeds"].append(2))
    assert planned.plan() == stages(runs(seed="seed2")) | REPORT


def test_another_method(planned):
    another = {"advantage": "rloo", "modulation": "empg"}
    planned.edit("config/config.yaml", lambda study: study["methods"].update(rloo_empg=another))
    assert planned.plan() == stages({f"{name}/rloo_empg/seed1" for name in ENVIRONMENTS}) | REPORT


def test_another_environment_on_a_data_set_that_is_there(planned):
    llama = {"data": "rooms", "policy": {"type": "tiny", "family": "llama"}, "rollouts": {"tasks": 16}}
    planned.edit("config/config.yaml", lambda study: study["environments"].update(llama=llama))
    assert planned.plan() == (environment_jobs("llama") - {"data/llama"}) | REPORT


def test_decisiveness_is_measured_only_where_the_study_asks_for_it(planned):
    """The warm start and the baseline's policies, half-way and at the end, each by one more job.

    Nothing else but the reports reads the study.
    """
    planned.edit("config/config.yaml", lambda study: study.update(decisiveness={"methods": ["grpo"]}))
    measured = {f"{name}/{folder}" for name in ENVIRONMENTS for folder in MEASURED}
    assert planned.plan() == measured | {"decisiveness/report"} | REPORT
    assert planned.snakemake("--cores", "2").returncode == 0
    assert planned.plan() == set()
    planned.edit("config/config.yaml", lambda study: study["decisiveness"].update(steps=20))
    assert planned.plan() == measured | {"decisiveness/report"} | REPORT
    planned.edit("config/config.yaml", lambda study: study["decisiveness"].update(steps=300, methods=["grpo_empg"]))
    added = {f"{name}/grpo_empg/seed1/decisiveness{end}" for name in ENVIRONMENTS for end in ("", "_halfway")}
    assert planned.plan() == added | {"decisiveness/report"} | REPORT


def test_one_environments_data(planned):
    planned.edit("config/data.yaml", lambda data: data["data_sets"]["rooms"].update(seed=7))
    assert planned.plan() == environment_jobs("rooms") | REPORT


def test_one_environments_training(planned):
    planned.edit("config/config.yaml", lambda study: study["environments"]["rooms"]["train"].update(iterations=3))
    assert planned.plan() == stages({"rooms/grpo/seed1", "rooms/grpo_empg/seed1"}) | REPORT


@pytest.mark.parametrize(
    ("file", "stage_names"),
    [
        ("src/empg/report/page.py", REPORT),
        ("src/empg/rollouts/evaluate.py", {"evaluate", "warmstart_evaluate"} | REPORT),
        ("src/empg/training/rl.py", {"train", "evaluate"} | REPORT),
        ("src/empg/rollouts/sampler.py", {"rollouts", "train", "warmstart_evaluate", "evaluate"} | REPORT),
        (
            "src/empg/training/warmstart.py",
            {"warmstart", "rollouts", "train", "warmstart_evaluate", "evaluate"} | REPORT,
        ),
        ("src/empg/tracking/rebuild.py", {"track"}),
        ("src/empg/environments/webshop/engine/shop.py", set()),  # both data sets are ALFWorld's
        ("src/empg/cli.py", set()),
        ("src/empg/config/study.py", set()),
    ],
)
def test_a_comment_in_one_stages_source(planned, file, stage_names):
    planned.append(file, "\n# a comment\n")
    everything = environment_jobs("rooms") | environment_jobs("other_rooms") | REPORT
    assert planned.plan() == {job for job in everything if job.rpartition("/")[2] in stage_names}


def test_losing_snakemakes_records_hides_no_change(planned):
    shutil.rmtree(planned.root / ".snakemake")
    assert planned.plan() == set()
    planned.edit("config/config.yaml", lambda study: study["methods"]["grpo"].update(clip_low=0.1))
    planned.append("src/empg/rollouts/evaluate.py", "\n# a comment\n")
    evaluations = {job for e in ENVIRONMENTS for job in environment_jobs(e) if job.endswith("evaluate")}
    assert planned.plan() == stages(runs("grpo")) | evaluations | REPORT


def test_a_lost_database_is_made_again_from_the_results(planned):
    (planned.root / "results/mlflow.db").unlink()
    assert planned.plan() == {"mlflow", "track"}


def test_results_of_a_wrong_clock_are_dated_now(planned):
    """Snakemake would refuse every output that is older than an input of the future."""
    future = time.time() + 40 * 86400
    manifests = [planned.root / f"results/mini/rooms/{part}/manifest.json" for part in ("warmstart", "rollouts")]
    for path in manifests:
        os.utime(path, (future, future))
    shutil.rmtree(planned.root / "results/mini/rooms/grpo")
    shutil.rmtree(planned.root / "results/mini/report")
    planned.build()
    assert all(path.stat().st_mtime < time.time() + 1 for path in manifests)
    assert planned.plan() == set()


# Writes a line for each time that Snakemake chooses jobs, which takes longer than a timer.
COUNTED = """
import time
from snakemake.scheduling.job_scheduler import JobScheduler
def counted(self, jobs, choose=JobScheduler.job_selector):
    with open("choices", "a") as file:
        file.write("once\\n")
    time.sleep(1.1)
    return choose(self, jobs)
JobScheduler.job_selector = counted
"""


def test_snakemake_plans_once_for_each_job_that_ends(planned):
    """And not by timers that each finished job leaves behind."""
    planned.append("Snakefile", COUNTED)
    for name in ENVIRONMENTS:
        shutil.rmtree(planned.root / "results/mini" / name / "grpo")
    shutil.rmtree(planned.root / "results/mini/report")
    result = planned.snakemake("--cores", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    jobs = stages(runs("grpo")) | REPORT
    assert len((planned.root / "choices").read_text().splitlines()) <= len(jobs) + 1
