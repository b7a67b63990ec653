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
LISTED = """
import json, sys
from empg.cli import main
code = main(sys.argv[2:])
json.dump(sorted(sys.modules), open(sys.argv[1], "w"))
raise SystemExit(code)
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[str, set[str]]:
    """Stage → the modules that its process had loaded at its end. Each stage uses the files of those before it."""
    root = tmp_path_factory.mktemp("stages")
    study, sets = parse(Study, STUDY, "STUDY"), {"alfworld": parse(AlfworldData, DATA, "DATA")}
    data_stage.run(sets["alfworld"], root / "data")
    model, rollouts = root / "warmstart" / "model", root / "rollouts"
    return {
        "warmstart": _stage(root, "warmstart", warmstart_run(study, sets, "alfworld")),
        "rollouts": _stage(root, "rollouts", rollouts_run(study, sets, "alfworld"), model=model),
        "train": _stage(
            root, "train", train_run(study, sets, "alfworld", "grpo_empg", 3), model=model, rollouts=rollouts
        ),
        "evaluate": _stage(
            root,
            "evaluate",
            evaluate_run(study, sets, "alfworld", "grpo_empg", 3),
            model=root / "train" / "model",
        ),
    }


def _stage(root: Path, name: str, config, **paths: Path) -> set[str]:
    (root / f"{name}.json").write_text(config.model_dump_json())
    paths = {"config": root / f"{name}.json", "data": root / "data", "out": root / name} | paths
    arguments = [word for option, path in paths.items() for word in (f"--{option}", str(path))]
    modules = root / f"{name}.modules"
    done = subprocess.run(
        [sys.executable, "-c", LISTED, str(modules), name, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (root / name / "manifest.json").is_file()
    return set(json.loads(modules.read_text()))


@pytest.mark.parametrize("stage", ["warmstart", "rollouts", "train", "evaluate"])
def test_a_stage_of_a_tiny_policy_imports_nothing_that_it_does_not_use(loaded, stage):
    assert {"torch", "polars", "tokenizers"} <= loaded[stage]
    heavy = set(HEAVY) - ({"scipy"} if stage == "evaluate" else set())  # the summary's intervals are scipy's
    found = {name for name in loaded[stage] for other in heavy if name == other or name.startswith(f"{other}.")}
    assert not found
