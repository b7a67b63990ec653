"""The audit accepts untouched results and names every kind of change. Commits are recorded with the results."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest

from empg import cli, sources
from empg.audit import audit
from empg.errors import AuditError, DataError
from empg.files import read_json, write_json
from empg.pipeline import origin
from empg.pipeline.commands import command
from empg.provenance import json_digest, tree
from empg.sources import PACKAGE

pytestmark = pytest.mark.xdist_group("made_up")

RUN = Path("alfworld/grpo_empg/seed1")


@pytest.fixture
def study(study_results: Path, tmp_path: Path) -> Path:
    return recorded(study_results, tmp_path)


@pytest.fixture
def reported(study_report: Path, tmp_path: Path) -> Path:
    return recorded(study_report, tmp_path)


def recorded(results: Path, root: Path) -> Path:
    """A copy of the results under ``root``, with the model of each evaluation in its manifest."""
    place = root / "results" / "made_up"
    shutil.copytree(results, place)
    for folder in place.glob("alfworld/*/seed*"):  # as the pipeline records it
        manifest = read_json(folder / "evaluate" / "manifest.json")
        write_json(
            folder / "evaluate" / "manifest.json", manifest | {"inputs": {"model": model(folder / "train" / "model")}}
        )
    return place


def model(folder: Path) -> str:
    return json_digest(tree(folder))


def lines(path: Path) -> list[str]:
    found: list[str] = []
    audit.run(path, found.append)
    return found


def differences(path: Path) -> str:
    found: list[str] = []
    with pytest.raises(AuditError):
        audit.run(path, found.append)
    return "\n".join(line for line in found if "agrees" not in line)


def record_anew(folder: Path) -> None:
    """Update the hashes in the manifest to the changed files, so that only the content can reveal the change."""
    write_json(folder / "manifest.json", read_json(folder / "manifest.json") | {"outputs": tree(folder)})


def test_untouched_results_agree(study: Path) -> None:
    text = "\n".join(lines(study / RUN))
    success = read_json(study / RUN / "evaluate" / "summary.json")["panels"]["valid_unseen"]["sampled"]["success"]
    assert f"valid_unseen/sampled: success {success}" in text
    assert "from 40 rows of episodes.parquet where split = valid_unseen, mode = sampled" in text
    assert "advantage of every step, to the last bit" in text
    assert f"command   empg train --config {study}/config/{RUN}/train.json" in text
    config = read_json(study / RUN / "train" / "manifest.json")["config"]
    assert f"config    {json_digest(config)}" in text
    assert "DIFFERS" not in text


def test_a_whole_study_has_a_line_for_each_folder(reported: Path) -> None:
    found = lines(reported)
    assert len(found) == len([*reported.rglob("manifest.json")]) == 11
    assert all(": " in line and "checks agree" in line for line in found)
    metrics = read_json(reported / "report" / "metrics.json")
    metrics["alfworld"]["valid_seen"]["greedy"]["grpo"]["success"] += 0.01
    write_json(reported / "report" / "metrics.json", metrics)
    record_anew(reported / "report")
    assert "alfworld.valid_seen.greedy.grpo.success" in differences(reported)


@pytest.mark.parametrize(
    ("name", "column"),
    [("results", "difference_tasks_low"), ("verdict", "p_equivalence"), ("aggregates", "improvement")],
)
def test_a_retouched_interval_is_found(reported: Path, name: str, column: str) -> None:
    path = reported / "report" / "tables" / f"{name}.parquet"
    table = pl.read_parquet(path)
    table.with_columns(pl.col(column) + 1e-6).write_parquet(path)
    record_anew(reported / "report")
    text = differences(reported / "report")
    assert f"{column}: {path} says" in text
    assert f"numbers of the table {name}" in text


def test_a_changed_byte_is_found(study: Path) -> None:
    with (study / RUN / "train" / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    text = differences(study / RUN)
    assert "model/model.safetensors: expected SHA-256" in text
    assert f"{study / RUN}/train/model: expected" in text  # the evaluation was of another model


def test_a_missing_file_is_found(study: Path) -> None:
    (study / RUN / "train" / "rollouts" / "iteration_0001.parquet").unlink()
    assert "iteration_0001.parquet: expected SHA-256" in differences(study / RUN)


def test_a_retouched_success_is_found(study: Path) -> None:
    path = study / RUN / "evaluate" / "summary.json"
    summary = read_json(path)
    summary["panels"]["valid_seen"]["greedy"]["success"] += 0.025
    write_json(path, summary)
    record_anew(path.parent)
    text = differences(study / RUN)
    assert text.count("the rows say") == 1
    assert f"success: {path} says" in text


def test_a_success_that_its_steps_do_not_show_is_found(study: Path) -> None:
    """The summary fits the retouched table; only the kept steps tell that the episode failed."""
    from empg.rollouts.evaluate import summarise

    folder = study / RUN / "evaluate"
    episodes = pl.read_parquet(folder / "episodes.parquet")
    failed = episodes.filter(split="valid_seen", mode="sampled", success=False)["task"][0]
    one = (pl.col("split") == "valid_seen") & (pl.col("mode") == "sampled") & (pl.col("task") == failed)
    retouched = episodes.with_columns(success=pl.col("success") | one)
    retouched.write_parquet(folder / "episodes.parquet")
    write_json(folder / "summary.json", read_json(folder / "summary.json") | {"panels": summarise(retouched)})
    record_anew(folder)
    text = differences(study / RUN)
    assert text.count("the rows say") == 1
    assert f"valid_seen/sampled task {failed} episode 0: success: " in text


@pytest.mark.parametrize("lost", ["step", "episode"])
def test_a_step_that_is_missing_is_found(study: Path, lost: str) -> None:
    folder = study / RUN / "evaluate"
    steps = pl.read_parquet(folder / "steps.parquet")
    gone = (pl.col("trajectory") == 5) & (pl.col("step") == 1 if lost == "step" else True)
    steps.filter(~gone).write_parquet(folder / "steps.parquet")
    record_anew(folder)
    assert "valid_seen/greedy task 5 episode 0: steps: " in differences(study / RUN)


def test_a_retouched_advantage_is_found(study: Path) -> None:
    path = study / RUN / "train" / "rollouts" / "iteration_0003.parquet"
    steps = pl.read_parquet(path)
    step = steps.row(7, named=True)["advantage"]
    bits = pl.Series([step], dtype=pl.Float32).to_numpy().view("int32") + 1  # the next float32
    changed = pl.Series("advantage", bits.view("float32"))
    column = pl.concat([steps["advantage"][:7], changed, steps["advantage"][8:]])
    steps.with_columns(column).write_parquet(path)
    record_anew(study / RUN / "train")
    text = differences(study / RUN)
    assert text.count("the rows say") == 1
    assert f"row 7: {path} says" in text


def test_other_settings_than_the_configuration_are_found(study: Path) -> None:
    manifest = read_json(study / RUN / "train" / "manifest.json")
    config = manifest["config"] | {"seed": 7}
    write_json(study / "config" / RUN / "train.json", config)
    assert "train.json has other settings now" in differences(study / RUN)


def test_what_the_rows_cannot_give_is_missing_and_no_difference(study: Path) -> None:
    """The advantages follow from Rényi-2 entropies of tokens, which the rollouts do not hold."""
    train = study / RUN / "train"
    manifest = read_json(train / "manifest.json")
    config = manifest["config"] | {"method": manifest["config"]["method"] | {"entropy": "renyi2"}}
    write_json(train / "manifest.json", manifest | {"config": config})
    write_json(study / "config" / RUN / "train.json", config)
    found = [line for line in lines(study / RUN) if "advantages and metrics" in line]
    assert len(found) == 1
    assert found[0].startswith("  missing ")
    assert found[0].endswith("the method has renyi2; not computed again")


def test_exit_codes(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(study / RUN)]) == 0
    assert cli.main(["audit", str(study / "alfworld" / "grpo" / "seed9")]) == 2
    error = capsys.readouterr().err
    assert "expected a run's folder, found no results; there are" in error
    assert error.splitlines()[1:] == [f"  {study}/alfworld/grpo/seed1", f"  {study}/alfworld/grpo/seed2"]
    (study / RUN / "train" / "metrics.parquet").write_bytes(b"no table")
    assert cli.main(["audit", str(study / RUN)]) == 1
    assert "metrics.parquet" in capsys.readouterr().out


def test_an_unreadable_file_does_not_end_the_audit(study: Path) -> None:
    """Of a whole study: the manifest of one folder, the table of a second and the timing of a third are damaged."""
    folders = [study / "alfworld" / method / "seed1" / "train" for method in ("grpo", "grpo_empg")]
    manifest, table = folders[0] / "manifest.json", folders[1] / "metrics.parquet"
    manifest.write_bytes(manifest.read_bytes()[:100])
    table.write_bytes(b"no table")
    (study / "alfworld" / "warmstart_evaluate" / "timing.json").write_text("{")
    found: list[str] = []
    with pytest.raises(AuditError, match="found 3 differences"):  # the table has two
        audit.run(study, found.append)
    text = "\n".join(found)
    assert f"{folders[0]}\n  DIFFERS   manifest.json can be read\n            {manifest}: expected JSON" in text
    assert f"{table}: expected SHA-256" in text
    assert "  DIFFERS   rows can be read" in text
    assert f"{study}/alfworld/warmstart_evaluate: " in text
    assert f"{study}/alfworld/grpo/seed2/evaluate: " in text
    assert len([line for line in found if line.startswith(str(study))]) == len([*study.rglob("manifest.json")])


@pytest.mark.parametrize("content", ["[]", "{}", '{"stage": 1}'])
def test_a_manifest_that_is_none_is_said_to_be(study: Path, content: str) -> None:
    (study / RUN / "evaluate" / "manifest.json").write_text(content)
    assert f"{study / RUN}/evaluate/manifest.json: " in differences(study / RUN)


def test_an_unreadable_study_file_does_not_end_the_audit(study: Path) -> None:
    (study / "config" / "study.json").write_text("{")
    text = differences(study / RUN)
    assert "command   unknown" in text
    assert text.count("config    ") == 2


def test_no_results_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are\n  none"):
        audit.run(tmp_path / "nothing", print)


def test_a_run_is_audited_in_seconds(study: Path) -> None:
    lines(study / RUN)  # imports torch
    begin = time.process_time()
    lines(study / RUN)
    assert time.process_time() - begin < 5


def test_commands_are_those_of_the_pipeline() -> None:
    """As the rules write them: workflow/rules/*.smk."""
    study = Path("results/quick")
    assert command(study, "alfworld/grpo/seed1/evaluate", "alfworld") == (
        "empg evaluate --config results/quick/config/alfworld/grpo/seed1/evaluate.json --data data/alfworld"
        " --model results/quick/alfworld/grpo/seed1/train/model --out results/quick/alfworld/grpo/seed1/evaluate"
    )
    assert command(study, "alfworld/warmstart_evaluate", "alfworld") == (
        "empg evaluate --config results/quick/config/alfworld/warmstart_evaluate.json --data data/alfworld"
        " --model results/quick/alfworld/warmstart/model --out results/quick/alfworld/warmstart_evaluate"
    )
    half = command(study, "alfworld/grpo/seed1/decisiveness_halfway", "alfworld")
    assert " --model results/quick/alfworld/grpo/seed1/train/halfway --out " in half
    folders = ("alfworld/warmstart", "alfworld/rollouts", "alfworld/grpo/seed1/train", "report", "decisiveness/report")
    folders += ("alfworld/warmstart_decisiveness", "testbed/gradients", "testbed/report")
    for folder in folders:
        cli.parser().parse_args(command(study, folder, "alfworld").split()[1:])


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository whose only commit holds a copy of this package."""
    place = tmp_path / "repository"
    shutil.copytree(PACKAGE, place / "src" / "empg", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "PACKAGE", place / "src" / "empg")
    sources.commit.cache_clear()
    git(place, "init", "--quiet")
    commit(place, "first")
    return place


def git(place: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    result = subprocess.run(["git", *identity, *arguments], cwd=place, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def commit(place: Path, message: str) -> str:
    git(place, "add", ".")
    git(place, "commit", "--quiet", "-m", message)
    return git(place, "rev-parse", "HEAD")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_the_code_is_recorded(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    assert sources.commit() == {"commit": first, "dirty": False}
    (repository / "elsewhere.txt").write_text("no part of the package\n")
    sources.commit.cache_clear()
    assert sources.commit() == {"commit": first, "dirty": False}
    (repository / "src" / "empg" / "training" / "rl.py").write_text("# another loop\n")
    sources.commit.cache_clear()
    assert sources.commit() == {"commit": first, "dirty": True}


def test_without_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(PACKAGE, tmp_path / "empg", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "PACKAGE", tmp_path / "empg")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    sources.commit.cache_clear()
    assert sources.commit() == {"commit": None, "dirty": None}


def test_a_commit_is_told_as_people_say_it(tmp_path: Path) -> None:
    assert origin.commit(tmp_path) is None
    for dirty, said in ((False, "abc"), (True, "abc with uncommitted changes")):
        write_json(tmp_path / "timing.json", {"commit": "abc", "dirty": dirty})
        assert origin.commit(tmp_path) == said
