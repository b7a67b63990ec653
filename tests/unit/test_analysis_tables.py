"""The tables and sentences of the analysis against the episodes behind them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from empg.analysis.contrasts import VERDICT, noise_table, verdict_table
from empg.analysis.cost import cost, cost_by_part
from empg.analysis.results import Results
from empg.analysis.success import episode_metrics, pool_table, result_table, success_by_type, trained_share, with_seeds
from empg.analysis.training_curves import histograms, learning_curves, over_seeds
from empg.analysis.verdict import conclusion, trained_text, verdict
from empg.config import Study, parse, read_yaml
from empg.errors import ConfigError
from empg.files import read_json


@pytest.fixture(scope="module")
def results(study_results: Path) -> Results:
    path = study_results / "config" / "study.json"
    return Results(parse(Study, read_yaml(path), str(path)), study_results)


@pytest.fixture(scope="module")
def table(results: Results) -> pl.DataFrame:
    return result_table(results.study, results.panels(), results.task_means())


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
    types = success_by_type(results.task_means()).filter(split="valid_seen", mode="greedy", method="grpo")
    row = table.filter(split="valid_seen", mode="greedy", method="grpo").row(0, named=True)
    assert types["n"].sum() == 40
    assert (types["n"] * types["success"]).sum() / 40 == pytest.approx(row["success"])


def test_learning_curve_counts_the_episodes(results: Results) -> None:
    credited = pl.concat(results.credited(run, ("iteration", "trajectory")) for run in results.trained())
    curve = learning_curves(results.training(), credited)
    assert curve["episodes"].unique().to_list() == [32]  # 16 a seed
    assert (curve["low"] <= curve["success"]).all()
    assert (curve["success"] <= curve["high"]).all()
    row = curve.filter(method="grpo", iteration=3).row(0, named=True)
    one, two = results.training().filter(method="grpo", iteration=3)["success"]
    assert (row["seeds"], row["seeds_mean"]) == (2, pytest.approx((one + two) / 2))
    assert row["seeds_high"] is None  # two seeds


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
    types = with_seeds(results.study, success_by_type(results.task_means()))
    assert dict(types.select("method", "seeds").iter_rows()) == {"warmstart": 1, "grpo": 2, "grpo_empg": 2}
    panels = results.panels()
    assert with_seeds(results.study, panels).columns == panels.columns  # a row there is one seed


def study_of(*methods: str, seeds: int, environments: Any = "e", **keys: object) -> Study:
    grid = {
        "environments": environments if isinstance(environments, dict) else {name: {} for name in environments},
        "methods": {name: {"advantage": "grpo", "kl_coef": i / 10} for i, name in enumerate(methods)},
        "baseline": methods[0],
        "seeds": list(range(1, seeds + 1)),
    }
    return parse(Study, grid | keys, "test")


def tasks_of(study: Study, success: dict[str, float], tasks: int = 200, seed: int = 0) -> pl.DataFrame:
    """Tasks of two panels, solved with these probabilities whatever the seed; five tasks of each cluster."""
    random = np.random.default_rng(seed)
    rows = [
        {
            "environment": environment,
            "split": split,
            "mode": mode,
            "method": method,
            "seed": number,
            "task": task,
            "task_type": "x",
            "cluster": str(task // 5),
            "trained": task < 30 if split == "seen" else False,
            "success": float(random.random() < share),
        }
        for environment in study.environments
        for split in ("seen", "unseen")
        for mode in ("greedy", "sampled")
        for method, share in success.items()
        for number in study.seeds
        for task in range(tasks)
    ]
    return pl.DataFrame(rows)


def test_verdict_table_shows_a_gain_and_an_equivalence() -> None:
    study = study_of("base", "new", "same", seeds=5, environments="ef", primary={"margin": 0.1})
    table = verdict_table(study, tasks_of(study, {"base": 0.4, "new": 0.7, "same": 0.4}))
    assert table.schema == pl.Schema(VERDICT)
    primary, other = table.filter("primary"), table.filter(~pl.col("primary"))
    assert primary.select("method", "against").unique().rows() == [("new", "base")]
    assert primary["claim"].to_list() == ["better"] * 10
    assert primary["equivalent"].to_list() == [False] * 10
    assert primary.filter(environment="all").select("tasks", "clusters").rows() == [(800, 160)] * 2
    assert other.select("claim", "equivalent", "p_difference_adjusted").null_count().row(0) == (10, 10, 10)
    assert other["over"].unique().to_list() == ["seeds and tasks"]
    chosen = study.model_copy(update={"primary": study.primary.model_copy(update={"method": "same"})})
    same = verdict_table(chosen, tasks_of(study, {"base": 0.4, "new": 0.7, "same": 0.4})).filter("primary")
    assert same["claim"].null_count() == 10
    assert same.filter(environment="all")["equivalent"].to_list() == [True, True]
    for row in same.rows(named=True):
        assert row["difference"] == pytest.approx(row["success"] - row["success_against"])
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["p_difference"] <= row["p_difference_adjusted"]


def test_a_pool_counts_as_one_environment_with_more_seeds() -> None:
    environments = {name: {"data": "d"} for name in "ef"}
    study = study_of("base", "new", seeds=2, environments=environments, pools={"p": ["e", "f"]})
    tasks = tasks_of(study, {"base": 0.4, "new": 0.7})
    table = verdict_table(study, tasks)
    assert set(table["environment"]) == {"p", "all"}
    assert table["seeds"].unique().to_list() == [4]
    assert table["over"].unique().to_list() == ["seeds and tasks"]
    for row in table.filter(environment="p").rows(named=True):
        part = tasks.filter(split=row["split"], mode=row["mode"])
        by_method = dict(part.group_by("method").agg(pl.col("success").mean()).iter_rows())
        assert row["difference"] == pytest.approx(by_method["new"] - by_method["base"])
    # The same numbers as one environment that had these four seeds.
    one = tasks.with_columns(environment=pl.lit("p"), seed=pl.col("seed") * 2 + (pl.col("environment") == "f"))
    again = verdict_table(study_of("base", "new", seeds=4, environments="p"), one)
    assert again.equals(table)


def test_a_run_of_a_pool_is_lifted_over_its_own_warm_start() -> None:
    environments = {name: {"data": "d"} for name in "ef"}
    study = study_of("base", "new", seeds=2, environments=environments, pools={"p": ["e", "f"]})
    tasks = tasks_of(study, {"base": 0.4, "new": 0.7})
    starts = {"e": 0.1, "f": 0.3}
    panel = pl.DataFrame({"environment": [*starts], "success": [*starts.values()]}).with_columns(
        method=pl.lit("warmstart"), seed=pl.lit(None, pl.Int64)
    )
    where = tasks.select("split", "mode").unique()
    table = pool_table(study, panel.join(where, how="cross"), tasks)
    assert set(table["environment"]) == {"p"}
    assert len(table) == 8
    for row in table.rows(named=True):
        runs = tasks.filter(split=row["split"], mode=row["mode"], method=row["method"])
        by_run = runs.group_by("environment", "seed").agg(pl.col("success").mean())
        lifts = by_run["success"] - by_run["environment"].replace_strict(starts, return_dtype=pl.Float64)
        assert row["warm_start"] == pytest.approx(0.2)
        assert row["lift"] == pytest.approx(lifts.mean())
        assert row["lift_lowest_seed"] == pytest.approx(lifts.min())


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ({"e": ["f"]}, "expected names that no environment has, found 'e'"),
        ({"p": ["e", "x"]}, "expected some of e, f, g, h, found e, x"),
        ({"p": []}, "expected some of e, f, g, h, found none"),
        ({"p": ["e", "g"], "q": ["f", "h"]}, "pools.p: expected environments that differ in warmstart alone"),
        ({"p": ["e", "f"], "q": ["g", "h"]}, "pools.q: expected environments that differ in warmstart alone"),
        ({"p": ["e"], "q": ["e"]}, "expected each environment in one, found 'e' again"),
        ({"p": ["e", "f"]}, "expected every environment in one, found 'g' in none"),
        (
            {"p": ["e", "f"], "q": ["g"], "r": ["h"]},
            "expected as many environments in each, found 2 in p, 1 in q, 1 in r",
        ),
    ],
)
def test_a_pool_that_does_not_fit_is_refused(pools: dict[str, list[str]], words: str) -> None:
    environments = {name: {"data": "d"} for name in "ef"} | {"g": {"data": "o"}, "h": {"data": "o", "max_steps": 3}}
    with pytest.raises(ConfigError, match=words):
        study_of("base", "new", seeds=2, environments=environments, pools=pools)


def test_primary_contrast_is_the_baseline_with_empg() -> None:
    methods = {"a": {"advantage": "grpo"}, "b": {"advantage": "dapo"}, "c": {"advantage": "grpo", "modulation": "empg"}}
    grid = {"environments": {"e": {}}, "methods": methods, "baseline": "a", "seeds": [1]}
    assert parse(Study, grid, "test").contrast() == ("c", "a")
    assert parse(Study, grid | {"baseline": "b"}, "test").contrast() == ("a", "b")
    assert parse(Study, grid | {"primary": {"method": "b", "against": "c"}}, "test").contrast() == ("b", "c")
    assert parse(Study, grid | {"methods": {"a": methods["a"]}}, "test").contrast() is None
    with pytest.raises(ConfigError, match=r"primary\.method: expected one of a, b, c, found 'd'"):
        parse(Study, grid | {"primary": {"method": "d"}}, "test")


def test_verdict_says_what_is_shown() -> None:
    study = study_of("base", "new", "same", seeds=5)
    table = verdict_table(study, tasks_of(study, {"base": 0.4, "new": 0.7, "same": 0.4}))
    first, sampled, greedy, other = verdict(study, table, pl.DataFrame())
    assert first.startswith("new is better than base on ")
    assert "all panels together (greedy)" in first
    assert "is at most 5\N{NO-BREAK SPACE}%" in first
    assert first.endswith("It holds for other seeds and other tasks; 5 seeds.")
    assert sampled.startswith(
        "Difference in points of success, sampled (95\N{NO-BREAK SPACE}% interval for other seeds"
    )
    assert "e unseen +" in greedy
    assert other.startswith("Exploratory, without a claim: same against base.")


@pytest.mark.parametrize(("seeds", "runs"), [(1, "this one run"), (2, "these 2 runs")])
def test_verdict_of_few_seeds_is_about_these_runs(seeds: int, runs: str) -> None:
    study = study_of("base", "new", seeds=seeds)
    table = verdict_table(study, tasks_of(study, {"base": 0.4, "new": 0.7}))
    first, sampled, _ = verdict(study, table, pl.DataFrame())
    assert first.startswith(f"For {runs} of each method only: new is better than base on ")
    assert "not for other seeds" in first
    assert "interval for other tasks" in sampled


def test_conclusion_names_what_is_shown_and_what_is_not() -> None:
    base = {"environment": "e", "mode": "sampled", "method": "new", "against": "base", "margin": 0.02, "seeds": 3}
    claims = {"up": ("better", False), "down": ("worse", False), "near": (None, True), "open": (None, False)}
    rows = [
        base | {"split": split, "over": "seeds and tasks", "claim": claim, "equivalent": equivalent}
        for split, (claim, equivalent) in claims.items()
    ]
    assert conclusion(rows).startswith(
        "new is better than base on e up (sampled); is worse than base on e down (sampled); differs from base by less "
        "than 2.0 points on e near (sampled); is not shown to differ from base, nor to be within 2.0 points of it, on "
        "the other one."
    )
    assert "on the one panel." in conclusion(rows[-1:])


def test_types_have_intervals_that_know_of_shared_tasks() -> None:
    """Five seeds that solve the same tasks say as much as one."""
    study = study_of("base", "new", seeds=5)
    tasks = tasks_of(study, {"base": 0.4, "new": 0.7})
    same = tasks.with_columns(success=pl.col("success").first().over("split", "mode", "method", "task"))
    once = same.filter(seed=1)
    found, one = success_by_type(same), success_by_type(once)
    for column in ("success", "low", "high"):
        assert found[column].to_list() == pytest.approx(one[column].to_list())
    assert (found["design"] > 2.5).all()
    independent = success_by_type(tasks)
    assert (independent["high"] - independent["low"]).mean() < 0.8 * (found["high"] - found["low"]).mean()


def test_training_tasks_among_a_panels_are_counted() -> None:
    study = study_of("base", "new", seeds=2)
    found = trained_share(tasks_of(study, {"base": 0.4, "new": 0.7}))
    assert found.rows() == [("e", "seen", 200, 30, 40), ("e", "unseen", 200, 0, 40)]
    assert trained_text(found, "e", "seen").startswith("30 of 200 tasks of seen share room, product or page and goal")
    assert trained_text(found, "e", "unseen") == ""


def test_noise_of_single_episodes_is_told_from_what_tasks_and_seeds_do() -> None:
    """Episodes of probability ½ whatever task, seed and method: nothing but noise. Fixed outcomes: none."""
    study = study_of("base", "new", seeds=4)
    tasks = tasks_of(study, {"base": 0.5, "new": 0.5}, tasks=400).with_columns(cluster=pl.lit(""))
    random = np.random.default_rng(1)
    fixed = pl.concat([tasks.with_columns(episode=pl.lit(i)) for i in range(4)])
    played = fixed.with_columns(success=pl.Series(random.random(len(fixed)) < 0.5))
    noisy, quiet = noise_table(study, played), noise_table(study, fixed)
    assert quiet["noise_share"].to_list() == [0.0] * 4
    assert noisy["noise_share"].mean() > 0.7
    expected = (2 * 0.25 / (4 * 400 * 4)) ** 0.5
    assert noisy["standard_error"].mean() == pytest.approx(expected, rel=0.4)
    one = noisy.filter(pl.col("noise_share") < 1).row(0, named=True)
    noise = one["standard_error"] ** 2 - one["standard_error_limit"] ** 2
    assert noise == pytest.approx(one["noise_share"] * one["standard_error"] ** 2)
    assert one["standard_error_1"] ** 2 == pytest.approx(one["standard_error"] ** 2 + 3 * noise)
    assert len(noise_table(study, fixed.filter(episode=0))) == 0


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


def test_what_an_earlier_grid_left_behind_costs_nothing(study_results: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(study_results, tmp_path / "made_up"))
    results = Results(parse(Study, read_yaml(root / "config" / "study.json"), "test"), root)
    before = cost(results)
    shutil.copytree(root / "alfworld" / "grpo", root / "alfworld" / "removed")
    assert cost(results).equals(before)
    assert before.filter(stage="train")["jobs"].item() == 4


def test_parts_of_the_cost_add_up(results: Results) -> None:
    parts = cost_by_part(results).filter(method="grpo", seed=1)
    assert parts["cpu_seconds"].sum() == pytest.approx(1.5 + 1.5)  # training and evaluation
    assert parts["part"].to_list() == ["collect", "update", "write", "rest", "evaluate"]
