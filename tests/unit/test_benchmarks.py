"""What the benchmarks compute beside time: counted operations, turns, targets, and the page's table."""

from __future__ import annotations

import importlib
import re
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from empg.analysis.success import with_pools
from empg.config import Study, parse
from empg.errors import DataError
from empg.files import read_json, write_json
from empg.schema import EPISODES

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def sizes():
    return importlib.import_module("benchmarks.sizes")


def test_the_counted_products_are_those_that_the_forward_pass_computes(sizes):
    network, batch = sizes.Size(32, 3, 4, 2, 48).network(), sizes.made_up(200, 4)
    (pack,) = sizes.packs(batch.conversations[:4], 16_384, torch.device("cpu"))
    assert len(pack.asked) < sizes.FEW * len(pack.tree.ids), "the last layer computes only what is asked for"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pack.statistics(network)
    counts = counter.get_flop_counts()["Global"]
    a, keys = network.architecture, pack.tree.positions + 1
    attended = 2 * float(keys.sum()) + float(keys[pack.asked].sum())
    attention = 4 * a.heads * a.head_width * attended
    expected = sizes.products(a, pack) - attention
    found = sum(value for op, value in counts.items() if op in (torch.ops.aten.mm, torch.ops.aten.addmm))
    assert found == expected


def test_the_made_up_groups_share_an_opening(sizes):
    batch = sizes.made_up(500, 4)
    opening = [c.ids[:125].tolist() for c in batch.conversations]
    assert opening[:4] == [opening[0]] * 4
    assert opening[4] != opening[0]


def test_sides_take_turns_and_the_first_turn_does_not_count():
    measure = importlib.import_module("benchmarks.measure")
    calls = []
    taken = measure.in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert [len(values) for values in taken.values()] == [2, 2]
    assert measure.times(np.array([2.0, 9.0, 4.0]), np.array([1.0, 1.0, 4.0])) == 2.0


def test_a_missed_target_is_said():
    measure, page = (importlib.import_module(f"benchmarks.{name}") for name in ("measure", "page"))
    lines = [
        measure.Line("a", "1", "2", 3.0, target=3.0),
        measure.Line("b", "1", "2", 2.9, target=3.0),
        measure.Line("c", "1", "2", 0.021, target=0.02, at_most=True),
        measure.Line("d", "1", "2", 1234.5),
    ]
    ends = [row.split("|")[-3:-1] for row in map(page.row, lines)]
    assert ends == [
        [" 3.00 ", " ≥ 3: holds "],
        [" 2.90 ", " ≥ 3: **missed** "],
        [" 2.1% ", " ≤ 2%: **missed** "],
        [" 1,234 ", "  "],
    ]


def test_an_unfinished_study_is_named(tmp_path, monkeypatch):
    measure = importlib.import_module("benchmarks.measure")
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="expected the finished default study, found none"):
        measure.DefaultStudy.read(tmp_path, tmp_path)


# ------------------------------------------------------------------------------------------------- the primary contrast
def play(folder: Path, success: float, random: np.random.Generator) -> None:
    """Episodes of two panels of 60 tasks, five of each cluster, solved with this probability."""
    rows = [
        dict.fromkeys(EPISODES)
        | {"split": split, "mode": mode, "task": task, "episode": 0, "cluster": str(task // 5), "success": solved}
        for split in ("seen", "unseen")
        for mode in ("greedy", "sampled")
        for task, solved in enumerate(random.random(60) < success)
    ]
    folder.mkdir(parents=True)
    pl.DataFrame(rows, schema=EPISODES).write_parquet(folder / "episodes.parquet")


def begin(folder: Path, warm_start: str) -> None:
    """The manifest of a training that began with this warm start."""
    write_json(folder / "manifest.json", {"inputs": {"data": "d", "model": warm_start, "rollouts": "r"}})


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Eight runs of each arm in two environments: the method is better in one and worse in the other."""
    random, folder = np.random.default_rng(0), tmp_path / "experiment"
    pools = {"up": ["up_1", "up_2", "up_3", "up_4"], "down": ["down_1", "down_2", "down_3", "down_4"]}
    study = {
        "study": "experiment",
        "environments": {name: {"data": "d"} for members in pools.values() for name in members},
        "methods": {"grpo": {"advantage": "grpo"}, "grpo_empg": {"advantage": "grpo", "modulation": "empg"}},
        "seeds": [1, 2],
        "pools": pools,
    }
    write_json(folder / "config" / "study.json", parse(Study, study, "test").model_dump(mode="json"))
    for name in study["environments"]:
        play(folder / name / "warmstart_evaluate", 0.3, random)
    for pool, members in pools.items():
        better = 0.7 if pool == "up" else 0.2
        for name, (method, share), seed in product(members, (("grpo", 0.45), ("grpo_empg", better)), (1, 2)):
            run = folder / name / method / f"seed{seed}"
            play(run / "evaluate", share, random)
            begin(run / "train", name)
    return folder


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """What is predicted of both environments, and comes out."""
    path = tmp_path / "policies.csv"
    path.write_text("environment,prediction\nup_1,none\nup,+\ndown,−\n", encoding="utf-8")
    return path


ARMS = ("grpo_empg", "grpo")


def add_seed(experiment: Path, folder: Path, seed: int, warm_start: str = "up_2") -> None:
    """A study of one more seed of one warm start."""
    study = read_json(experiment / "config" / "study.json")
    study |= {"environments": {"up_2": study["environments"]["up_2"]}, "pools": {}, "seeds": [seed]}
    write_json(folder / "config" / "study.json", study)
    shutil.copytree(experiment / "up_2" / "warmstart_evaluate", folder / "up_2" / "warmstart_evaluate")
    random = np.random.default_rng(1)
    for method in ARMS:
        run = folder / "up_2" / method / f"seed{seed}"
        play(run / "evaluate", 0.5, random)
        begin(run / "train", warm_start)


def contrast_page(folders: list[Path], predictions: Path, look=None, *, final: bool = False) -> str:
    """What the command prints of these studies, but for the noise."""
    primary = importlib.import_module("benchmarks.primary_contrast")
    read = primary.studies(folders, ARMS, look)
    return primary.main(read[0].study, primary.played(read), predictions, ARMS, final=final)


def pooled(folders: list[Path]) -> tuple[Study, pl.DataFrame]:
    """The first study, and the outcomes with its pools as environments."""
    primary = importlib.import_module("benchmarks.primary_contrast")
    read = primary.studies(folders, ARMS)
    return read[0].study, with_pools(read[0].study, primary.played(read))


def test_the_primary_contrast_follows_the_plan(experiment: Path, predictions: Path) -> None:
    primary = importlib.import_module("benchmarks.primary_contrast")
    text = contrast_page([experiment], predictions)
    assert text.startswith("grpo_empg minus grpo, greedy")
    said = "Look 1, bound of p 0.0019. Finding: support for the hypothesis."
    assert said in text
    assert "Predictions of single environments: up holds, down holds." in text
    assert "Equivalence is tested at the look at which the experiment stops." in text
    assert "Equivalence within 2 points: primary p 1" in contrast_page([experiment], predictions, final=True)
    assert len(re.findall(r"^\| (?:up|down) \| (?:seen|unseen) \| grpo(?:_empg)? \| 8 \|", text, re.MULTILINE)) == 8
    study, tasks = pooled([experiment])
    up, down = found = [
        primary.contrast(study, pool, sign, tasks.filter(environment=pool, mode="greedy"), ARMS)
        for pool, sign in zip(study.pools, (1, -1), strict=True)
    ]
    assert up.runs == down.runs == (2, 2, 2, 2)
    assert up.difference.value == pytest.approx(up.success - up.against)
    assert primary.primary(found).value == pytest.approx((up.difference.value - down.difference.value) / 2)
    assert primary.primary(found, signs=False).value == pytest.approx((up.difference.value + down.difference.value) / 2)
    assert primary.primary(found, over="by_warm_start").value == pytest.approx(primary.primary(found).value)
    assert up.by_seed is None, "two numbers are too few"
    assert primary.finding(found, 0.02) == ["support for the hypothesis"]
    assert primary.finding([one._replace(sign=-one.sign) for one in found], 0.02) == ["against the hypothesis"]
    only = [up._replace(sign=0), down]
    assert primary.primary(only).value == pytest.approx(-down.difference.value)
    none = [one._replace(sign=0) for one in found]
    assert primary.finding(none, 0.02) == ["nothing shown"]
    assert "harm" in primary.finding([down._replace(sign=0)] * 2, 0.02)


def test_a_lift_is_over_the_runs_own_warm_start(experiment: Path) -> None:
    primary = importlib.import_module("benchmarks.primary_contrast")

    def solved(folder: Path) -> float:
        episodes = pl.read_parquet(folder / "episodes.parquet").filter(split="seen", mode="greedy")
        return float(episodes["success"].cast(pl.Float64).to_numpy().mean())

    runs = [(experiment / name, seed) for name in ("up_1", "up_2", "up_3", "up_4") for seed in (1, 2)]
    found = [
        100 * (solved(start / "grpo" / f"seed{seed}" / "evaluate") - solved(start / "warmstart_evaluate"))
        for start, seed in runs
    ]
    values = [f"{value:+.1f}".replace("-", "−") for value in (float(np.median(found)), min(found), max(found))]
    read = primary.studies([experiment], ARMS)
    row = next(
        line
        for line in primary.lifts(read[0].study, primary.played(read)).splitlines()
        if line.startswith("| up | seen | grpo |")
    )
    assert row.endswith(f"| {values[0]} | {values[1]} to {values[2]} |")


def test_a_finding_that_warm_starts_do_not_share_is_about_them_alone(experiment: Path) -> None:
    """Runs of one warm start agree, and warm starts differ."""
    primary = importlib.import_module("benchmarks.primary_contrast")
    study, tasks = pooled([experiment])
    up = primary.contrast(study, "up", 1, tasks.filter(environment="up", mode="greedy"), ARMS)
    wide = up._replace(by_warm_start=up.by_warm_start._replace(seeds=0.02))
    assert primary.finding([wide, wide], 0.02) == ["support for the hypothesis, for these four warm starts only"]


def test_a_prediction_holds_fails_or_is_open(experiment: Path) -> None:
    primary = importlib.import_module("benchmarks.primary_contrast")
    study, tasks = pooled([experiment])
    up = primary.contrast(study, "up", 1, tasks.filter(environment="up", mode="greedy"), ARMS)
    none = up._replace(sign=0)
    small = none._replace(difference=up.difference._replace(value=0.0, seeds=1e-6, tasks=1e-6, both=1e-6))
    for one, final, expected in (
        (up, False, "holds"),
        (up._replace(sign=-1), False, "fails"),
        (none, True, "fails"),
        (small, False, "open"),
        (small, True, "holds"),
        (small._replace(sign=1), True, "open"),
    ):
        assert primary.prediction(one, 0.0019, 0.02, final=final) == expected
    assert primary.finding([small, small], 0.02) == ["nothing shown"]
    assert primary.finding([small, small], 0.02, final=True) == ["equivalence, for these four warm starts only"]
    same = small._replace(by_warm_start=small.difference)
    assert primary.finding([same, same], 0.02, final=True) == ["equivalence"]


def test_the_primary_contrast_names_a_run_that_is_missing(experiment: Path, predictions: Path) -> None:
    shutil.rmtree(experiment / "up_1" / "grpo" / "seed2" / "evaluate")
    with pytest.raises(DataError, match="up_1/grpo/seed2/evaluate"):
        contrast_page([experiment], predictions)


def test_a_study_that_adds_seeds_is_counted(experiment: Path, predictions: Path, tmp_path: Path) -> None:
    """Also one of some warm starts alone, as the second look has. Runs that no look plans yield no finding."""
    primary = importlib.import_module("benchmarks.primary_contrast")
    add_seed(experiment, tmp_path / "more", 3)
    folders = [experiment, tmp_path / "more"]
    study, tasks = pooled(folders)
    up = tasks.filter(environment="up", mode="greedy")
    found = primary.contrast(study, "up", 1, up, ARMS)
    assert found.runs == (2, 3, 2, 2)
    assert found.by_seed is not None
    assert sorted(up["seed"].unique().to_list()) == [4, 5, 6, 7, 8, 9, 10, 11, 13]
    assert "Finding: no planned look.\n" in contrast_page(folders, predictions, final=True)


def test_a_look_leaves_out_the_runs_after_it(experiment: Path, predictions: Path, tmp_path: Path) -> None:
    """Also those that are planned and not made."""
    primary = importlib.import_module("benchmarks.primary_contrast")
    add_seed(experiment, tmp_path / "more", 3)
    shutil.rmtree(tmp_path / "more" / "up_2" / "grpo" / "seed3")
    folders, (first, second, _) = [experiment, tmp_path / "more"], primary.LOOKS
    alone = contrast_page([experiment], predictions)
    assert contrast_page(folders, predictions, first) == alone
    with pytest.raises(DataError, match="up_2/grpo/seed3"):
        contrast_page(folders, predictions, second)


def test_outcomes_give_the_same_page(experiment: Path, predictions: Path, tmp_path: Path) -> None:
    primary = importlib.import_module("benchmarks.primary_contrast")
    add_seed(experiment, tmp_path / "more", 3)
    folders = [experiment, tmp_path / "more"]
    read = primary.studies(folders, ARMS)
    primary.write_outcomes(read[0].study, primary.played(read), tmp_path / "published")
    study, tasks = primary.read_outcomes(tmp_path / "published")
    assert primary.main(study, tasks, predictions, ARMS, final=True) == contrast_page(folders, predictions, final=True)


def test_exploratory_arms_have_no_finding(experiment: Path, predictions: Path) -> None:
    primary = importlib.import_module("benchmarks.primary_contrast")
    arms = ("grpo", "grpo_empg")
    (read,) = primary.studies([experiment], arms)
    text = primary.main(read.study, primary.played([read]), predictions, arms, final=True)
    assert "Finding" not in text
    assert "signs as predicted" not in text
    assert text.count("| all environments | ") == 2, "greedy and sampled"
    assert text.count("| up | none | 8 |") == 2


@pytest.mark.parametrize(
    ("name", "arms"),
    [
        ("experiment_look_3", ARMS),
        ("experiment_arms", ("grpo_shuffled", "grpo_calibrated", "rtmc", "dapo", "dapo_empg", "grpo")),
        ("experiment_arms", ("dapo_empg", "dapo")),
        ("experiment_arms", ("grpo_empg", "grpo_shuffled")),
    ],
)
def test_a_published_page_is_what_its_outcomes_give(name: str, arms: tuple[str, ...]) -> None:
    primary = importlib.import_module("benchmarks.primary_contrast")
    folder = ROOT / "docs/results" / name
    text = primary.main(*primary.read_outcomes(folder), ROOT / primary.PREDICTIONS, arms, final=True)
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert [part for part in text.split("\n\n") if part.strip() not in page] == []


def test_an_arm_that_is_not_there_is_named(experiment: Path, predictions: Path) -> None:
    primary = importlib.import_module("benchmarks.primary_contrast")
    with pytest.raises(DataError, match=r"study\.json: expected the methods dapo, grpo, found no dapo"):
        primary.studies([experiment], ("dapo", "grpo"))
    (read,) = primary.studies([experiment], ARMS)
    with pytest.raises(DataError, match="outcomes: expected runs of dapo, grpo, found none of dapo"):
        primary.main(read.study, primary.played([read]), predictions, ("dapo", "grpo"), final=True)


def test_runs_that_do_not_belong_together_are_refused(experiment: Path, tmp_path: Path) -> None:
    primary = importlib.import_module("benchmarks.primary_contrast")
    with pytest.raises(DataError, match="expected each run once"):
        primary.played(primary.studies([experiment, experiment], ARMS))
    add_seed(experiment, tmp_path / "other", 3, warm_start="another")
    with pytest.raises(DataError, match=r"up_2/\w+/seed3/train/manifest\.json: expected the data and warm start of "):
        primary.played(primary.studies([experiment, tmp_path / "other"], ARMS))
    with pytest.raises(DataError, match="expected a study with pools"):
        primary.played(primary.studies([tmp_path / "other"], ARMS))


def test_quantiles_of_step_entropies_over_the_runs_of_a_pool(experiment: Path) -> None:
    step_entropies = importlib.import_module("benchmarks.step_entropies")
    primary = importlib.import_module("benchmarks.primary_contrast")
    for name, seed in product((f"{pool}_{i}" for pool in ("up", "down") for i in range(1, 5)), (1, 2)):
        for iteration, entropies in enumerate(([0.0, 1.0, None], [0.5], [2.0], [0.25, 0.25])):
            file = experiment / name / f"grpo/seed{seed}/train/rollouts/iteration_{iteration:04d}.parquet"
            file.parent.mkdir(exist_ok=True)
            pl.DataFrame({"step_entropy": entropies}).write_parquet(file)
    _, _, first, middle, last, *others = step_entropies.table(primary.of_arms(experiment, ["grpo"])).splitlines()
    assert first == "| up | first | 8 | 16 | 0.00 | 0.00 | 0.50 | 1.00 | 1.00 | 1.00 | 50 |", "no step without credit"
    assert middle == "| up | half-way | 8 | 8 | 0.50 | 0.50 | 0.50 | 0.50 | 0.50 | 0.50 | 100 |"
    assert last == "| up | last | 8 | 16 | 0.25 | 0.25 | 0.25 | 0.25 | 0.25 | 0.25 | 100 |"
    assert others == [line.replace("up", "down") for line in (first, middle, last)]
    with pytest.raises(DataError, match=r"grpo_empg/seed1/train/rollouts: expected iteration_\*\.parquet, found none"):
        step_entropies.table(primary.of_arms(experiment, ["grpo_empg"]))


def test_arms_are_corrected_for_their_number(experiment: Path, predictions: Path) -> None:
    """Holm's steps over two arms: the smaller p twice, the larger one as it is, but never below the smaller."""
    primary = importlib.import_module("benchmarks.primary_contrast")
    (read,) = primary.studies([experiment], ARMS)
    study, tasks = read.study, primary.played([read])
    copy = tasks.filter(method="grpo_empg").with_columns(method=pl.lit("twin"))
    text = primary.main(study, pl.concat([tasks, copy]), predictions, ("grpo_empg", "twin", "grpo"), final=False)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| grpo_empg |", "| twin |"))]
    assert len(rows) == 4, "two arms, greedy and sampled"
    for _, _, p, holm in rows:
        assert float(holm.strip(" |")) == pytest.approx(min(1.0, 2 * float(p)), rel=0.01)
