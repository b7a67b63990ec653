"""Gradients of methods in the testbed: a batch worked by hand, what is unbiased, and what the tables hold."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from empg.config import Method, Study, load_study, parse
from empg.config import testbed_runs as runs_of
from empg.config.testbed import Learning
from empg.config.testbed import World as Settings
from empg.core.advantages import Batch
from empg.errors import ConfigError
from empg.files import read_json, write_json
from empg.report import testbed as report
from empg.testbed import run as stage
from empg.testbed.estimators import advantage, ascent
from empg.testbed.gradients import places, quality
from empg.testbed.learning import train
from empg.testbed.play import dynamic_tasks, join, minibatch
from empg.testbed.summary import compare, tables
from empg.testbed.world import Played, World, play

ROOT = Path(__file__).parents[2]
STUDY = load_study(ROOT / "config/study/testbed.yaml", {}, {})
SMALL = Settings(tasks=4, steps=4, actions=3, decisive=1, width=8, decisive_entropy=0.8, other_entropy=0.8)
NOTHING = torch.zeros(3, 8, dtype=torch.float64)


def method(**values: object) -> Method:
    return Method.model_validate({"advantage": "grpo"} | values)


def by_hand() -> Played:
    """Two trajectories of two steps, two actions, both equally likely; features (1, 0) at step 0 and (0, 1) at step 1.

    Actions 0, 0 | 1, 0 and rewards 1 | 0, so that A = 1, 1 | −1, −1. The step entropies are given as 0, 1 | 0, 1.
    """
    action = torch.tensor([0, 0, 1, 0])
    batch = Batch(
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        torch.tensor([0, 0]),
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([0, 1, 0, 1]),
        action,
        torch.tensor([0, 1, 0, 2]),
    )
    hidden = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0]] * 2, dtype=torch.float64)
    logprob = torch.full((4,), math.log(0.5), dtype=torch.float64)
    return Played(batch, hidden, action, logprob, torch.tensor([0.0, 1, 0, 1], dtype=torch.float64))


def test_grpo_by_hand():
    """¼·Σ A·(e_a − ½)φᵀ: step 0 gives ½·(½, −½)·… twice with the same sign, step 1 cancels."""
    found = ascent(method(), by_hand(), advantage(method(), by_hand()), torch.zeros(2, 2, dtype=torch.float64))
    expected = torch.tensor([[0.25, 0], [-0.25, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # the standard deviation's ε


def test_empg_by_hand():
    """k = ln 2: g = 4/3 at step 0 and 2/3 at step 1, so that step 0's part of the gradient grows by 4/3."""
    empg = method(modulation="empg", k=math.log(2), zeta=0)
    found = ascent(empg, by_hand(), advantage(empg, by_hand()), torch.zeros(2, 2, dtype=torch.float64))
    expected = torch.tensor([[1 / 3, 0], [-1 / 3, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_rloo_is_unbiased():
    """RLOO's mean over many batches is the exact gradient, over the steps of a trajectory by which the loss divides."""
    generator = torch.Generator().manual_seed(0)
    world = World.draw(SMALL, generator)
    rloo = method(advantage="rloo")
    played = [play(world, NOTHING, 8, generator, torch.arange(4)) for _ in range(600)]
    gradients = torch.stack([SMALL.steps * ascent(rloo, one, advantage(rloo, one), NOTHING) for one in played])
    error = gradients.std(0) / len(gradients) ** 0.5
    assert ((gradients.mean(0) - world.gradient(NOTHING)).abs() < 4.5 * error).all()
    assert gradients.mean(0).norm() > 10 * error.norm() / error.numel() ** 0.5


def test_quality_by_hand():
    """(3, 4) and (3, −4) against (1, 0): both have cosine 0.6; mean component 3, variance 0 + 32."""
    found = quality(torch.tensor([[3.0, 4], [3, -4]], dtype=torch.float64), torch.tensor([2.0, 0], dtype=torch.float64))
    assert found == pytest.approx((0.6, 3 / math.sqrt(32)))
    assert quality(torch.zeros(2, 2), torch.tensor([1.0, 0])) == (0.0, 0.0)


def test_dynamic_sampling_leaves_out_groups_with_equal_rewards():
    generator = torch.Generator().manual_seed(3)
    world = World.draw(SMALL, generator)
    dapo = method(advantage="dapo", dynamic_sampling=3)
    played = dynamic_tasks(world, NOTHING, 2, dapo, generator)
    reward = played.batch.reward.view(-1, 2)
    assert 1 <= len(reward) < 4 or (reward.sum(1) == 1).all()
    assert (reward.sum(1) == 1).all()
    assert played.batch.group.tolist() == [i for i in range(len(reward)) for _ in range(2)]
    assert len(dynamic_tasks(world, NOTHING, 2, method(), generator).batch.reward) == 8


def test_minibatches_are_consecutive_trajectories_and_join_again():
    generator = torch.Generator().manual_seed(4)
    played = play(World.draw(SMALL, generator), NOTHING, 3, generator, torch.arange(4))
    parts = [minibatch(played, 0, 6), minibatch(played, 6, 12)]
    assert parts[0][1].tolist() == [True] * 24 + [False] * 24
    whole = join([part for part, _ in parts])
    for name in ("hidden", "action", "logprob", "entropy"):
        assert torch.equal(getattr(whole, name), getattr(played, name))
    for found, expected in zip(whole.batch, played.batch, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("rule", ["sgd", "adamw", "muon"])
def test_every_optimiser_learns(rule):
    course = train(
        SMALL, method(), rule, Learning(iterations=25), group_size=8, generator=torch.Generator().manual_seed(5)
    )
    assert course[-1] > course[0] + 0.2


@pytest.mark.parametrize("name", list(STUDY.methods))
def test_every_method_of_the_study_trains(name):
    learning, generator = Learning(iterations=3), torch.Generator().manual_seed(6)
    course = train(
        SMALL, STUDY.methods[name].in_environment(0.05), "adamw", learning, group_size=4, generator=generator
    )
    assert all(0 < value < 1 for value in course)
    assert course[-1] != course[0]


def test_differences_are_paired():
    rows = pl.DataFrame(
        [
            {"at": 1.0, "method": name, "world": world, "cosine": value + 0.125 * (name == "b")}
            for name in ("a", "b")
            for world, value in enumerate((0.25, 0.5, 0.75))
        ]
    )
    found = compare(rows, "a", "cosine", "world", ("at",)).filter(method="b").row(0, named=True)
    assert found["mean"] == pytest.approx(0.625)
    assert found["difference"] == pytest.approx(0.125)
    assert found["difference_high"] - found["difference_low"] < 1e-9 < found["high"] - found["low"]


TINY = {
    "study": "testbed",
    "methods": {"grpo": {"advantage": "grpo"}, "empg": {"advantage": "grpo", "modulation": "empg"}},
    "testbed": {
        "world": SMALL.model_dump(),
        "group_size": 4,
        "entropies": [0.4, 0.9],
        "places": [[0.4, 0.9]],
        "worlds": 3,
        "compared": ["empg"],
        "sweeps": {"steps": [3], "group_size": [2], "k": [2]},
        "learning": {"seeds": 3, "iterations": 2},
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder of a tiny testbed: both parts and the report."""
    root = tmp_path_factory.mktemp("testbed")
    study = parse(Study, TINY, "TINY")
    for part, config in runs_of(study).items():
        stage.run(config, root / part, progress=lambda done, total: None)
    write_json(root / "study.json", study.model_dump(mode="json"))
    report.run(root / "study.json", root, root / "report")
    return root


def test_the_tables_hold_the_map_the_sweeps_and_training(made):
    rows = pl.read_parquet(made / "gradients/gradients.parquet")
    assert rows.group_by("sweep").len().sort("sweep").rows() == [("group_size", 6), ("k", 6), ("map", 24), ("steps", 6)]
    assert rows["cosine"].is_between(-1, 1).all()
    trained = pl.read_parquet(made / "learning/learning.parquet")
    assert len(trained) == 4 * 3 * 2 * 3
    assert set(trained["optimiser"]) == {"sgd", "adamw", "muon"}
    summary = tables(rows, trained, "grpo")
    area = summary["area"].row(by_predicate=pl.col("method") == "empg", named=True)
    cosine = rows.filter(sweep="map").pivot(
        "method", index=["world", "decisive_entropy", "other_entropy"], values="cosine"
    )
    assert area["difference"] == pytest.approx(float((cosine["empg"] - cosine["grpo"]).mean()))
    assert area["places"] == 4


def test_two_runs_give_the_same_bits(made, tmp_path):
    config = runs_of(parse(Study, TINY, "TINY"))["gradients"]
    stage.run(config, tmp_path / "again", progress=lambda done, total: None)
    assert read_json(tmp_path / "again/manifest.json") == read_json(made / "gradients/manifest.json")


def test_the_report_names_every_method_and_shows_every_figure(made):
    page = (made / "report/README.md").read_text(encoding="utf-8")
    assert "| empg |" in page
    for name in ("compared", "map_cosine", "map_snr", "map_learning", "sweeps"):
        assert f"figures/{name}.svg" in page
        assert (made / f"report/figures/{name}.svg").read_text().startswith("<svg")
    assert pl.read_csv(made / "report/tables/area.csv")["method"].sort().to_list() == ["empg", "grpo"]


def test_the_studys_places_are_on_its_map():
    config = runs_of(STUDY)["gradients"]
    everywhere = list(places(config))
    on_map = {(p.world.decisive_entropy, p.world.other_entropy) for p in everywhere if p.sweep == "map"}
    assert len(on_map) == len(config.testbed.entropies) ** 2
    assert set(config.testbed.places) <= on_map
    swept = {p.sweep: p for p in everywhere}
    assert set(swept) == {"map", *config.testbed.sweeps}
    assert swept["k"].methods["grpo_empg"].k == config.testbed.sweeps["k"][-1]
    assert "calibrated" not in swept["k"].methods, "it has no k"
    assert np.isclose(swept["steps"].world.steps, config.testbed.sweeps["steps"][-1])


def test_a_mistake_in_a_testbed_is_named():
    wrong = TINY | {"testbed": {"compared": ["empgg"]}}
    with pytest.raises(ConfigError, match=r"testbed\.compared: expected some of grpo, empg, found 'empgg'"):
        parse(Study, wrong, "TINY")
    with pytest.raises(ConfigError, match="environments: expected at least one, found none"):
        parse(Study, {"methods": TINY["methods"]}, "TINY")
