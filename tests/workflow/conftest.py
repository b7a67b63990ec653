"""A miniature study (two data sets, two methods, one seed) in a copy of the project. It runs once; tests copy it.

A plan depends on files alone, so tests of plans use a copy whose jobs only write files with the right names.
"""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .forks import Forks

FORKS = Forks()
ROOT = Path(__file__).parents[2]
PARTS = (
    "Snakefile",
    "workflow",
    "profiles",
    "envs",
    "src",
    "config",
    "dvc.yaml",
    ".dvc/config",
    ".dvc/plots",
    ".dvcignore",
)
DATA_SETS = ("rooms", "other_rooms")
STUDY: dict[str, Any] = {
    "study": "mini",
    "seeds": [1],
    "methods": {"grpo": {"advantage": "grpo"}, "grpo_empg": {"advantage": "grpo", "modulation": "empg"}},
    "environments": {
        name: {
            "max_steps": 4,
            "policy": {"type": "tiny", "width": 32, "layers": 1, "mlp_width": 32, "vocab_size": 600},
            "warmstart": {"tokens": 20_000},
            "rollouts": {"tasks": 4},
            "train": {"iterations": 2, "groups": 2, "group_size": 2, "checkpoint_every": 1},
        }
        for name in DATA_SETS
    },
}

# Replaces ``empg``: writes the output files of each stage, with the stage's name in them.
MIMIC = """
import sys
from pathlib import Path
stage, options = sys.argv[1], dict(zip(sys.argv[1:], sys.argv[2:]))
outputs = {
    "warmstart": ["model/config.json", "metrics.parquet"],
    "rollouts": ["rollouts.parquet", "difficulty.parquet"],
    "train": ["model/config.json", "metrics.parquet"],
    "evaluate": ["episodes.parquet", "steps.parquet", "summary.json"],
    "decisiveness": ["states.parquet", "summary.json"],
    "decisiveness-report": ["README.md", "figures/a.svg", "tables/a.csv"],
    "report": ["report.html", "metrics.json", "figures/a.svg", "tables/a.csv"]
    + ["trajectories/a.html", "episodes/a.html"],
}
if stage == "dvc":
    paths = [Path(options["--out"]), Path("data", sys.argv[2], "manifest.json")]
elif stage == "track":
    paths = [Path("results/mlflow.db")] if "--init" in sys.argv else []
else:
    paths = [Path(options["--out"], name) for name in [*outputs[stage], "manifest.json"]]
for path in paths:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(stage)
"""


class Project:
    """A copy of the project with its own configuration and results."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a module of this interpreter in the project, such as ``run("empg", "times")``."""
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, check=False)

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.root / "src")}

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake, in a fork of a process that has imported its libraries."""
        return FORKS.snakemake(self.root, self.env, *arguments)

    def build(self) -> None:
        """Run the whole study."""
        result = self.snakemake("--cores", "2")
        assert result.returncode == 0, result.stdout + result.stderr

    def plan(self) -> set[str]:
        """The folders of the jobs that the next run would do, relative to results/mini. Runs nothing."""
        result = self.snakemake("--summary")
        assert result.returncode == 0, result.stderr
        header, *rows = [line.split("\t") for line in result.stdout.splitlines() if "\t" in line]
        pending = [dict(zip(header, row, strict=True)) for row in rows]
        outputs = [Path(row["output_file"]) for row in pending if row["plan"] != "no update"]
        return {_job(path) for path in outputs}

    def edit(self, name: str, change: Callable[[Any], None]) -> None:
        """Change a YAML file of the project."""
        path = self.root / name
        value = yaml.safe_load(path.read_text())
        change(value)
        path.write_text(yaml.safe_dump(value, sort_keys=False))

    def append(self, name: str, text: str) -> None:
        """Append to a file of the project."""
        with (self.root / name).open("a") as file:
            file.write(text)


def unpack(root: Path, data: dict[str, Any], study: dict[str, Any]) -> Path:
    """The project in a new folder, as if unpacked from a tarball, with these data sets and this study."""
    for part in PARTS:
        source, target = ROOT / part, root / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    (root / "config/data.yaml").write_text(yaml.safe_dump({"data_sets": data}, sort_keys=False))
    (root / "config/config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return root


def install_example(name: str, site: Path) -> None:
    """Install ``examples/NAME`` into the folder ``site``, where Python finds it by its path."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    command = [sys.executable, "-m", "pip", "install", *options, str(ROOT / "examples" / name)]
    subprocess.run(command, check=True, capture_output=True)


def _job(output: Path) -> str:
    """A job's name: its folder under results/mini; data/NAME; mlflow for the database; track for the last step."""
    parts = output.parts
    if parts[:2] == ("results", "mini"):
        return "/".join(parts[2:-1]) or "track"
    if parts[-1] == "mlflow.db":
        return "mlflow"
    return f"data/{output.stem if parts[0] == 'results' else parts[1]}"


@pytest.fixture(scope="session", autouse=True)
def forks() -> Iterator[None]:
    """Ends the process that forks."""
    yield
    FORKS.close()


@pytest.fixture(scope="session")
def unbuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the miniature study, as if unpacked from a tarball: no git, nothing run."""
    sizes = {"train": 24, "valid_seen": 6, "valid_unseen": 6, "tune": 6}
    data = {name: {"type": "alfworld", "seed": i, "sizes": sizes} for i, name in enumerate(DATA_SETS)}
    root = unpack(tmp_path_factory.mktemp("unbuilt") / "empg", data, STUDY)
    compileall.compile_dir(root / "src", quiet=1)  # once, for all copies
    return root


@pytest.fixture(scope="session")
def mimicked(unbuilt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after a run whose jobs computed nothing."""
    root = Path(shutil.copytree(unbuilt, tmp_path_factory.mktemp("mimicked") / "empg"))
    (root / "src/empg/__main__.py").write_text(MIMIC)
    Project(root).build()
    return root


@pytest.fixture(scope="session")
def built(unbuilt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after a whole run of one of the environments."""
    root = Path(shutil.copytree(unbuilt, tmp_path_factory.mktemp("built") / "empg"))
    project = Project(root)
    project.edit("config/config.yaml", lambda study: study["environments"].pop("other_rooms"))
    project.build()
    return root


@pytest.fixture
def fresh(unbuilt: Path, tmp_path: Path) -> Project:
    """The test's own project, in which nothing has run."""
    return Project(Path(shutil.copytree(unbuilt, tmp_path / "empg")))


@pytest.fixture
def planned(mimicked: Path, tmp_path: Path) -> Project:
    """The test's own project. To a plan, all its jobs have run."""
    return Project(Path(shutil.copytree(mimicked, tmp_path / "empg")))


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Project:
    """The test's own project, in which the study has run."""
    return Project(Path(shutil.copytree(built, tmp_path / "empg", symlinks=True)))
