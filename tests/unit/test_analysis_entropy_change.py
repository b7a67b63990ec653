"""Rescored steps against a direct computation, and percentile ranges by hand."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from empg.analysis import entropy_change
from empg.analysis.results import Results
from empg.config import Study, parse, read_yaml
from empg.policy.weights import load_transformer
from empg.schema import STEPS, read_table, write_table

METHODS = {"base": {"advantage": "grpo"}, "new": {"advantage": "dapo"}}
STUDY = parse(Study, {"environments": {"e": {}}, "methods": METHODS, "baseline": "base", "seeds": [1, 2]}, "test")


def test_rescored_by_plain_softmax(study_results: Path, tmp_path: Path) -> None:
    """Against a direct computation of one conversation, with a temperature; the collection's own values are kept."""
    root = Path(shutil.copytree(study_results, tmp_path / "made_up"))
    study = parse(Study, read_yaml(root / "config" / "study.json"), "test")
    sampling = study.environments["alfworld"].sampling.model_copy(update={"temperature": 2.0})
    environment = study.environments["alfworld"].model_copy(update={"sampling": sampling})
    results = Results(study.model_copy(update={"environments": {"alfworld": environment}}), root)
    run = results.trained()[0]
    found = entropy_change.rescored_steps(results, run)
    rows = read_table(root / "alfworld" / "rollouts" / "rollouts.parquet", STEPS)
    assert found.height == rows.height  # sixteen episodes are fewer than it draws
    network = load_transformer(run.train / "model")
    ids: list[int] = []
    sampled, again = (table.filter(trajectory=3).iter_rows(named=True) for table in (rows, found))
    for row, step in zip(sampled, again, strict=True):
        ids += row["prompt_ids"] + row["response_ids"]
        n = len(row["response_ids"])
        with torch.no_grad():
            logp = (network.states(torch.tensor(ids))[-n - 1 : -1] @ network.output_weight.T / 2.0).log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1).mean()
        ratio = np.mean(row["logprobs"]) - logp[torch.arange(n), torch.tensor(ids[-n:])].mean()
        assert (step["before"], step["after"]) == pytest.approx((np.mean(row["entropies"]), float(entropy)), rel=1e-4)
        assert step["log_ratio"] == pytest.approx(float(ratio), rel=1e-4)


def test_seeds_get_other_episodes_and_methods_the_same(study_results: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(study_results, tmp_path / "made_up"))
    path = root / "alfworld" / "rollouts" / "rollouts.parquet"
    collection = read_table(path, STEPS)
    more = [
        collection.with_columns(pl.col("trajectory") + 16 * i) for i in range(12)
    ]  # 192 episodes, 48 are drawn for each seed
    write_table(pl.concat(more), STEPS, path)
    results = Results(parse(Study, read_yaml(root / "config" / "study.json"), "test"), root)
    runs = {(run.method, run.seed): run for run in results.trained()}
    drawn = {key: set(entropy_change.rescored_steps(results, run)["trajectory"]) for key, run in runs.items()}
    assert drawn["grpo", 1] == drawn["grpo_empg", 1] == set(range(0, 192, 4))
    assert drawn["grpo", 2] == set(range(1, 192, 4))
    with pytest.raises(ValueError, match="not in"):
        entropy_change.rescored_steps(results, replace(runs["grpo", 1], seed=7))


def test_ranges_by_hand() -> None:
    before = np.arange(40, dtype=float)
    runs = [("base", 1, 0.0), ("base", 2, 0.0), ("base", 3, 0.0), ("new", 1, -1.0), ("new", 2, -3.0), ("new", 3, -2.0)]
    frames = [
        pl.DataFrame(
            {
                "environment": "e",
                "method": m,
                "seed": s,
                "before": before[::-1],
                "log_ratio": [0.1, 0.3] * 20,
                "after": before[::-1] * np.where(before[::-1] < 2, 1, 2) + shift,
            }
        )
        for m, s, shift in runs
    ]
    rescored = pl.concat(frames)
    found = entropy_change.entropy_change(rescored, STUDY)
    assert found["percentile"].unique().sort().to_list() == list(range(5, 101, 5))
    assert found["steps"].unique().to_list() == [6]  # two of each seed
    lowest, highest = (found.filter(percentile=p, method="new").row(0, named=True) for p in (5, 100))
    assert (lowest["before"], lowest["value"], lowest["difference"]) == pytest.approx((0.5, -2, -2))
    assert (highest["before"], highest["value"]) == pytest.approx((38.5, 38.5 - 2))
    assert lowest["high"] == pytest.approx(-2 + 4.302653 / 3**0.5)  # s = 1
    assert found.filter(method="base", percentile=5)["value"].item() == 0
    assert entropy_change.forward_kl(rescored)["forward_kl"].to_list() == pytest.approx([0.2] * 6)
