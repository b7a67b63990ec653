"""What an auditor finds in MLflow, read with MLflow's client from a real SQLite database."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from empg.config import Sampling, Train, TrainRun, parse
from empg.errors import DataError, StorageError
from empg.files import read_json, write_json
from empg.pipeline import times
from empg.tracking import database as tracking_database
from empg.tracking import system_metrics, traces
from empg.tracking.database import connect, create, set_aside_if_damaged, uri
from empg.tracking.experiment import views
from empg.tracking.live import _Curves, live
from empg.tracking.rebuild import rebuild
from empg.tracking.traces import sample
from empg.tracking.tracker import Identity, Tracker

if TYPE_CHECKING:
    from mlflow.entities import Run, Trace

pytestmark = pytest.mark.xdist_group("made_up")  # one process makes the study that all these tests copy

MD5 = "0123456789abcdef0123456789abcdef.dir"
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
NAMES = {
    "alfworld-warmstart",
    "alfworld-grpo-seed1",
    "alfworld-grpo-seed2",
    "alfworld-grpo_empg-seed1",
    "alfworld-grpo_empg-seed2",
}


def copy(study_results: Path, place: Path) -> Path:
    """results/made_up under ``place``, with the data set's identity beside it."""
    study = place / "results" / "made_up"
    shutil.copytree(study_results, study)
    identity = {"name": "alfworld", "path": "data/alfworld", "md5": MD5, "size": 7, "nfiles": 2}
    write_json(study.parent / "data" / "alfworld.json", identity)
    return study


def without_database(study: Path, place: Path) -> Path:
    """The same results at a path that MLflow has not seen, because MLflow keeps a deleted database open."""
    again = place / "results" / study.name
    again.parent.mkdir(parents=True)
    study.rename(again)
    (study.parent / "data").rename(again.parent / "data")
    return again


def without_models(study: Path, keep: tuple[str, ...] = ()) -> Path:
    """Logging a model costs seconds, so only the models of the stages ``keep`` are small enough to be logged."""
    for folder in {*study.glob("**/model")} - {study / stage / "model" for stage in keep}:
        (folder / "config.json").unlink()
        with (folder / "model.safetensors").open("ab") as file:
            file.truncate(3 * 1024**3)  # sparse: too large to be copied
    return study


def runs(study: Path) -> dict[str, Run]:
    client = connect(study.parent)
    experiment = client.get_experiment_by_name("made_up")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def history(study: Path, run: Run, key: str) -> list[tuple[int, float]]:
    client = connect(study.parent)
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)]


def all_traces(study: Path) -> list[Trace]:
    client = connect(study.parent)
    experiment = client.get_experiment_by_name("made_up")
    assert experiment is not None
    return list(client.search_traces(locations=[experiment.experiment_id], max_results=500))


def content(study: Path) -> dict[str, Any]:
    """Everything that an auditor sees of each run, except random ids of MLflow and the study's path."""
    client, logged = connect(study.parent), all_traces(study)
    found: dict[str, Any] = {}
    for name, run in runs(study).items():
        own = [trace for trace in logged if trace.info.trace_metadata["mlflow.sourceRun"] == run.info.run_id]
        text = json.dumps(
            {
                "status": run.info.status,
                "tags": run.data.tags,
                "params": run.data.params,
                "metrics": {key: history(study, run, key) for key in sorted(run.data.metrics)},
                "data": [(entry.dataset.name, entry.dataset.digest) for entry in run.inputs.dataset_inputs],
                "files": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
                "models": len(Tracker(study).models(run)),
                "traces": sorted(
                    json.dumps([[s.name, s.inputs, s.outputs] for s in t.data.spans] + [t.info.assessments[0].value])
                    for t in own
                ),
            },
            sort_keys=True,
        )
        found[name] = json.loads(text.replace(str(study), "STUDY"))
    return found


def train_config(study: Path, method: str = "grpo", seed: int = 1) -> TrainRun:
    manifest = read_json(study / "alfworld" / method / f"seed{seed}" / "train" / "manifest.json")
    return parse(TrainRun, manifest["config"], "manifest")


@pytest.fixture(scope="module")
def tracked(study_report: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = copy(study_report, tmp_path_factory.mktemp("tracked"))
    for path in study.rglob("timing.json"):
        write_json(path, read_json(path) | {"commit": COMMIT, "dirty": False})
    rebuild(without_models(study, keep=("alfworld/warmstart", "alfworld/grpo_empg/seed1/train")))
    return study


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database, which takes a second to make and none to copy."""
    root = tmp_path_factory.mktemp("database")
    create(root)
    return root / "mlflow.db"


@pytest.fixture
def study(study_results: Path, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of the test's own, of which MLflow gets no models and one trace of each panel."""
    monkeypatch.setattr(traces, "EACH", 1)
    study = without_models(copy(study_results, tmp_path))
    shutil.copy(database, study.parent)
    return study


@pytest.fixture
def one(study: Path) -> Path:
    """``study`` with no other runs than the warm start and that of grpo with seed 1."""
    shutil.rmtree(study / "alfworld" / "grpo_empg")
    shutil.rmtree(study / "alfworld" / "grpo" / "seed2")
    return study


def test_every_result_is_a_run_in_one_flat_table(tracked: Path) -> None:
    found = runs(tracked)
    assert set(found) == {*NAMES, "report"}
    assert all(run.info.status == "FINISHED" for run in found.values())
    assert not any("mlflow.parentRunId" in run.data.tags for run in found.values())
    tags = found["alfworld-grpo_empg-seed2"].data.tags
    wanted = {"study": "made_up", "stage": "train", "env": "alfworld", "method": "grpo_empg", "seed": "2"}
    assert tags | wanted == tags
    assert tags["processes"] == "1"
    assert "empg train --config" in tags["mlflow.note.content"]
    assert f"empg audit {tracked}/alfworld/grpo_empg/seed2`" in tags["mlflow.note.content"]
    assert all({"valid_seen", "valid_unseen"} <= set(found[name].data.metrics) for name in NAMES)


def test_times_list_every_job_and_the_tracking_last(tracked: Path) -> None:
    """Every line but the head and the last is a job: `begin end wall CPU name`."""
    jobs = [line.split() for line in times.table(tracked).splitlines()[1:-1]]
    names = [job[-1] for job in jobs]
    assert {"made_up/alfworld/grpo/seed1/train", "made_up/alfworld/warmstart", "made_up/report"} <= set(names)
    assert names[-1] == "made_up/track"
    seconds = read_json(tracked / "track.timing.json")
    wall = seconds["startup_seconds"] + seconds["wall_seconds"]
    assert jobs[-1][2:4] == [f"{wall:.1f}", f"{seconds['cpu_seconds']:.1f}"]


def test_each_panel_is_a_metric(tracked: Path) -> None:
    panels = read_json(tracked / "alfworld" / "grpo" / "seed1" / "evaluate" / "summary.json")["panels"]
    metrics = runs(tracked)["alfworld-grpo-seed1"].data.metrics
    for split, modes in panels.items():
        assert metrics[split] == modes["sampled"]["success"]
        assert metrics[f"{split}_greedy"] == modes["greedy"]["success"]


def test_experiment_says_what_it_is_and_has_a_view_of_each_environment(tracked: Path) -> None:
    experiment = connect(tracked.parent).get_experiment_by_name("made_up")
    assert experiment is not None
    first, *rest = experiment.tags["mlflow.note.content"].splitlines()
    links = dict(re.findall(r"\[([^]]+)\]\(([^)]+)\)", first))
    assert list(links) == ["alfworld", "all", "warm starts", "episodes", "report"]
    assert all("workflowType=machine_learning" in link for link in links.values())
    assert runs(tracked)["report"].info.run_id in links["report"]
    assert "A small results folder that no training made." in rest
    assert f"`empg track --results {tracked}`" in rest[-1]
    for key, title in (("alfworld", "alfworld: trained policies"), ("policies", "Trained policies")):
        assert f"viewStateShareKey={key}&" in "".join(links.values())
        view = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
        state = json.loads(view["state"])
        assert view["name"] == title
        metrics = [column for column in state["selectedColumns"] if column.startswith("metrics.")]
        names = {column.removeprefix("metrics.").strip("`") for column in metrics}
        assert names >= {"valid_seen", "valid_unseen"}
        assert names <= set(runs(tracked)["alfworld-grpo-seed1"].data.metrics)
        shown = connect(tracked.parent).search_runs([experiment.experiment_id], state["searchFilter"])
        assert {run.info.run_name for run in shown} == NAMES - {"alfworld-warmstart"}


def test_numbers_are_those_of_the_files(tracked: Path) -> None:
    run = runs(tracked)["alfworld-grpo-seed2"]
    folder = tracked / "alfworld" / "grpo" / "seed2"
    metrics = pl.read_parquet(folder / "train" / "metrics.parquet")
    assert history(tracked, run, "train/success") == list(metrics.select("iteration", "success").iter_rows())
    assert "train/kl" not in run.data.metrics  # null: not computed
    panel = read_json(folder / "evaluate" / "summary.json")["panels"]["valid_unseen"]["sampled"]
    warm = read_json(tracked / "alfworld" / "warmstart_evaluate" / "summary.json")["panels"]["valid_unseen"]["sampled"]
    assert run.data.metrics["valid_unseen"] == panel["success"]
    assert run.data.metrics["valid_unseen/sampled/lift"] == panel["success"] - warm["success"]
    assert run.data.params["method.advantage"] == "grpo"
    assert float(run.data.params["train.optimiser.lr"]) == Train().optimiser.lr


def test_data_set_has_the_hash_that_dvc_knows(tracked: Path) -> None:
    (entry,) = runs(tracked)["alfworld-grpo-seed1"].inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("alfworld", MD5)


def test_report_is_an_artifact(tracked: Path) -> None:
    client = connect(tracked.parent)
    artifacts = {file.path for file in client.list_artifacts(runs(tracked)["report"].info.run_id)}
    assert {"report.html", "manifest.json", "tables", "figures"} <= artifacts


def test_a_model_answers_chat_messages_and_says_how_to_ask(tracked: Path) -> None:
    import mlflow.pyfunc
    import mlflow.transformers

    mlflow.set_tracking_uri(uri(tracked.parent))
    run = runs(tracked)["alfworld-grpo_empg-seed1"]
    (output,) = run.outputs.model_outputs
    (model,) = Tracker(tracked).models(run)
    assert (model.name, model.model_id) == ("alfworld-grpo_empg-seed1", output.model_id)
    address = f"models:/{model.model_id}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow and transformers warn about their own code
        about = mlflow.models.get_model_info(address)
        chat = mlflow.pyfunc.load_model(address)
        request = chat.input_example
        (answer,) = chat.predict(request | {"max_tokens": 3})
        pipeline = mlflow.transformers.load_model(address)
        (continued,) = pipeline(request["messages"], max_new_tokens=3, do_sample=False)
    assert request["messages"][-1] == {"role": "user", "content": "You see a mug 0."}
    assert request["max_tokens"] == Sampling().max_response
    assert about.signature.inputs.input_names()[0] == "messages"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] <= 3
    assert continued["generated_text"][-1]["role"] == "assistant"
    assert "You see a mug 0." in model.tags["mlflow.note.content"]
    assert f'mlflow.pyfunc.load_model("{address}")' in model.tags["mlflow.note.content"]


def test_a_models_commit_is_its_runs(tracked: Path) -> None:
    run = runs(tracked)["alfworld-grpo_empg-seed1"]
    (model,) = Tracker(tracked).models(run)
    assert run.data.tags["mlflow.source.git.commit"] == model.tags["mlflow.source.git.commit"] == COMMIT


def test_a_sample_of_evaluation_episodes_is_traced_step_by_step(tracked: Path) -> None:
    run = runs(tracked)["alfworld-grpo_empg-seed1"]
    folder = tracked / "alfworld/grpo_empg/seed1/evaluate"
    episodes, steps = (pl.read_parquet(folder / f"{name}.parquet") for name in ("episodes", "steps"))
    own = [trace for trace in all_traces(tracked) if trace.info.trace_metadata["mlflow.sourceRun"] == run.info.run_id]
    names = [trace.data.spans[0].name for trace in own]  # the latest first, as MLflow's page lists them
    drawn = [f"{row['split']} {row['mode']} task {row['task']}" for row, _ in sample(folder, "alfworld")]
    assert names == drawn
    for trace in own:
        root, *spans = trace.data.spans
        split, mode, _, task = root.name.split()
        (episode,) = episodes.filter(split=split, mode=mode, task=int(task)).to_dicts()
        played = steps.filter(split=split, mode=mode, task=int(task))
        assert trace.info.assessments[0].feedback.value == episode["success"]
        assert [span.outputs["text"] for span in spans] == played["text"].to_list()
        assert [span.inputs["observation"] for span in spans] == played["observation"].to_list()
        means = played["entropies"].list.mean().to_list()
        assert [span.attributes["mean_entropy"] for span in spans] == pytest.approx(means)
        assert root.attributes["report"] == f"episodes/alfworld-grpo_empg-seed1-{split}-{mode}.html#task-{task}"


def test_the_sample_does_not_look_at_outcomes(study_results: Path, tmp_path: Path) -> None:
    """Whoever solves them: all policies and both modes have the same tasks."""
    study = copy(study_results, tmp_path)
    place = study / "alfworld" / "grpo" / "seed1" / "evaluate"
    before = [(episode["split"], episode["mode"], episode["task"]) for episode, _ in sample(place, "alfworld")]
    assert len(before) == 4 * traces.EACH
    path = place / "episodes.parquet"
    pl.read_parquet(path).with_columns(~pl.col("success")).write_parquet(path)
    assert [(row["split"], row["mode"], row["task"]) for row, _ in sample(place, "alfworld")] == before
    other = study / "alfworld" / "warmstart_evaluate"
    assert [(row["split"], row["mode"], row["task"]) for row, _ in sample(other, "alfworld")] == before
    tasks = {mode: [task for _, found, task in before if found == mode] for mode in ("greedy", "sampled")}
    assert tasks["greedy"] == tasks["sampled"]


def test_traces_of_old_results_are_among_the_last_days(one: Path) -> None:
    """MLflow's table of traces shows seven days unless it is told otherwise."""
    for path in one.rglob("*.parquet"):
        os.utime(path, (0, 0))
    begin = time.time()
    rebuild(one)
    times = [trace.info.timestamp_ms / 1000 for trace in all_traces(one)]
    assert len(times) == 2 * 4 * traces.EACH
    assert all(begin - 4 * traces.EACH < seconds <= time.time() for seconds in times)


def test_rebuilding_again_changes_nothing(tracked: Path) -> None:
    before = {name: (run.info.run_id, run.data.metrics) for name, run in runs(tracked).items()}
    logged = {trace.info.trace_id for trace in all_traces(tracked)}
    rebuild(tracked)
    assert {name: (run.info.run_id, run.data.metrics) for name, run in runs(tracked).items()} == before
    assert {trace.info.trace_id for trace in all_traces(tracked)} == logged


REBUILD = """
import sys
from pathlib import Path
from empg.tracking import traces
from empg.tracking.rebuild import rebuild
import mlflow, mlflow.tracing.fluent
traces.EACH = 1
print("begun", flush=True)
rebuild(Path(sys.argv[1]))
"""


def test_killed_tracker_is_made_whole_and_a_lost_database_comes_back_the_same(
    study: Path, study_results: Path, tmp_path: Path
) -> None:
    clean = without_models(copy(study_results, tmp_path / "clean"))
    shutil.copy(study.parent / "mlflow.db", clean.parent)
    begin = time.monotonic()
    rebuild(clean)
    needed, expected = time.monotonic() - begin, content(clean)
    assert set(expected) == NAMES
    draw, killed = random.Random(0), 0
    for _ in range(2):
        command = [sys.executable, "-c", REBUILD, str(study)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            time.sleep(draw.random() * needed)
            process.kill()
            killed += process.wait() == -signal.SIGKILL
    assert killed
    rebuild(study)
    assert content(study) == expected
    again = without_database(study, tmp_path / "again")
    rebuild(again)
    assert content(again) == expected


def test_system_metrics_are_live_and_come_back(one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "SECONDS", 0.2)
    with live(one, "train", train_config(one)) as log:
        log(0, {"success": pl.read_parquet(one / "alfworld/grpo/seed1/train/metrics.parquet")["success"][0]})
        time.sleep(0.5)
    run = runs(one)["alfworld-grpo-seed1"]
    key = "system/cpu_utilization_percentage"
    sampled = history(one, run, key)
    assert [step for step, _ in sampled] == list(range(len(sampled)))
    assert sampled
    rebuild(one)
    assert runs(one)["alfworld-grpo-seed1"].info.run_id == run.info.run_id
    again = without_database(one, tmp_path / "again")
    rebuild(again)
    assert history(again, runs(again)["alfworld-grpo-seed1"], key) == sampled


def test_unfinished_model_is_dropped(one: Path) -> None:
    tracker = Tracker(one)
    identity = Identity.of("train", train_config(one).model_dump(mode="json"))
    run = tracker.begin(identity, train_config(one).model_dump(mode="json"))
    tracker.client.create_logged_model(tracker.experiment, name="policy", source_run_id=run.info.run_id)
    rebuild(one)
    assert runs(one)["alfworld-grpo-seed1"].info.run_id == run.info.run_id
    assert tracker.models(run) == []


def test_pages_of_a_run_are_its_artifacts(one: Path) -> None:
    page = one / "report" / "trajectories" / "alfworld-grpo-seed1.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("<!doctype html><title>first</title>")
    rebuild(one)
    page.write_text("<!doctype html><title>second</title>")  # a change that no manifest records
    rebuild(one)
    client = connect(one.parent)
    run = runs(one)["alfworld-grpo-seed1"]
    assert "second" in Path(client.download_artifacts(run.info.run_id, page.name)).read_text()


def test_killed_and_resumed_stage_is_one_run(one: Path) -> None:
    rows = list(pl.read_parquet(one / "alfworld/grpo/seed1/train/metrics.parquet").iter_rows(named=True))
    killed = _Curves(one, "train", train_config(one).model_dump(mode="json"))
    for row in rows[:3]:
        killed.log(row["iteration"], {"success": row["success"], "kl": None})
    killed.flush()  # then nothing, as if the process were killed here
    with live(one, "train", train_config(one)) as log:
        for row in rows:
            log(row["iteration"], {"success": row["success"], "kl": None})
    shown = runs(one)["alfworld-grpo-seed1"]
    assert shown.info.run_id == killed.run.info.run_id
    assert shown.info.status == "FINISHED"
    rebuild(one)
    run = runs(one)["alfworld-grpo-seed1"]
    assert run.info.run_id == shown.info.run_id
    assert history(one, run, "train/success") == [(row["iteration"], row["success"]) for row in rows]
    assert history(one, run, "train/loss") == [(row["iteration"], row["loss"]) for row in rows]


def test_curves_of_other_results_are_replaced(one: Path) -> None:
    with live(one, "train", train_config(one)) as log:
        log(0, {"success": 0.123})
    stale = runs(one)["alfworld-grpo-seed1"]
    rebuild(one)
    run = runs(one)["alfworld-grpo-seed1"]
    assert run.info.run_id != stale.info.run_id
    assert 0.123 not in [value for _, value in history(one, run, "train/success")]


def test_repeated_stage_takes_the_place_of_the_first(study: Path) -> None:
    for _ in range(2):
        with live(study, "train", train_config(study)) as log:
            log(0, {"success": 0.5})
    assert set(runs(study)) == {"alfworld-grpo-seed1"}


def test_failed_stage_says_so(study: Path) -> None:
    with pytest.raises(ZeroDivisionError), live(study, "train", train_config(study)):
        raise ZeroDivisionError
    assert runs(study)["alfworld-grpo-seed1"].info.status == "FAILED"


def test_results_that_are_gone_leave_the_table(study: Path) -> None:
    rebuild(study)
    assert len(all_traces(study)) == 5 * 4 * traces.EACH
    shutil.rmtree(study / "alfworld" / "grpo_empg")
    rebuild(study)
    assert set(runs(study)) == {name for name in NAMES if "empg" not in name}
    assert len(all_traces(study)) == 3 * 4 * traces.EACH


WRITER = """
import sys
from pathlib import Path
from empg.config import TrainRun, parse
import empg.tracking.live
from empg.files import read_json
from empg.tracking.live import live
study, seed = Path(sys.argv[1]), sys.argv[2]
manifest = read_json(study / "alfworld" / "grpo" / f"seed{seed}" / "train" / "manifest.json")
with live(study, "train", parse(TrainRun, manifest["config"], "manifest")) as log:
    empg.tracking.live.FLUSH_SECONDS = 0
    for step in range(100):
        log(step, {"success": step / 100, "loss": -step})
"""


def test_processes_write_at_the_same_time(study: Path) -> None:
    """No database exists before they start."""
    (study.parent / "mlflow.db").unlink()
    command = [sys.executable, "-c", WRITER, str(study)]
    writers = [subprocess.Popen([*command, seed], stderr=subprocess.PIPE, text=True) for seed in ("1", "2")]
    for writer in writers:
        _, messages = writer.communicate(timeout=120)
        assert (writer.returncode, messages) == (0, "")
    for seed in (1, 2):
        run = runs(study)[f"alfworld-grpo-seed{seed}"]
        assert history(study, run, "train/loss") == [(step, -step) for step in range(100)]


def test_broken_database_costs_no_result(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study.parent / "mlflow.db").write_text("not a database, but long enough to be taken for one" * 100)
    with live(study, "train", train_config(study)) as log:
        log(0, {"success": 0.5})
        log(1, {"success": 0.6})
    messages = capsys.readouterr().err
    assert messages.count("no more live curves") == 1
    assert str(study.parent / "mlflow.db") in messages


def test_damaged_database_is_set_aside_and_written_anew(one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = one.parent / "mlflow.db"
    content = bytearray(database.read_bytes())
    content[8192::8192] = b"x" * len(content[8192::8192])
    for damaged in (b"not a database, but long enough to be taken for one" * 100, bytes(content)):
        database.write_bytes(damaged)
        set_aside_if_damaged(one.parent)
        assert not database.exists()
        aside = max(one.parent.glob("mlflow.db.damaged*"))
        assert aside.read_bytes() == damaged
        assert f"{database}: damaged" in capsys.readouterr().err
    rebuild(one)
    assert "alfworld-grpo-seed1" in runs(one)
    set_aside_if_damaged(one.parent)
    assert database.exists()


def test_locked_database_is_one_message(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_database, "LOCK_SECONDS", 1)
    with closing(sqlite3.connect(study.parent / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        set_aside_if_damaged(study.parent)
        with pytest.raises(StorageError, match=r"mlflow.db: expected a database to write in, found one that another"):
            rebuild(study)


def test_an_experiment_that_was_deleted_comes_back(one: Path) -> None:
    rebuild(one)
    client = connect(one.parent)
    client.delete_experiment(client.get_experiment_by_name(one.name).experiment_id)
    rebuild(one)
    assert client.get_experiment_by_name(one.name).lifecycle_stage == "active"


def test_views_are_of_evaluations_alone(one: Path) -> None:
    """A measurement of decisiveness has a summary too, and stands before the evaluation by name."""
    before = views(one)
    folder = one / "alfworld" / "grpo" / "seed1" / "decisiveness"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("{}")
    assert views(one) == before


def test_nothing_to_rebuild_from(tmp_path: Path) -> None:
    (tmp_path / "results" / "made_up").mkdir(parents=True)
    with pytest.raises(DataError, match="found no finished stage"):
        rebuild(tmp_path / "results" / "made_up")


def test_a_run_names_its_environments_data_set(database: Path, tmp_path: Path) -> None:
    """Environments of a study may share a data set: a run of "llama" uses the tasks of "rooms"."""
    study = tmp_path / "results" / "families"
    grid = {
        "study": "families",
        "seeds": [1],
        "methods": {"grpo": {"advantage": "grpo"}},
        "environments": {"rooms": {}, "llama": {"data": "rooms"}},
    }
    write_json(study / "config" / "study.json", grid)
    write_json(study.parent / "data" / "rooms.json", {"name": "rooms", "path": "data/rooms", "md5": MD5})
    shutil.copy(database, study.parent)
    tracker = Tracker(study)
    for environment in ("rooms", "llama"):
        run = tracker.begin(Identity("train", environment, "grpo", 1), {})
        logged = tracker.client.get_run(run.info.run_id)
        (found,) = logged.inputs.dataset_inputs
        assert (found.dataset.name, found.dataset.digest) == ("rooms", MD5)
        note = logged.data.tags["mlflow.note.content"]
        assert f"--data data/rooms --model {study}/{environment}/warmstart/model" in note
