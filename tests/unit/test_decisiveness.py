"""Decisiveness: by hand, against the testbed where the truth is known, and what the stage and its report write."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from empg.analysis import decisiveness as stage
from empg.analysis.decisiveness_summary import (
    curve,
    mean,
    prediction,
    rank_correlation,
    slope,
    summary,
    together,
    weighted_mean,
)
from empg.config import Study, cut, parse
from empg.config.slices import WARM_START, DecisivenessRun
from empg.config.testbed import World as Settings
from empg.core.decisiveness import decisiveness, luck, signal_ratio
from empg.environments.alfworld.generated.writer import write_dataset
from empg.environments.alfworld.registration import AlfworldData
from empg.environments.base import Task
from empg.environments.datasets import open_dataset
from empg.errors import ConfigError
from empg.files import read_json, write_json
from empg.policy.policy import Policy
from empg.report import decisiveness as report
from empg.rollouts.branching import Branch
from empg.rollouts.episodes import Episode, Step, Trajectory
from empg.testbed.world import World

ROOT = Path(__file__).parents[2]
GRID = {
    "study": "made_up",
    "methods": {"grpo": {"advantage": "grpo"}, "grpo_empg": {"advantage": "grpo", "modulation": "empg"}},
    "seeds": [1],
    "environments": {"alfworld": {"max_steps": 3, "train": {"groups": 4, "group_size": 2}}},
    "decisiveness": {"episodes": 12, "steps": 15, "responses": 3, "continuations": 2},
}


def settings(seed: int = 0, **changes: object) -> DecisivenessRun:
    study = parse(Study, GRID | {"decisiveness": GRID["decisiveness"] | {"seed": seed} | changes}, "GRID")
    return cut(DecisivenessRun, study, {"alfworld": AlfworldData(seed=3)}, "alfworld")


# ---------------------------------------------------------------------------------------------------------- estimates
def test_by_hand():
    """Means 1, ½, 0 have variance ¼. Within: 0, ½, 0, mean 1/6, of means of two 1/12. So d = ¼ − 1/12 = 1/6."""
    returns = torch.tensor([[[1, 1], [1, 0], [0, 0]], [[1, 0], [0, 1], [1, 0]]], dtype=torch.float64)
    torch.testing.assert_close(decisiveness(returns), torch.tensor([1 / 6, -1 / 4], dtype=torch.float64))
    torch.testing.assert_close(luck(returns), torch.tensor([1 / 6, 1 / 2], dtype=torch.float64))


@pytest.mark.parametrize("shape", [(8,), (3, 1, 4), (3, 4, 1)])
def test_one_response_or_one_continuation_says_nothing(shape):
    with pytest.raises(ValueError, match="responses ≥ 2, continuations ≥ 2"):
        decisiveness(torch.zeros(shape))


def test_signal_ratio_by_hand():
    """g = 3/2, 1/2; D = 3, 1; v = 1, 2. Signal (3·3/2 + 2·1/2) / 5 = 11/10; noise √((9/4 + 2/4) / 3) = √(11/12)."""
    d, v, g = (torch.tensor(values, dtype=torch.float64) for values in ([3.0, 1], [1, 2.0], [1.5, 0.5]))
    assert float(signal_ratio(d, v, g)) == pytest.approx(1.1 / math.sqrt(11 / 12))
    assert float(signal_ratio(torch.ones(2), torch.ones(2), g)) < 1, "weights that know nothing add noise"
    assert float(signal_ratio(d, v, torch.ones(2))) == 1


class Chain:
    """Plays a task of the testbed's world as an agent does, one action a step."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.random = world, np.random.default_rng(seed)
        self.policy = world.log_policy(torch.zeros(world.settings.actions, world.settings.width).double()).exp().numpy()
        self.right = world.right.numpy()

    def play(self, episodes, progress=lambda count: None) -> list[Trajectory]:
        return [self._episode(episode) for episode in episodes]

    def score_norms(self, played) -> np.ndarray:
        return np.concatenate([1 - (self.policy[t.episode.task.id] ** 2).sum(-1) for t in played])

    def _episode(self, episode: Episode) -> Trajectory:
        steps = list(episode.prefix) if isinstance(episode, Branch) else []
        policy, right = self.policy[episode.task.id], self.right[episode.task.id]
        while len(steps) < len(right):
            p = policy[len(steps)]
            action = int(self.random.choice(len(p), p=p / p.sum()))
            entropies = np.array([-(p * np.log(p)).sum()])
            ids = np.array([action])
            seen = " ".join(["seen:", *(step.text for step in steps)])
            steps.append(Step(seen, ids, ids, entropies, entropies, str(action), str(action), False, False))
        wrong = any(r >= 0 and int(step.action) != r for step, r in zip(steps, right, strict=True))
        return Trajectory(episode, steps, 0.0 if wrong else 1.0, "end")


@pytest.fixture(scope="module")
def measured() -> tuple[World, pl.DataFrame]:
    """Every state of three tasks, measured again and again, with its exact decisiveness as ``truth``."""
    world = World.draw(
        Settings(tasks=3, steps=4, actions=3, decisive=2, width=4, decisive_entropy=0.8, other_entropy=0.6),
        torch.Generator().manual_seed(5),
    )
    dataset = SimpleNamespace(tasks=lambda split: [Task("chain", split, i, "chain") for i in range(3)])
    player, rows = Chain(world, 0), []
    for seed in range(250):
        run = settings(seed, episodes=3, steps=12, responses=3, continuations=2)
        states, batch = stage.measure(player, player.score_norms, run, dataset, lambda done, total: None)
        assert (batch["episodes"], batch["steps"], len(states)) == (3, 12, 12)
        rows += [row | {"truth": truth(world, player, row)} for row in states.iter_rows(named=True)]
    return world, pl.DataFrame(rows)


def truth(world: World, player: Chain, row: dict[str, object]) -> float:
    """The world's decisiveness is that before anything is played: what came before is certain now, right or wrong."""
    task, step = int(row["task"]), int(row["step"])
    exact = float(world.decisiveness(torch.zeros(3, 4).double())[task, step])
    for number, action in enumerate(str(row["observation"]).split()[1:]):
        right = player.right[task][number]
        if right >= 0:
            exact *= ((int(action) == right) / player.policy[task][number][right]) ** 2
    return exact


@pytest.mark.parametrize("decides", [True, False])
def test_the_mean_over_many_draws_is_the_exact_decisiveness(measured, decides):
    world, rows = measured
    right = world.right.numpy()
    chosen = rows.filter(
        pl.struct("task", "step").map_elements(
            lambda s: bool(right[s["task"], s["step"]] >= 0) == decides, return_dtype=pl.Boolean
        )
    )
    excess = (chosen["decisiveness"] - chosen["truth"]).to_numpy()
    error = excess.std(ddof=1) / math.sqrt(len(excess))
    assert abs(excess.mean()) < 3.5 * error
    lucky = chosen["luck"].to_numpy().mean() / 2  # what would be left in with two continuations
    assert lucky > 8 * error, "so the test would see the luck"
    assert (chosen["truth"].to_numpy().max() > 0.05) == decides


def test_the_columns_of_a_state(measured):
    world, rows = measured
    policy = Chain(world, 0).policy
    entropy = -(policy * np.log(policy)).sum(-1)
    first = rows.filter(task=1, step=2)
    assert first["entropy"].to_numpy() == pytest.approx(entropy[1, 2])
    assert first["branch_entropy"].to_numpy() == pytest.approx(entropy[1, 2])
    batch = entropy.flatten()
    h = (batch - batch.min()) / (batch.max() - batch.min() + 1e-8)
    g = np.exp(-h) / np.exp(-h).mean()
    assert first["gradient_scale"].to_numpy() == pytest.approx(g.reshape(3, 4)[1, 2])
    assert first["score_norm"].to_numpy() == pytest.approx(1 - (policy[1, 2] ** 2).sum())
    assert rows["ended"].to_list() == [3 * (step == 3) for step in rows["step"]]
    assert rows.filter(step=3)["luck"].abs().max() == 0, "the last response leaves nothing to luck"
    returns = torch.tensor(rows["returns"].to_list())
    assert rows["decisiveness"].to_numpy() == pytest.approx(decisiveness(returns.double()).numpy())
    assert rows["value"].to_numpy() == pytest.approx(returns.mean((1, 2)).numpy())


# ---------------------------------------------------------------------------------------------------------- intervals
def clustered(random: np.random.Generator, clusters: int = 40, size: int = 5) -> tuple[np.ndarray, ...]:
    """Entropies and decisiveness that share something within a cluster; the truth of the latter is 1 + entropy."""
    cluster = np.repeat(np.arange(clusters), size)
    shared = random.normal(size=clusters)[cluster]
    entropy = random.gamma(2, 0.5, len(cluster)) + 0.5 * np.abs(shared)
    return entropy, 1 + entropy + shared + random.normal(size=len(cluster)), cluster


def test_intervals_cover_what_they_estimate():
    random = np.random.default_rng(1)
    entropy, d, _ = clustered(random, 40_000)
    exact = {"mean": d.mean(), "weighted": (d * entropy).sum() / d.sum()}
    x = np.argsort(np.argsort(entropy)) / (len(entropy) - 1)
    exact["slope"] = np.polyfit(x, d, 1)[0]
    exact["rank"] = np.corrcoef(x, np.argsort(np.argsort(d)))[0, 1]
    hits = dict.fromkeys(exact, 0)
    for _ in range(200):
        entropy, d, cluster = clustered(random)
        found = {"mean": mean(d, cluster), "weighted": weighted_mean(entropy, d, cluster)}
        found |= {"slope": slope(d, entropy, cluster), "rank": rank_correlation(d, entropy, cluster)}
        for name, estimate in found.items():
            hits[name] += estimate.low < exact[name] < estimate.high
    assert {name: 180 <= count <= 199 for name, count in hits.items()} == dict.fromkeys(exact, True), hits


def test_a_weighted_mean_with_equal_weights_is_the_mean():
    entropy, _, cluster = clustered(np.random.default_rng(2))
    found = weighted_mean(entropy, np.full(len(entropy), 3.0), cluster)._asdict()
    assert found == pytest.approx(mean(entropy, cluster)._asdict())


def test_a_ratio_is_not_known_where_nothing_is_decided():
    random = np.random.default_rng(3)
    entropy, _, cluster = clustered(random)
    assert weighted_mean(entropy, random.normal(size=len(entropy)), cluster)[1:] == (None, None)


def test_few_episodes_have_no_interval():
    values, cluster = np.arange(18.0), np.repeat(np.arange(9), 2)
    assert mean(values, cluster) == (8.5, None, None)
    assert mean(np.arange(20.0), np.repeat(np.arange(10), 2)).low is not None


def test_slope_and_curve_by_hand():
    """Ranks 0, ⅓, ⅔, 1 of the entropy; d rises by 1 a rank, so the slope is 3; each quarter holds one state."""
    entropy, d, cluster = np.array([0.1, 0.2, 0.3, 9.0]), np.array([1.0, 2, 3, 4]), np.arange(4)
    assert slope(d, entropy, cluster).value == pytest.approx(3.0)
    assert rank_correlation(d, entropy, cluster).value == pytest.approx(1.0)
    assert rank_correlation(d[::-1], entropy, cluster).value == pytest.approx(-1.0)
    assert [(p["entropy"], p["value"]) for p in curve(d, entropy, cluster)] == [(0.1, 1), (0.2, 2), (0.3, 3), (9.0, 4)]
    nothing = (None, None, None)
    assert slope(d, np.ones(4), cluster) == rank_correlation(d, np.ones(4), cluster) == nothing
    assert rank_correlation(np.ones(4), entropy, cluster) == weighted_mean(entropy, np.zeros(4), cluster) == nothing


@pytest.mark.parametrize(
    ("low", "high", "sign"), [(1.01, 1.2, "+"), (0.8, 0.99, "−"), (0.9, 1.1, "none"), (None, None, "none")]
)
def test_the_declared_rule(low, high, sign):
    assert prediction(low, high) == sign


@pytest.mark.parametrize(
    ("world", "sign"),
    [
        ({"decisive_entropy": 0.3, "other_entropy": 1.05}, 1),
        ({"decisive_entropy": 1.4, "other_entropy": 0.3}, -1),
        ({"decisive_entropy": 0.6, "other_entropy": 1.0, "spread": 0.6}, 1),
        ({"decisive_entropy": 1.0, "other_entropy": 0.6, "spread": 0.6}, -1),
        ({"decisive_entropy": 0.8, "other_entropy": 0.8, "spread": 0.4, "decisive": 5}, -1),
    ],
)
def test_the_sign_of_the_ratio_is_that_of_empgs_effect_in_the_testbed(monkeypatch, world, sign):
    monkeypatch.syspath_prepend(str(ROOT))
    place = importlib.import_module("benchmarks.signal_ratio").measure(Settings(**world), 12)
    assert sign * (place.ratio - 1) > 0.02
    assert sign * place.effect.value > 0


def test_score_norms_are_those_of_the_tokens(results, study_results):
    """v of a state, from one forward pass over its conversation."""
    states = pl.read_parquet(results / "alfworld/warmstart_decisiveness/states.parquet")
    folder = study_results / "alfworld/warmstart/model"
    policy = Policy.load(folder, "")
    dataset = open_dataset(AlfworldData(seed=3), results / "data", {})
    sampler = stage.branching_sampler(policy, settings(), dataset)
    tasks = {task.id: task for task in dataset.tasks("train")}
    for row in states.head(4).iter_rows(named=True):
        (trajectory,) = sampler.play([Episode(tasks[row["task"]], 0, 0, row["seed"])])
        ids = np.concatenate([[*step.prompt_ids, *step.response_ids] for step in trajectory.steps[: row["step"] + 1]])
        with torch.no_grad():
            hidden = policy.network.states(torch.tensor(ids))
            p = policy.network.logits(hidden).double().softmax(-1)
        count = len(trajectory.steps[row["step"]].response_ids)
        assert row["score_norm"] == pytest.approx(float((1 - p.square().sum(-1))[-count - 1 : -1].sum()), rel=1e-5)


# ---------------------------------------------------------------------------------------------------- stage and report
@pytest.fixture(scope="module")
def results(study_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``results/made_up`` with the measurements of three policies, and the data in ``data``."""
    root = tmp_path_factory.mktemp("decisiveness")
    write_dataset(root / "data", profile="small", seed=3, sizes={"train": 30, "tune": 6, "valid_seen": 6})
    write_json(root / "study.json", parse(Study, GRID, "GRID").model_dump(mode="json"))
    model = study_results / "alfworld/warmstart/model"
    for name in ("warmstart_decisiveness", "grpo/seed1/decisiveness_halfway", "grpo/seed1/decisiveness"):
        method, seed = (WARM_START, 0) if name.startswith(WARM_START) else ("grpo", 1)
        gradients = {"batches": 4, "episodes": 20} if method == WARM_START else None
        changes = {"method_name": method, "seed": seed, "halfway": name.endswith("halfway")}
        run = settings(gradients=gradients).model_copy(update=changes)
        stage.run(run, root / "data", model, root / "alfworld" / name, progress=lambda done, total: None)
    return root


def test_the_stage_writes_what_its_summary_is_made_of(results, study_results, tmp_path):
    folder, told = results / "alfworld/warmstart_decisiveness", []
    states = pl.read_parquet(folder / "states.parquet")
    assert states.schema == pl.Schema(stage.STATES)
    assert len(states) == 15
    found = read_json(folder / "summary.json")
    again = summary(states, found["batch"])
    own = ("environment", "method", "seed", "halfway", "batch", "gradients")
    assert found == {name: found[name] for name in own} | again
    rows = [(row["method"], row["compared"], row["batches"], row["parts"]) for row in found["gradients"]]
    assert rows == [("REINFORCE", None, 4, 3), ("grpo", None, 4, 3), ("grpo_empg", "grpo", 4, 3)]
    assert "gradients" not in read_json(results / "alfworld/grpo/seed1/decisiveness/summary.json")
    assert (found["environment"], found["method"], found["seed"]) == ("alfworld", "warmstart", 0)
    model = study_results / "alfworld/warmstart/model"
    run = settings(gradients={"batches": 4, "episodes": 20})
    stage.run(run, results / "data", model, tmp_path, progress=lambda *state: told.append(state))
    assert read_json(tmp_path / "manifest.json") == read_json(folder / "manifest.json"), "the same bits"
    assert (15 * 3 * 2, 15 * 3 * 2) in told
    assert told[-1] == (3 + 4, 3 + 4)


def test_measurements_count_together():
    random = np.random.default_rng(0)
    names = ("decisiveness", "luck", "value", "entropy", "gradient_scale", "score_norm")
    episode = np.arange(90) // 3
    states = pl.DataFrame({name: 0.1 + random.random(90) for name in names} | {"trajectory": episode, "task": episode})
    batch = {"scale_rms": 0.8, "scale_rms_equal": 0.9, "success": 0.25}
    others = states.with_columns(pl.col("task") + 30)
    one, two, again = (
        together([(part, batch) for part in parts]) for parts in ([states], [states, others], [states] * 2)
    )
    assert one == summary(states, batch) | {"batch": {"success": 0.25}}
    assert (two["states"], two["episodes"]) == (180, 60)
    for name in ("decisiveness", "signal_ratio", "signal_ratio_equal", "decisive_entropy"):
        assert two[name]["value"] == pytest.approx(one[name]["value"])
        assert two[name]["high"] - two[name]["low"] < 0.8 * (one[name]["high"] - one[name]["low"])
        assert again[name] == pytest.approx(one[name]), "the same tasks say nothing new"
    own = together([(states, batch), (states, batch | {"scale_rms": 1.6, "success": 0.75})])
    assert own["signal_ratio"]["value"] == pytest.approx(0.75 * one["signal_ratio"]["value"])
    assert own["batch"]["success"] == 0.5


def test_the_report_shows_pools(results, tmp_path):
    study = read_json(results / "study.json") | {"pools": {"rooms": ["alfworld"]}}
    write_json(tmp_path / "study.json", study)
    report.run(tmp_path / "study.json", results, tmp_path / "out")
    table = pl.read_parquet(tmp_path / "out/tables/policies.parquet")
    own, pool = (
        table.filter(environment=name, method="warmstart").drop("environment") for name in ("alfworld", "rooms")
    )
    assert own.equals(pool.with_columns(seed=pl.lit(0, dtype=pool["seed"].dtype)))


def test_the_report_shows_every_policy(results, tmp_path):
    report.run(results / "study.json", results, tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    names = ("warm start", "half-way of grpo, seed 1", "after grpo, seed 1")
    places = [text.index(f"| alfworld | {name} |") for name in names]
    assert places == sorted(places)
    assert "no sign" in text
    assert text.count("| alfworld | warm start | grpo_empg |") == 1
    assert "there are 4 batches and a reference of 3 others" in text
    for name in ("curve", "signal", "gradients"):
        assert (tmp_path / f"figures/{name}.svg").read_text().startswith("<svg")
    assert pl.read_csv(tmp_path / "tables/policies.csv")["halfway"].to_list() == [False, True, False]


def test_the_warm_start_alone(results, tmp_path):
    """`methods: []` needs no training; without estimates of gradients the page has no section for them."""
    for name, methods in (("none", []), ("left_out", None)):
        study = parse(Study, GRID | {"decisiveness": GRID["decisiveness"] | {"methods": methods}}, "GRID")
        assert study.measured == (() if methods == [] else ("grpo",))
        write_json(tmp_path / f"{name}.json", study.model_dump(mode="json"))
    report.run(tmp_path / "none.json", results, tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "| alfworld | warm start |" in text
    assert "after grpo" not in text
    write_json(tmp_path / "alfworld/warmstart_decisiveness/summary.json", _without_gradients(results))
    write_json(tmp_path / "alfworld/warmstart_decisiveness/manifest.json", {"outputs": {}})
    report.run(tmp_path / "none.json", tmp_path, tmp_path / "plain")
    assert "Estimates of the gradient" not in (tmp_path / "plain/README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "plain/tables/gradients.csv").exists()


def _without_gradients(results):
    found = read_json(results / "alfworld/warmstart_decisiveness/summary.json")
    return {name: value for name, value in found.items() if name != "gradients"}


def test_mistakes_are_named(results, tmp_path):
    with pytest.raises(ConfigError, match=r"decisiveness\.methods: expected some of grpo, grpo_empg, found 'empg'"):
        parse(Study, GRID | {"decisiveness": {"methods": ["empg"]}}, "GRID")
    without = {key: value for key, value in GRID.items() if key != "decisiveness"}
    write_json(tmp_path / "study.json", without)
    with pytest.raises(ConfigError, match="decisiveness: expected the settings of a measurement, found none"):
        report.run(tmp_path / "study.json", results, tmp_path / "out")
    run = settings()
    served = run.model_copy(update={"sampling": run.sampling.model_copy(update={"engine": "vllm"})})
    with pytest.raises(ConfigError, match=r"sampling\.engine: expected native"):
        stage.run(served, results / "data", results / "model", tmp_path / "out", progress=lambda done, total: None)
