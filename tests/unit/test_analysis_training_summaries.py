"""Sample efficiency and stability against values by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from empg.analysis import training_summaries
from empg.analysis.results import Results
from empg.config import Study, parse, read_yaml
from empg.files import read_json, write_json

METHODS = {"base": {"advantage": "grpo"}, "new": {"advantage": "dapo"}}
STUDY = parse(Study, {"environments": {"e": {}}, "methods": METHODS, "baseline": "base", "seeds": [1, 2]}, "test")
RECENT = {
    ("base", 1): [None, 0.31, 0.5],
    ("base", 2): [None, 0.2, 0.5],
    ("new", 1): [None, 0.2, 0.31],
    ("new", 2): [None, 0.6, 0.4],
}


def progress(success: float = 0.1) -> pl.DataFrame:
    rows = [
        {
            "environment": "e",
            "method": method,
            "seed": seed,
            "iteration": i,
            "success": success,
            "recent_success": value,
            "environment_steps": 100 * (i + 1),
            "cpu_seconds": None if method == "new" else 2.5 * (i + 1),
        }
        for (method, seed), values in RECENT.items()
        for i, value in enumerate(values)
    ]
    return pl.DataFrame(rows, schema_overrides={"cpu_seconds": pl.Float64})


def test_progress_adds_up(study_results: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(study_results, tmp_path / "made_up"))
    whole, resumed = (root / "alfworld" / "grpo" / f"seed{seed}" / "train" / "timing.json" for seed in (1, 2))
    parts = {"collect": 1.0, "update": 2.0, "write": 0.5}
    write_json(whole, read_json(whole) | {"iterations": [parts] * 4})
    write_json(resumed, read_json(resumed) | {"iterations": [parts] * 3})
    study = parse(Study, read_yaml(root / "config" / "study.json"), "test")
    results = Results(study, root)
    credited = pl.concat(results.credited(run, ("iteration", "trajectory")) for run in results.trained())
    found = training_summaries.training_progress(results, results.training(), credited)
    first = found.filter(method="grpo", seed=1)
    assert first["cpu_seconds"].to_list() == [3.5, 7.0, 10.5, 14.0]
    assert first["environment_steps"][-1] == credited.filter(method="grpo", seed=1).height
    assert first["recent_success"].to_list() == [None, None, None, pytest.approx(first["success"].mean())]
    assert found.filter(method="grpo", seed=2)["cpu_seconds"].null_count() == 4


def test_a_short_training_beside_a_long_one_has_its_own_window(study_results: Path) -> None:
    study = parse(Study, read_yaml(study_results / "config" / "study.json"), "test")
    results = Results(study, study_results)
    training = results.training()
    one = training.filter(method="grpo", seed=1)
    longer = pl.concat([one.with_columns(pl.col("iteration") + i * len(one)) for i in range(5)])
    both = pl.concat([training.filter(method="grpo_empg"), longer])
    credited = pl.concat(results.credited(run, ("iteration", "trajectory")) for run in results.trained())
    found = training_summaries.training_progress(results, both, credited)
    short, long = (found.filter(method=method, seed=1) for method in ("grpo_empg", "grpo"))
    assert short["recent_success"].to_list() == [None] * (len(short) - 1) + [pytest.approx(short["success"].mean())]
    assert long["recent_success"][-1] == pytest.approx(long["success"].tail(10).mean())


def test_sample_efficiency_by_hand() -> None:
    """From 0.1 to the baseline's 0.5: thresholds 0.3, 0.46 and 0.5."""
    found = training_summaries.sample_efficiency(STUDY, progress())
    assert found["threshold"].unique().sort().to_list() == pytest.approx([0.3, 0.46, 0.5])
    table = {(m, s, share): (i, steps, cpu) for _, m, s, share, _, i, steps, cpu in found.iter_rows()}
    assert table["base", 1, 0.5] == (2, 200, 5.0)
    assert table["base", 2, 0.5] == (3, 300, 7.5)
    assert table["new", 1, 0.5] == (3, 300, None)  # reached at an unknown cost
    assert table["new", 1, 0.9] == (None, None, None)
    assert table["new", 2, 1.0] == (2, 200, None)

    over = training_summaries.efficiency_over_seeds(found)
    half = over.filter(share=0.5, method="base").row(0, named=True)
    assert (half["seeds"], half["reached"], half["cpu_seconds_median"]) == (2, 2, 6.25)
    assert half["cpu_seconds_unknown"] == 0
    unknown = over.filter(share=0.5, method="new").row(0, named=True)
    assert (unknown["reached"], unknown["cpu_seconds_unknown"], unknown["cpu_seconds_median"]) == (2, 2, None)
    most = over.filter(share=0.9, method="new").row(0, named=True)
    assert (most["reached"], most["environment_steps_least"]) == (1, 200)
    assert (most["environment_steps_median"], most["environment_steps_most"]) == (None, None)


def test_no_threshold_where_the_baseline_does_not_rise() -> None:
    found = training_summaries.sample_efficiency(STUDY, progress(success=0.5))
    assert found.select("threshold", "iteration", "environment_steps").null_count().row(0) == (12, 12, 12)
    assert training_summaries.efficiency_over_seeds(found)["reached"].to_list() == [0] * 6


def test_stability_by_hand() -> None:
    rows = [
        {
            "environment": "e",
            "method": method,
            "seed": seed,
            "iteration": i,
            "kl": 0.1 * i * seed,
            "grad_norm": norm * seed,
            "step_entropy_mean": 1.0 / (i + 1),
        }
        for method in METHODS
        for seed in (1, 2)
        for i, norm in enumerate((1.0, 2.0, 6.0))
    ]
    kl = pl.DataFrame(
        [{"environment": "e", "method": m, "seed": s, "forward_kl": 0.2} for m in METHODS for s in (1, 2)]
    )
    found = training_summaries.stability(STUDY, progress(), pl.DataFrame(rows), kl)
    value = {(row["quantity"], row["method"]): row for row in found.iter_rows(named=True)}
    assert value["kl_last", "base"]["value"] == pytest.approx((0.2 + 0.4) / 2)
    assert value["kl_last", "base"]["low"] is None, "two seeds have no interval"
    assert value["kl_largest", "new"]["value"] is None  # DAPO computes none
    assert value["grad_norm_peak", "base"]["value"] == pytest.approx(3)
    assert value["grad_norm_mean", "new"]["value"] == pytest.approx(4.5)
    assert value["grad_norm_variation", "base"]["value"] == pytest.approx(7**0.5 / 3)  # sample variance (4 + 1 + 9)/2
    assert value["entropy_kept", "base"]["value"] == pytest.approx(1 / 3)
    assert value["success_lost", "new"]["value"] == pytest.approx((0.0 + 0.2) / 2)
    lost = value["success_lost", "new"]
    assert (lost["difference"], lost["lowest_seed"], lost["highest_seed"]) == pytest.approx((0.1, 0, 0.2))
    assert value["success_lost", "base"]["difference"] is None
    assert found["seeds"].unique().to_list() == [2]


def test_a_training_without_gradients_has_no_ratios() -> None:
    rows = [
        {
            "environment": "e",
            "method": m,
            "seed": s,
            "iteration": i,
            "kl": 0.0,
            "grad_norm": 0.0,
            "step_entropy_mean": float(i),
        }
        for m in METHODS
        for s in (1, 2)
        for i in range(3)
    ]
    kl = pl.DataFrame(
        [{"environment": "e", "method": m, "seed": s, "forward_kl": 0.2} for m in METHODS for s in (1, 2)]
    )
    found = training_summaries.stability(STUDY, progress(), pl.DataFrame(rows), kl).filter(method="base")
    missing = found.filter(pl.col("value").is_null())["quantity"]
    assert set(missing) == {"grad_norm_variation", "grad_norm_peak", "entropy_kept"}


def test_one_seed_has_values_and_no_interval() -> None:
    values = pl.DataFrame({"environment": "e", "q": "x", "method": ["base", "new"], "seed": 1, "value": [1.0, 3.0]})
    (_, row) = training_summaries.means_over_seeds(values, "q", STUDY).iter_rows(named=True)
    assert (row["value"], row["difference"]) == (3, 2)
    assert [row[name] for name in ("low", "high", "difference_low", "difference_high")] == [None] * 4
