"""What training did to a policy: tables against direct computations and values by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from empg.config import Study, parse, read_yaml
from empg.policy.checkpoint import load_transformer
from empg.study import dynamics, proposition
from empg.study.results import Results


@pytest.fixture(scope="module")
def results(study_results: Path) -> Results:
    path = study_results / "config" / "study.json"
    return Results(parse(Study, read_yaml(path), str(path)), study_results)


def test_entropies_after_are_those_of_the_policy_at_the_same_tokens(results: Results) -> None:
    run = results.trained()[0]
    found = dynamics.entropy_changes(results, run)
    rows = pl.read_parquet(results.root / "alfworld" / "rollouts" / "rollouts.parquet")
    assert len(found) == len(rows)  # fewer than what is asked for: all of them
    network = load_transformer(run.train / "model")
    ids: list[int] = []
    for row, expected in zip(rows.iter_rows(named=True), found.iter_rows(named=True), strict=True):
        ids = ids * (row["step"] > 0) + row["prompt_ids"] + row["response_ids"]
        n = len(row["response_ids"])
        with torch.no_grad():
            hidden = network(torch.tensor(ids), [len(ids)])[-n - 1 : -1]
            p = torch.softmax(hidden @ network.output_weight.T, -1)
        assert expected["after"] == pytest.approx(float(-(p * p.log()).sum(-1).mean()), abs=1e-5)
        assert expected["before"] == pytest.approx(np.mean(row["entropies"]), abs=1e-6)
        assert expected["change"] == pytest.approx(expected["after"] - expected["before"])


def test_all_runs_read_the_same_steps(results: Results) -> None:
    first, *others = [dynamics.entropy_changes(results, run) for run in results.trained()]
    for other in others:
        assert other.select("trajectory", "step", "before").equals(first.select("trajectory", "step", "before"))


def test_percentiles_by_hand() -> None:
    before = np.random.default_rng(0).permutation(400) / 400  # 20 bins of 20 steps
    frame = pl.DataFrame({"environment": "e", "method": "m", "before": before}).with_columns(
        after=pl.col("before") / 2, change=-pl.col("before") / 2
    )
    found = dynamics.by_percentile(frame).filter(quantity="change").sort("percentile")
    assert found["percentile"].to_list() == [2.5 + 5 * i for i in range(20)]
    assert found["n"].to_list() == [20] * 20
    assert found["mean"][0] == pytest.approx(-9.5 / 400 / 2)  # the mean of 0, 1, … 19
    assert found["mean"][-1] == pytest.approx(-389.5 / 400 / 2)


def test_stability_by_hand() -> None:
    metrics = {"grad_norm": [1.0, 4.0], "kl": [None, None], "step_entropy_mean": [0.1, 0.3]}
    columns = {"environment": ["e"] * 2, "method": ["m"] * 2, "seed": [1, 2], "iteration": [0, 0], **metrics}
    found = dynamics.stability(pl.DataFrame(columns, schema_overrides={"kl": pl.Float64}))
    assert set(found["metric"]) == {"grad_norm", "step_entropy_mean"}  # no KL was computed
    norm = found.row(by_predicate=pl.col("metric") == "grad_norm", named=True)
    assert (norm["mean"], norm["lowest"], norm["highest"], norm["seeds"]) == (2.5, 1.0, 4.0, 2)


def test_gradient_variance_is_the_trace_of_the_covariance() -> None:
    """With many steps the estimate from neighbours meets the plain variance of the weighted gradients."""
    random = np.random.default_rng(1)
    gradients = random.normal([1.0, -2.0, 0.5], [1.0, 0.5, 2.0], (20_000, 3))
    a, g = random.choice([-0.5, 1.0], 20_000), random.uniform(0.5, 1.5, 20_000)
    products = [float(x @ y) for x, y in pairwise(gradients)]
    frame = pl.DataFrame(
        {"environment": "e", "method": "m", "seed": 1, "outcome_advantage": a, "gradient_scale": g, "advantage": a * g,
         "norm": np.linalg.norm(gradients, axis=1), "next_product": [*products, None]}
    )  # fmt: skip
    found = dynamics.gradient_variance(frame)
    expected = [np.var(w[:, None] * gradients, axis=0).sum() for w in (a, a * g, a * g)]
    assert found["variance"].to_list() == pytest.approx(expected, rel=0.02)
    assert found["relative"].to_list() == pytest.approx([1.0, *(np.array(expected) / expected[0])[1:]], rel=0.02)


def test_next_product_is_that_of_neighbouring_steps(results: Results) -> None:
    run = results.trained()[0]
    network, rollouts = load_transformer(run.train / "model"), results.last_rollouts(run)
    found = proposition.gradient_norms(network, rollouts, temperature=1.0, seed=0, steps=3)
    conversations = dict(enumerate(proposition.conversations(rollouts, torch.device("cpu"))))
    gradients = []
    for trajectory, step in found.select("trajectory", "step").iter_rows():
        start, end = conversations[trajectory].responses[step]
        ids = conversations[trajectory].ids[:end]
        logits = network(ids, [end])[start - 1 : end - 1] @ network.output_weight.T
        loss = logits.log_softmax(-1).gather(1, ids[start:end, None]).mean()
        gradients.append(torch.cat([x.flatten() for x in torch.autograd.grad(loss, list(network.parameters()))]))
    expected = [float(gradients[0] @ gradients[1]), float(gradients[1] @ gradients[2])]
    assert found["next_product"].to_list()[:2] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert found["next_product"][2] is None


def test_parts_of_the_cost_add_up(results: Results) -> None:
    parts = dynamics.cost_by_part(results).filter(method="grpo", seed=1)
    assert parts["cpu_seconds"].sum() == pytest.approx(1.5 + 1.5)  # training and evaluation
    assert parts["part"].to_list() == ["collect", "update", "write", "rest", "evaluate"]
