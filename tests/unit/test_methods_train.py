"""Every built-in way of giving credit, in the trainer itself: a miniature run of two iterations each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from empg.config import Study, parse, rollouts_run, train_run, warmstart_run
from empg.environments import data as data_stage
from empg.environments.alfworld.registration import AlfworldData
from empg.rollouts import collect
from empg.training import rl, warmstart

METHODS = {
    "rtmc": {"advantage": "rtmc"},
    "rtmc_observation": {"advantage": "rtmc", "state": "observation", "modulation": "empg"},
    "gepo": {"advantage": "grpo", "modulation": "gepo"},
    "gepo_token": {"advantage": "grpo", "modulation": "gepo", "level": "token"},
    "shuffled": {"advantage": "grpo", "modulation": "empg_shuffled"},
    "inverted": {"advantage": "dapo", "modulation": "empg_inverted", "dynamic_sampling": 0},
    "calibrated": {"advantage": "grpo", "modulation": "calibrated"},
    "decisive": {"advantage": "gigpo", "modulation": "decisive"},
}
STUDY = {
    "seeds": [3],
    "methods": METHODS,
    "baseline": "rtmc",
    "environments": {
        "alfworld": {
            "max_steps": 4,
            "policy": {"type": "tiny", "width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "mlp_width": 32},
            "sampling": {"max_response": 8},
            "warmstart": {"tokens": 6000, "batch_tokens": 3000},
            "rollouts": {"tasks": 4},
            "train": {"iterations": 2, "groups": 4, "group_size": 4, "reward": "score"},
        }
    },
}
DATA = {"type": "alfworld", "sizes": {"train": 12, "valid_seen": 1, "valid_unseen": 1, "tune": 1}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The study and a folder with data, a warm start and its rollouts, with scores made up for the first batch."""
    root = tmp_path_factory.mktemp("methods")
    study, sets = parse(Study, STUDY, "STUDY"), {"alfworld": parse(AlfworldData, DATA, "DATA")}
    data_stage.run(sets["alfworld"], root / "data")

    def ignore(*_):
        pass

    warmstart.run(
        warmstart_run(study, sets, "alfworld"), root / "data", root / "warmstart", on_metrics=ignore, progress=ignore
    )
    collect.run(
        rollouts_run(study, sets, "alfworld"),
        root / "data",
        root / "warmstart/model",
        root / "rollouts",
        progress=ignore,
    )
    table = root / "rollouts/rollouts.parquet"
    rows = pl.read_parquet(table)  # the untrained policy scores 0
    rows.with_columns(score=(pl.col("trajectory") % 3 / 4).cast(pl.Float32)).write_parquet(table)
    return root, study, sets, ignore


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_trains(prepared, name):
    root, study, sets, ignore = prepared
    rl.run(
        train_run(study, sets, "alfworld", name, 3),
        root / "data",
        root / "warmstart/model",
        root / "rollouts",
        root / name,
        on_metrics=ignore,
        progress=ignore,
    )
    first = pl.read_parquet(Path(root, name, "rollouts/iteration_0000.parquet"))
    assert first["advantage"].is_finite().all()
    assert first["advantage"].abs().max() > 0.1
    metrics = pl.read_parquet(root / name / "metrics.parquet")
    assert len(metrics) == 2
    assert metrics["grad_norm"][0] > 0
    if name in ("calibrated", "decisive", "shuffled", "inverted"):
        np.testing.assert_allclose(first["gradient_scale"].mean(), 1, atol=1e-5)
    if name == "gepo":
        assert set(first["gradient_scale"]) <= {1.0, 0.5, np.float32(0.2).item()}
