"""A pretrained policy (a folder in Hugging Face's layout) goes through warm start, rollouts and training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from empg.config import Study, TinyPolicy, parse, rollouts_run, train_run, warmstart_run
from empg.environments import data as data_stage
from empg.environments.alfworld.demonstrations import demonstrate
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.registration import AlfworldData
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.text import format_step
from empg.policy.chat import Chat
from empg.policy.tokenizer import train_tokenizer
from empg.rollouts import collect
from empg.training import rl, warmstart

pytestmark = pytest.mark.xdist_group("pretrained")

DATA = {"alfworld": AlfworldData.model_validate({"sizes": {"train": 4, "valid_seen": 1, "valid_unseen": 1, "tune": 1}})}


def study(model: Path, **policy: object) -> Study:
    settings = {
        "max_steps": 2,
        "policy": {"type": "pretrained", "model": str(model), "dtype": "float32", **policy},
        "sampling": {"max_response": 6},
        "warmstart": {"tokens": 0, "warmup": 0, "decay": 0},
        "rollouts": {"tasks": 2},
        "train": {"iterations": 1, "groups": 2, "group_size": 2},
    }
    # The clarity bonus and EMPG's centring give every step an advantage, so that an untrained policy's update moves it.
    methods = {"grpo": {"advantage": "grpo", "modulation": "empg"}}
    return parse(Study, {"seeds": [1], "methods": methods, "environments": {"alfworld": settings}}, "study")


def write_model(folder: Path) -> None:
    """A tiny model that speaks the words of one ALFWorld game, as a folder of its own."""
    games = GeneratedGames("small", 0)
    (task,) = games.tasks("train", range(1))
    shown = demonstrate(AlfworldEnvironment(games, 20), task, Random(0))
    tokenizer = train_tokenizer(list(warmstart.texts(shown, "", format_step)), 300)
    sizes = TinyPolicy(width=16, heads=2, kv_heads=1, layers=2, mlp_width=16)
    folder.mkdir()
    warmstart.tiny_policy(sizes, Chat(tokenizer, "", "the test's tokenizer"), 0).save(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in ``data`` and a model in ``hub``."""
    root = tmp_path_factory.mktemp("pretrained")
    data_stage.run(DATA["alfworld"], root / "data")
    write_model(root / "hub")
    return root


@pytest.fixture(scope="module")
def warm(folder: Path) -> Path:
    """A warm start with a budget of no tokens, and its rollouts. Any demonstration would fail."""
    run = study(folder / "hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warmstart, "open_dataset", None)
        warmstart.run(
            warmstart_run(run, DATA, "alfworld"),
            folder / "data",
            folder / "warm",
            on_metrics=lambda *_: pytest.fail("no updates"),
            progress=lambda *_: None,
        )
    collect.run(
        rollouts_run(run, DATA, "alfworld"),
        folder / "data",
        folder / "warm/model",
        folder / "rollouts",
        progress=lambda *_: None,
    )
    return folder / "warm"


def test_a_warm_start_of_no_tokens_is_the_model_as_it_is(folder, warm):
    before, after = (load_file(path / "model.safetensors") for path in (folder / "hub", warm / "model"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert pl.read_parquet(warm / "metrics.parquet").is_empty()
    assert (warm / "manifest.json").exists()


def test_checkpointing_reaches_training_and_changes_no_weight(folder, warm, tmp_path, monkeypatch):
    calls = []
    checkpoint = torch.utils.checkpoint.checkpoint

    def spy(*args, **options):
        calls.append(args)
        return checkpoint(*args, **options)

    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", spy)
    weights = []
    for checkpointing in (False, True):
        config = train_run(study(folder / "hub", gradient_checkpointing=checkpointing), DATA, "alfworld", "grpo", 1)
        out = tmp_path / str(checkpointing)
        rl.run(
            config,
            folder / "data",
            warm / "model",
            folder / "rollouts",
            out,
            on_metrics=lambda *_: None,
            progress=lambda *_: None,
        )
        assert bool(calls) == checkpointing
        weights.append(load_file(out / "model/model.safetensors"))
    start = load_file(warm / "model/model.safetensors")
    assert any(not torch.equal(start[name], weights[0][name]) for name in start)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in start)


def test_turns_apart_are_trained_on_as_they_were_sampled(folder, tmp_path):
    """With the paper's prompt the first update is on-policy: no ratio of probabilities leaves the clipping range."""
    run = study(folder / "hub")
    own = run.environments["alfworld"]
    sampling = own.sampling.model_copy(update={"max_context": 4096})
    own = own.model_copy(update={"interface": {"history": 2}, "max_steps": 4, "sampling": sampling})
    run = run.model_copy(update={"environments": {"alfworld": own}})
    hub = tmp_path / "hub"
    shutil.copytree(folder / "hub", hub)
    config = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    quiet = {"progress": lambda *_: None}
    collect.run(rollouts_run(run, DATA, "alfworld"), folder / "data", hub, tmp_path / "rollouts", **quiet)
    config = train_run(run, DATA, "alfworld", "grpo", 1)
    out = tmp_path / "train"
    rl.run(config, folder / "data", hub, tmp_path / "rollouts", out, on_metrics=lambda *_: None, **quiet)
    steps = pl.read_parquet(out / "rollouts/iteration_0000.parquet")
    assert steps["step"].max() > 0
    assert all("admissible actions of the current situation" in text for text in steps["observation"])
    (metrics,) = pl.read_parquet(out / "metrics.parquet").to_dicts()
    assert metrics["clip_fraction"] == 0.0
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)
