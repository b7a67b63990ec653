"""What the process of a stage of a tiny policy has imported at its end: nothing that takes seconds and is not used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from empg.config import Study, evaluate_run, parse, rollouts_run, train_run, warmstart_run
from empg.environments import data as data_stage
from empg.environments.alfworld.registration import AlfworldData

pytestmark = pytest.mark.xdist_group("imports")

HEAVY = (
    "transformers",
    "torch._dynamo",
    "torch._inductor",
    "scipy",
    "huggingface_hub",
    "altair",
    "mlflow",
    "snakemake",
)
STUDY = {
    "seeds": [3],
    "methods": {"grpo_empg": {"advantage": "grpo", "modulation": "empg", "kl_coef": 0.01}},
    "baseline": "grpo_empg",
    "environments": {
        "alfworld": {
            "max_steps": 4,
            "policy": {"type": "tiny", "width": 32, "layers": 1, "mlp_width": 32, "vocab_size": 400},
            "warmstart": {"tokens": 6000, "batch_tokens": 3000, "optimiser": {"muon_lr": 0.01}},
            "rollouts": {"tasks": 4},
            "train": {"iterations": 2, "groups": 2, "group_size": 2, "checkpoint_every": 1},
        }
    },
}
DATA = {"type": "alfworld", "sizes": {"train": 12, "valid_seen": 1, "valid_unseen": 1, "tune": 1}}
# Runs a command for each argument, and prints the modules that are loaded after it.
LISTED = """
import json, sys
from empg.cli import main
for command in sys.argv[1:]:
    assert main(command.split()) == 0, command
    print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[str, set[str]]:
    """Stage → the modules that were loaded at its end. Each stage uses the files of those before it.

    One process runs them, so what a stage has loaded is there after the later ones too, and makes them fail as well.
    """
    root = tmp_path_factory.mktemp("stages")
    study, sets = parse(Study, STUDY, "STUDY"), {"alfworld": parse(AlfworldData, DATA, "DATA")}
    data_stage.run(sets["alfworld"], root / "data")
    model, rollouts = root / "warmstart" / "model", root / "rollouts"
    run = ("alfworld", "grpo_empg", 3)
    commands = {
        "warmstart": _command(root, "warmstart", warmstart_run(study, sets, "alfworld")),
        "rollouts": _command(root, "rollouts", rollouts_run(study, sets, "alfworld"), model=model),
        "train": _command(root, "train", train_run(study, sets, *run), model=model, rollouts=rollouts),
        "evaluate": _command(root, "evaluate", evaluate_run(study, sets, *run), model=root / "train" / "model"),
    }
    done = subprocess.run(
        [sys.executable, "-c", LISTED, *commands.values()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all((root / stage / "manifest.json").is_file() for stage in commands)
    return {stage: set(json.loads(line)) for stage, line in zip(commands, done.stdout.splitlines(), strict=True)}


def _command(root: Path, name: str, config, **paths: Path) -> str:
    (root / f"{name}.json").write_text(config.model_dump_json())
    paths = {"config": root / f"{name}.json", "data": root / "data", "out": root / name} | paths
    return " ".join([name, *(f"--{option} {path}" for option, path in paths.items())])


@pytest.mark.parametrize("stage", ["warmstart", "rollouts", "train", "evaluate"])
def test_a_stage_of_a_tiny_policy_imports_nothing_that_it_does_not_use(loaded, stage):
    assert {"torch", "polars", "tokenizers"} <= loaded[stage]
    heavy = set(HEAVY) - ({"scipy"} if stage == "evaluate" else set())  # the summary's intervals are scipy's
    found = {name for name in loaded[stage] for other in heavy if name == other or name.startswith(f"{other}.")}
    assert not found
