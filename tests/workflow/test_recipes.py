"""The recipes of CONTRIBUTING.md, to the letter: their blocks are read from the document and applied to a copy.

A study, an environment and a method are planned; other tests run the example packages. A stage and a figure are added
to a miniature study that has run, and run there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from .conftest import ROOT, Project

pytestmark = pytest.mark.xdist_group("pipeline")

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
REPORT = {"report", "track"}
# What the blocks call beside the shell's own commands: pip that installs into the copy, and what the Makefile runs.
SHELL = """
set -eu
pip() { python -m pip install --quiet --no-deps --no-index --no-build-isolation --target site "${@: -1}"; }
make() {
    case $1 in
        schema) python -m empg schema --out workflow/schemas ;;
        run) python -m snakemake -n --quiet rules --config "study=${2#STUDY=}" ;;
    esac
}
"""


def blocks(recipe: str, language: str) -> list[str]:
    """The code of one language in a recipe."""
    (section,) = re.findall(rf"^### {recipe}\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def write(root: Path, block: str) -> None:
    """Write a block as the new file that its first line names."""
    name, _, text = block.removeprefix("# ").partition("\n")
    assert not (root / name).exists(), name
    (root / name).write_text(text)


def patch(root: Path, diff: str) -> None:
    """Apply a diff without line numbers. Blank lines separate its hunks; each must fit one place."""
    files = re.split(r"^--- (.+)\n", diff, flags=re.MULTILINE)[1:]
    for name, body in zip(files[::2], files[1::2], strict=True):
        text = (root / name).read_text()
        for hunk in body.strip("\n").split("\n\n"):
            old, new = (
                "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[0] in kinds) for kinds in (" -", " +")
            )
            assert f"\n{text}".count(f"\n{old}") == 1, f"{name}: expected this once:\n{old}"
            text = f"\n{text}".replace(f"\n{old}", f"\n{new}")[1:]
        (root / name).write_text(text)


def planned_jobs(output: str) -> dict[str, int]:
    """Rule → jobs, from Snakemake's first table."""
    table = re.search(r"^job +count\n[- ]+\n(.*?)^total", output, re.MULTILINE | re.DOTALL)
    assert table, output
    return {line.split()[0]: int(line.split()[1]) for line in table[1].splitlines()}


class Whole(Project):
    """A project with the whole configuration, beside ``examples``; packages are installed into ``site``."""

    @property
    def env(self) -> dict[str, str]:
        path = [str(Path(sys.executable).parent), os.environ["PATH"]]
        places = [str(self.root / "site"), str(self.root / "src")]
        return os.environ | {"PATH": os.pathsep.join(path), "PYTHONPATH": os.pathsep.join(places)}

    def shell(self, block: str) -> str:
        command = ["bash", "-c", SHELL + block]
        done = subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def whole(fresh: Project) -> Whole:
    shutil.copytree(ROOT / "config", fresh.root / "config", dirs_exist_ok=True)
    shutil.copytree(ROOT / "examples", fresh.root / "examples")
    return Whole(fresh.root)


def test_a_study_plans_the_jobs_that_the_recipe_names(whole):
    (study,) = blocks("A study", "yaml")
    write(whole.root, study)
    (options,) = re.findall(r"`snakemake (-n --config study=small_zeta)`", TEXT)
    done = whole.snakemake(*options.split(), "--quiet", "rules")
    assert done.returncode == 0, done.stderr
    counts = planned_jobs(done.stdout + done.stderr)
    assert counts.pop("train") == counts.pop("evaluate") == int(re.findall(r"here (\d+) of `train`, \1 of", TEXT)[0])
    assert counts == dict.fromkeys(
        ("all", "data", "evaluate_warmstart", "mlflow_database", "report", "rollouts", "track", "warmstart"), 1
    )


@pytest.mark.parametrize(
    ("recipe", "runs", "schema", "keys"),
    [
        ("An environment", 2, "data.schema.json", ("doors", "most")),
        ("A method", 6, "config.schema.json", ("dr_grpo", "entropy_shaping", "alpha")),
    ],
)
def test_a_package_from_outside_is_planned_and_completed(whole, recipe, runs, schema, keys):
    (block,) = blocks(recipe, "sh")
    assert {"pip", "make"} <= {line.split()[0] for line in block.splitlines()}
    counts = planned_jobs(whole.shell(block))
    assert (counts["train"], counts["evaluate"], counts["warmstart"]) == (runs, runs, 1)
    text = (whole.root / "workflow/schemas" / schema).read_text()
    for key in keys:
        assert f'"{key}"' in text


def add_stage(root: Path) -> None:
    for block in [*blocks("A stage", "py"), *blocks("A stage", "snakemake")]:
        write(root, block)
    (diff,) = blocks("A stage", "diff")
    patch(root, diff)


def add_figure(root: Path) -> None:
    (table,) = blocks("A figure", "py")
    write(root, table)
    (diff,) = blocks("A figure", "diff")
    patch(root, diff)


@pytest.fixture(scope="module")
def extended(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The miniature study that has run, then the stage and the figure of the recipes, and another run."""
    project = Project(Path(shutil.copytree(built, tmp_path_factory.mktemp("extended") / "empg", symlinks=True)))
    add_stage(project.root)
    add_figure(project.root)
    assert project.plan() == {"rooms/lengths"} | REPORT, "neither of them outdates another stage"
    project.build()
    return project


def test_the_code_of_the_recipes_is_in_style(fresh):
    add_stage(fresh.root)
    add_figure(fresh.root)
    config = ("--config", str(ROOT / "pyproject.toml"))
    for command in (["ruff", "check"], ["ruff", "format", "--check"], ["snakefmt", "--check"]):
        where = ("Snakefile", "workflow/rules/lengths.smk") if command[0] == "snakefmt" else ("src",)
        done = fresh.run(*command, *config, *where)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_stage_leaves_its_result_and_its_manifest(extended):
    folder = extended.root / "results/mini/rooms/lengths"
    steps = pl.read_parquet(folder.parent / "rollouts/rollouts.parquet")
    found = json.loads((folder / "lengths.json").read_text())
    assert found["steps"] == len(steps)
    assert 0 < found["tokens"] <= steps["response_ids"].list.len().max()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["stage"] == "lengths"
    assert manifest["config"]["lengths"] == {"share": 0.99}
    assert set(manifest["inputs"]) == {"rollouts"}
    assert set(manifest["outputs"]) == {"lengths.json"}


def test_the_stage_reruns_when_its_setting_or_its_source_changes_and_only_then(extended):
    config, source = extended.root / "config/config.yaml", extended.root / "src/empg/rollouts/lengths.py"
    before = {path: path.read_text() for path in (config, source)}
    assert extended.plan() == set()
    extended.edit("config/config.yaml", lambda study: study["environments"]["rooms"].update(lengths={"share": 0.5}))
    assert extended.plan() == {"rooms/lengths"} | REPORT
    config.write_text(before[config])
    extended.append("src/empg/rollouts/lengths.py", "\n# a comment\n")
    assert extended.plan() == {"rooms/lengths"}
    source.write_text(before[source])
    extended.edit("config/config.yaml", lambda study: study["methods"]["grpo"].update(clip_low=0.1))
    assert "rooms/lengths" not in extended.plan()
    config.write_text(before[config])


def test_the_figure_and_its_table_are_in_the_report(extended):
    report = extended.root / "results/mini/report"
    table = pl.read_csv(report / "tables/answer_lengths.csv")
    assert set(table["method"]) == {"warmstart", "grpo", "grpo_empg"}
    assert "seeds" in table.columns
    assert (report / "figures/answers.svg").read_text().startswith("<svg")
    page = (report / "report.html").read_text()
    for text in (
        "Length of an answer",
        "Mean tokens of a step on each panel",
        "answer_lengths.csv",
        "rooms: valid_seen",
    ):
        assert text in page
