"""What the next run would do: nothing when nothing changed, and exactly the jobs downstream of what did."""

from __future__ import annotations

import shutil
import time

import pytest

pytestmark = pytest.mark.xdist_group("pipeline")  # one process builds the study that all these tests copy

ENVIRONMENTS = ("rooms", "other_rooms")
REPORT = {"report", "track"}


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


def test_nothing_is_planned_after_a_run(project):
    begin = time.monotonic()
    result = project.snakemake("--cores", "all")
    assert result.returncode == 0
    assert "Nothing to be done" in result.stdout + result.stderr
    assert time.monotonic() - begin < 5
    assert project.plan() == set()


def test_touching_files_plans_nothing(project):
    for path in [*project.root.rglob("src/**/*.py"), *project.root.glob("config/*.yaml"), project.root / "dvc.yaml"]:
        path.touch()
    assert project.plan() == set()


def test_one_methods_setting(project):
    project.edit("config/config.yaml", lambda study: study["methods"]["grpo_empg"].update(k=0.5))
    assert project.plan() == stages(runs("grpo_empg")) | REPORT


def test_a_setting_put_back_plans_nothing(project):
    project.edit("config/config.yaml", lambda study: study["methods"]["grpo_empg"].update(k=0.5))
    assert project.plan()
    project.edit("config/config.yaml", lambda study: study["methods"]["grpo_empg"].pop("k"))
    assert project.plan() == set()


def test_another_seed(project):
    project.edit("config/config.yaml", lambda study: study["seeds"].append(2))
    assert project.plan() == stages(runs(seed="seed2")) | REPORT


def test_one_environments_data(project):
    project.edit("config/data.yaml", lambda data: data["rooms"].update(seed=7))
    assert project.plan() == environment_jobs("rooms") | REPORT


def test_one_environments_training(project):
    project.edit("config/config.yaml", lambda study: study["environments"]["rooms"]["train"].update(iterations=3))
    assert project.plan() == stages({"rooms/grpo/seed1", "rooms/grpo_empg/seed1"}) | REPORT


@pytest.mark.parametrize("lost", [False, True], ids=["", "records-lost"])
@pytest.mark.parametrize(
    ("file", "stage_names"),
    [
        ("src/empg/study/report.py", REPORT),
        ("src/empg/study/evaluate.py", {"evaluate", "warmstart_evaluate"} | REPORT),
        ("src/empg/training/rl.py", {"train", "evaluate"} | REPORT),
        ("src/empg/rollouts/sampler.py", {"rollouts", "train", "warmstart_evaluate", "evaluate"} | REPORT),
        (
            "src/empg/training/warmstart.py",
            {"warmstart", "rollouts", "train", "warmstart_evaluate", "evaluate"} | REPORT,
        ),
        ("src/empg/study/logbook.py", {"track"}),
        ("src/empg/cli.py", set()),
        ("src/empg/config.py", set()),
    ],
)
def test_a_comment_in_one_stages_source(project, file, stage_names, lost):
    if lost:
        shutil.rmtree(project.root / ".snakemake")
    project.append(file, "\n# a comment\n")
    everything = environment_jobs("rooms") | environment_jobs("other_rooms") | REPORT
    assert project.plan() == {job for job in everything if job.rpartition("/")[2] in stage_names}


def test_losing_snakemakes_records_hides_no_change(project):
    shutil.rmtree(project.root / ".snakemake")
    assert project.plan() == set()
    project.edit("config/config.yaml", lambda study: study["methods"]["grpo"].update(k=0.5))
    assert project.plan() == stages(runs("grpo")) | REPORT


def test_a_lost_database_is_made_again_from_the_results(project):
    (project.root / "results/mlflow.db").unlink()
    assert project.plan() == {"mlflow", "track"}
