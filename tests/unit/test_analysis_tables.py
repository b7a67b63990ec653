"""The tables and sentences of the analysis against the episodes behind them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from empg.analysis.cost import cost_by_part
from empg.analysis.results import Results
from empg.analysis.success import episode_metrics, result_table, success_by_type, with_seeds
from empg.analysis.training_curves import histograms, learning_curves, over_seeds
from empg.analysis.verdict import conclusion, verdict
from empg.config import Study, parse, read_yaml
from empg.files import read_json


@pytest.fixture(scope="module")
def results(study_results: Path) -> Results:
    path = study_results / "config" / "study.json"
    return Results(parse(Study, read_yaml(path), str(path)), study_results)


@pytest.fixture(scope="module")
def table(results: Results) -> pl.DataFrame:
    return result_table(results.study, results.panels(), results.episodes())


def test_result_table_says_what_the_summaries_say(results: Results, table: pl.DataFrame) -> None:
    def success(folder: Path) -> float:
        return read_json(folder / "summary.json")["panels"]["valid_unseen"]["sampled"]["success"]

    runs = {(run.method, run.seed): success(run.evaluate) for run in results.trained()}
    warm = success(results.warm_start("alfworld").evaluate)
    grpo = (runs["grpo", 1] + runs["grpo", 2]) / 2
    empg = (runs["grpo_empg", 1] + runs["grpo_empg", 2]) / 2
    row = table.filter(split="valid_unseen", mode="sampled", method="grpo_empg").row(0, named=True)
    assert (row["success"], row["warm_start"]) == pytest.approx((empg, warm))
    assert (row["lift"], row["difference"]) == pytest.approx((empg - warm, empg - grpo))
    assert (row["seeds"], row["tasks"]) == (2, 40)
    assert table.filter(method="grpo")["difference"].null_count() == 4


def test_types_add_up(results: Results, table: pl.DataFrame) -> None:
    types = success_by_type(results.episodes()).filter(split="valid_seen", mode="greedy", method="grpo")
    row = table.filter(split="valid_seen", mode="greedy", method="grpo").row(0, named=True)
    assert types["n"].sum() == 80
    assert types["successes"].sum() / 80 == pytest.approx(row["success"])


def test_learning_curve_counts_the_episodes(results: Results) -> None:
    credited = pl.concat(results.credited(run, ("iteration", "trajectory")) for run in results.trained())
    curve = learning_curves(results.training(), credited)
    assert curve["episodes"].unique().to_list() == [32]  # 16 a seed
    assert (curve["low"] <= curve["success"]).all()
    assert (curve["success"] <= curve["high"]).all()
    row = curve.filter(method="grpo", iteration=3).row(0, named=True)
    one, two = results.training().filter(method="grpo", iteration=3)["success"]
    assert (row["seeds"], row["seeds_mean"]) == (2, pytest.approx((one + two) / 2))
    assert row["seeds_high"] == pytest.approx(min(1.0, (one + two) / 2 + 12.706205 * abs(one - two) / 2), abs=1e-6)


def test_histogram_by_hand() -> None:
    iterations, values = [0, 0, 0, 1, 3, 3], [0.0, 0.0, 4.0, 2.0, 4.0, 4.0]
    frame = pl.DataFrame({"environment": "e", "method": "m", "iteration": iterations, "x": values})
    found = histograms(frame, "x")
    assert found["left"].min() == 0.0
    assert found["right"].max() == pytest.approx(4.0)
    first = found.filter(phase="first quarter")
    assert first["share"].sum() == pytest.approx(1)
    assert (first["share"][0], first["share"][-1]) == pytest.approx((2 / 3, 1 / 3))
    assert found.filter(phase="last quarter")["share"][-1] == 1.0


def test_every_table_of_methods_says_how_many_seeds(results: Results) -> None:
    types = with_seeds(results.study, success_by_type(results.episodes()))
    assert dict(types.select("method", "seeds").iter_rows()) == {"warmstart": 1, "grpo": 2, "grpo_empg": 2}
    panels = results.panels()
    assert with_seeds(results.study, panels).columns == panels.columns  # a row there is one seed


BASE = {"environment": "e", "split": "valid_unseen", "mode": "sampled", "seeds": 3, "tasks": 9, "warm_start": 0.2}


def _verdict(seeds: tuple[float | None, float | None], tasks: tuple[float, float]) -> str:
    methods = {name: {"advantage": "grpo"} for name in ("base", "new")}
    grid = {"environments": {"e": {}}, "methods": methods, "baseline": "base", "seeds": [1, 2, 3]}
    study = parse(Study, grid, "test")
    rows = [
        BASE | {"method": "base", "success": 0.4},
        BASE
        | {
            "method": "new",
            "success": 0.5,
            "against": "base",
            "difference": 0.1,
            "difference_seeds_low": seeds[0],
            "difference_seeds_high": seeds[1],
            "difference_tasks_low": tasks[0],
            "difference_tasks_high": tasks[1],
        },
    ]
    (sentence,) = verdict(study, pl.DataFrame(rows, infer_schema_length=None))
    return sentence


def test_verdict_claims_a_gain_only_with_both_intervals() -> None:
    undecided = "new is not shown to be better or worse than base on the one panel."
    assert "new beats base on e valid_unseen." in _verdict((0.01, 0.19), (0.02, 0.18))
    assert undecided in _verdict((-0.01, 0.21), (0.02, 0.18))
    assert undecided in _verdict((0.01, 0.19), (-0.02, 0.22))


def test_verdict_owns_up_to_a_loss() -> None:
    sentence = _verdict((-0.3, -0.1), (-0.2, -0.05))
    assert "new loses to base on e valid_unseen." in sentence
    assert "−30.0 to −10.0 for other seeds" in sentence


def test_verdict_with_one_seed_claims_nothing() -> None:
    sentence = _verdict((None, None), (0.02, 0.18))
    assert "no difference between new and base can be shown" in sentence


def test_conclusion_names_the_panels() -> None:
    ends = {"better": (0.01, 0.2), "worse": (-0.2, -0.01), "open": (-0.1, 0.1)}
    rows = [
        {"environment": "e", "split": split}
        | {
            f"difference_{of}_{end}": value
            for of in ("seeds", "tasks")
            for end, value in (("low", low), ("high", high))
        }
        for split, (low, high) in ends.items()
    ]
    assert conclusion(rows, "new", "base") == (
        "new beats base on e better and loses to base on e worse; on the other 1 an interval includes 0."
    )


def test_episode_metrics_by_hand() -> None:
    key = {"environment": "e", "split": "s", "mode": "greedy", "method": "m"}
    recall = [{"name": "recall", "value": 1.0}]
    both = [{"name": "recall", "value": 0.5}, {"name": "searches", "value": 3.0}]
    rows = [key | {"score": score, "metrics": own} for score, own in ((1.0, recall), (0.5, both), (0.0, []))]
    found = episode_metrics(pl.DataFrame(rows)).select("metric", "value", "n").rows()
    assert found == [("score", 0.5, 3), ("recall", 0.75, 2), ("searches", 3.0, 1)]


def test_over_seeds_by_hand() -> None:
    metrics = {"grad_norm": [1.0, 4.0], "kl": [None, None], "equal_reward_mass": [0.1, 0.3]}
    columns = {"environment": ["e"] * 2, "method": ["m"] * 2, "seed": [1, 2], "iteration": [0, 0], **metrics}
    found = over_seeds(pl.DataFrame(columns, schema_overrides={"kl": pl.Float64}), list(metrics))
    assert set(found["metric"]) == {"grad_norm", "equal_reward_mass"}  # no KL was computed
    norm = found.row(by_predicate=pl.col("metric") == "grad_norm", named=True)
    assert (norm["mean"], norm["lowest"], norm["highest"], norm["seeds"]) == (2.5, 1.0, 4.0, 2)


def test_parts_of_the_cost_add_up(results: Results) -> None:
    parts = cost_by_part(results).filter(method="grpo", seed=1)
    assert parts["cpu_seconds"].sum() == pytest.approx(1.5 + 1.5)  # training and evaluation
    assert parts["part"].to_list() == ["collect", "update", "write", "rest", "evaluate"]
