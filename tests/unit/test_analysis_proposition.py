"""The measurements of Proposition 1 against direct computations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from empg.analysis import proposition
from empg.analysis.results import Results
from empg.config import Study, parse, read_yaml
from empg.policy.weights import load_transformer


@pytest.fixture(scope="module")
def results(study_results: Path) -> Results:
    path = study_results / "config" / "study.json"
    return Results(parse(Study, read_yaml(path), str(path)), study_results)


def test_mean_score_norm_is_the_expectation(results: Results) -> None:
    run = results.trained()[0]
    network = load_transformer(run.train / "model")
    found = proposition.score_norms(network, results.last_rollouts(run), count=4_000, temperature=0.5, seed=3)
    assert found["expected"].to_numpy() == pytest.approx(1 - np.exp(-found["renyi2"].to_numpy()), abs=1e-12)
    error = found["measured"] - found["expected"]
    assert abs(error.mean()) < 4 * error.std() / len(found) ** 0.5
    assert found.equals(
        proposition.score_norms(network, results.last_rollouts(run), count=4_000, temperature=0.5, seed=3)
    )


def test_gradient_norm_by_plain_autograd(results: Results) -> None:
    run = results.trained()[-1]
    network = load_transformer(run.train / "model")
    rollouts = results.last_rollouts(run).head(4)  # the first steps of the first episodes
    found = proposition.gradient_norms(network, rollouts, count=100, temperature=2.0, seed=0)
    assert len(found) == 4
    ids: list[int] = []
    for row, expected in zip(rollouts.iter_rows(named=True), found["norm"], strict=True):
        ids = ids * (row["step"] > 0) + row["prompt_ids"] + row["response_ids"]
        n = len(row["response_ids"])
        hidden = network.states(torch.tensor(ids))[-n - 1 : -1]
        logprobs = (hidden @ network.output_weight.T / 2.0).log_softmax(-1)[torch.arange(n), torch.tensor(ids[-n:])]
        network.zero_grad()
        logprobs.mean().backward()
        norm = sum(float(p.grad.double().square().sum()) for p in network.parameters()) ** 0.5
        assert expected == pytest.approx(norm, rel=1e-4)
    assert found["before"].to_list() == pytest.approx((rollouts["outcome_advantage"].abs() * found["norm"]).to_list())
    assert found["after"].to_list() == pytest.approx((rollouts["advantage"].abs() * found["norm"]).to_list())


def test_bin_means_by_hand() -> None:
    x = np.concatenate([np.zeros(9), np.full(9, 1.0), np.full(9, 7.0), np.full(9, 8.0), [4.0]])
    frame = pl.DataFrame({"m": ["a"] * 37, "x": x, "y": 2 * x})
    found = proposition.bin_means(frame, "x", ["y"], bins=proposition.equal_widths("x", 3), per=["m"])
    assert found["x"].to_list() == [0.5, 7.5]  # the lone 4 in the middle bin is left out
    assert found["n"].to_list() == [18, 18]
    assert found["mean"].to_list() == [1.0, 15.0]
    error = 1.96 * (18 / 17) ** 0.5 / 18**0.5  # y is 1 off its mean everywhere: s² = 18/17
    assert found["high"].to_list() == pytest.approx([1 + error, 15 + error])
    halves = proposition.bin_means(frame, "x", ["y"], bins=proposition.equal_counts("x", 2), per=["m"])
    assert halves["n"].to_list() == [19, 18]
