"""The steps of the tutorial on the miniature study, whose environment is called rooms."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from empg.cli import parser
from empg.config import Study, load_data, load_environments, load_study

pytestmark = pytest.mark.xdist_group("pipeline")

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
STUDY = "config/study/tutorial.yaml"


def of_the_miniature(text: str) -> str:
    """The tutorial's text with the names of the study and the environment that the tests have run."""
    return text.replace("results/tutorial", "results/mini").replace("alfworld", "rooms")


def study_after(edits: list[str], place: Path) -> Study:
    """The tutorial's study after some of its commands."""
    shutil.copytree(ROOT / "config", place / "config")
    for edit in edits:
        subprocess.run(edit, shell=True, cwd=place, check=True)
    return load_study(
        place / STUDY, load_data(place / "config/data.yaml"), load_environments(place / "config/environments.yaml")
    )


def test_every_command_is_one_that_there_is():
    kinds = {command.split()[0] for command in COMMANDS}
    assert kinds == {"make", "source", "empg", "sed", "snakemake"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in COMMANDS:
        program, first, *rest = shlex.split(command)
        if program == "make":
            assert re.search(rf"^{first}:", makefile, re.MULTILINE), command
        if program == "empg":
            parser().parse_args([first, *rest])
        if "study=" in command.lower():
            assert re.search(r"study=tutorial$", command, re.IGNORECASE), command


def test_the_study_shown_is_the_study():
    (shown,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert yaml.safe_load(shown) == yaml.safe_load((ROOT / STUDY).read_text(encoding="utf-8"))


def test_the_edits_change_zeta_and_the_seeds(tmp_path):
    edits = [command for command in COMMANDS if command.startswith("sed ")]
    before, after = study_after([], tmp_path / "before"), study_after(edits, tmp_path / "after")
    assert (before.methods["grpo_empg"].zeta, before.seeds) == (0.05, (1,))
    assert (after.methods["grpo_empg"].zeta, after.seeds) == (0.2, (1, 2))


@pytest.mark.parametrize("step", [1, 2])
def test_the_plans_after_the_edits_are_the_shown_ones(step, project):
    """A change of ζ, or a second seed, after the run of the miniature study."""
    change = (
        lambda study: study["methods"]["grpo_empg"].update(zeta=0.2),
        lambda study: study.update(seeds=[1, 2]),
    )[step - 1]
    project.edit("config/config.yaml", change)
    done = project.snakemake("-n", "--quiet", "rules")
    assert done.returncode == 0, done.stderr
    assert counts(done.stdout + done.stderr) == counts(re.findall(r"```text\n(job .*?)```", TEXT, re.DOTALL)[step - 1])


def counts(text: str) -> dict[str, int]:
    """Number of jobs by rule, from Snakemake's first table."""
    table = re.search(r"^job +count\n[- ]+\n(.*?)^total", text, re.MULTILINE | re.DOTALL)
    assert table, text
    return {line.split()[0]: int(line.split()[1]) for line in table[1].splitlines()}


def test_every_file_that_it_names_is_there(project):
    named = set(re.findall(r"results/tutorial/[\w./-]+", TEXT))
    assert len(named) >= 4
    assert [name for name in sorted(named) if not (project.root / of_the_miniature(name)).exists()] == []


def test_its_python_prints_a_table(project):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    command = [sys.executable, "-c", of_the_miniature(code)]
    done = subprocess.run(command, cwd=project.root, env=project.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "grpo_empg" in done.stdout


def test_its_audit_and_times_agree(project):
    for command in COMMANDS:
        if command.startswith("empg "):
            done = project.run(*of_the_miniature(command).split())
            assert done.returncode == 0, done.stdout + done.stderr
            assert "rooms" in done.stdout
