"""Mistakes in what the user gives: one message with file, key, expected and found; exit code 2; nothing touched."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from empg.errors import ConfigError
from empg.pipeline.job_files import prepare


def files(project):
    return {path: path.read_bytes() for path in (project.root / "results").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(sede=1), "config/config.yaml: sede: unknown; did you mean seeds?"),
        (
            lambda s: s["environments"]["rooms"]["train"].update(iteration=3),
            "config/config.yaml: environments.rooms.train.iteration: unknown; did you mean iterations?",
        ),
        (
            lambda s: s["environments"]["rooms"]["train"].update(iterations="many"),
            "config/config.yaml: environments.rooms.train.iterations: Input should be a valid integer",
        ),
        (
            lambda s: s["methods"]["grpo_empg"].update(k=-1),
            "config/config.yaml: methods.grpo_empg.k: Input should be greater than",
        ),
        (
            lambda s: s["methods"]["grpo"].update(advantage="ppo"),
            "methods.grpo.advantage: expected one of dapo, gigpo, grpo, rloo, rtmc, found 'ppo'",
        ),
        (
            lambda s: s["methods"]["grpo"].update(omega=1),
            "config/config.yaml: methods.grpo.omega: unknown; it is a setting of advantage gigpo",
        ),
        (lambda s: s.update(seeds=[]), "seeds: expected at least one, found none"),
        (lambda s: s.update(baseline="rloo"), "baseline: expected one of grpo, grpo_empg, found 'rloo'"),
        (
            lambda s: s["environments"].update(nowhere={}),
            "config/config.yaml: environments.nowhere: expected one of the data sets rooms, other_rooms",
        ),
        (
            lambda s: s["methods"].update(rollouts={"advantage": "grpo"}),
            "config/config.yaml: methods.rollouts: expected another name",
        ),
    ],
)
def test_a_mistake_in_the_study(unbuilt, tmp_path, change, message):
    config = Path(shutil.copytree(unbuilt / "config", tmp_path / "config"))
    study = yaml.safe_load((config / "config.yaml").read_text())
    change(study)
    (config / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    with pytest.raises(ConfigError) as error:
        prepare(config, None, tmp_path / "results")
    assert message in str(error.value).replace(f"{tmp_path}/", "")
    assert not (tmp_path / "results").exists()


def test_a_mistake_stops_snakemake_before_anything(fresh):
    assert fresh.snakemake("-n").returncode == 0
    before = files(fresh)
    assert before
    fresh.edit("config/config.yaml", lambda study: study["methods"]["grpo_empg"].update(k="x", zetta=1))
    result = fresh.snakemake("--cores", "1")
    assert result.returncode == 2
    assert "config/config.yaml: methods.grpo_empg.k: Input should be a valid number" in result.stderr
    assert "config/config.yaml: methods.grpo_empg.zetta: unknown; did you mean zeta?" in result.stderr
    assert "Traceback" not in result.stderr
    assert files(fresh) == before


def test_a_study_that_does_not_fit_into_memory_is_refused_before_its_first_job(fresh):
    fresh.edit("config/config.yaml", lambda study: study["environments"]["rooms"]["rollouts"].update(tasks=10**9))
    assert fresh.snakemake("-n").returncode == 0
    before = files(fresh)
    result = fresh.snakemake("--cores", "1")
    assert result.returncode == 2, result.stdout + result.stderr
    assert re.search(
        r"empg: error: memory: expected every job to fit into the [\d.]+ GB of this [a-z ]+, "
        r"found rollouts \(rooms\), which needs about \d+\.\d GB; lower",
        result.stderr,
    )
    assert "Traceback" not in result.stderr
    assert files(fresh) == before


def test_a_mistake_in_the_data(fresh):
    fresh.edit("config/data.yaml", lambda data: data["data_sets"]["rooms"].update(profile="tiny"))
    result = fresh.snakemake("-n")
    assert result.returncode == 2
    expected = "config/data.yaml: data_sets.rooms.profile: Input should be 'small' or 'official', found 'tiny'"
    assert expected in result.stderr


def test_not_yaml(fresh):
    fresh.append("config/config.yaml", "\noops: [")
    result = fresh.snakemake("-n")
    assert result.returncode == 2
    assert "config/config.yaml: expected YAML" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("study=none",), "study: expected one of mini, ablation_webshop"),
        (("study=papr",), "found 'papr'; did you mean paper?"),
        (("study=../config",), "study: expected a name of lower-case letters, digits and _, found '../config'"),
        (("studdy=none",), "--config: expected study=NAME, found studdy"),
    ],
)
def test_a_study_that_is_not_there(fresh, arguments, message):
    result = fresh.snakemake("-n", "--config", *arguments)
    assert result.returncode == 2
    assert message in result.stderr


def test_a_read_only_project_is_one_message(fresh):
    root = str(fresh.root)
    if subprocess.run(["mount", "--bind", root, root], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
        result = fresh.snakemake("--cores", "1")
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"empg: error: {root}: expected a folder to write in, found a read-only file system")
    assert "Traceback" not in result.stderr
