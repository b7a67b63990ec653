"""``empg tune``: real trainings of a tiny policy, a real Optuna database, the real MLflow; and what is refused."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import optuna
import polars as pl
import pytest
import yaml

from empg.config import rollouts_run, warmstart_run
from empg.environments import data as data_stage
from empg.errors import ConfigError, DataError
from empg.pipeline.job_files import read_study
from empg.provenance import only_writer
from empg.rollouts import collect
from empg.tracking.database import connect
from empg.training import warmstart
from empg.tuning import search
from empg.tuning.trial import read, replaced

pytestmark = pytest.mark.xdist_group("tuning")

POLICY = {"type": "tiny", "width": 32, "layers": 1, "mlp_width": 32, "vocab_size": 400}
SPACE = {"method.k": {"low": 0, "high": 4}, "train.optimiser.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
STUDY = {
    "study": "mini",
    "seeds": [1],
    "methods": {"grpo": {"advantage": "grpo"}, "grpo_empg": {"advantage": "grpo", "modulation": "empg"}},
    "environments": {
        "alfworld": {
            "max_steps": 3,
            "policy": POLICY,
            "warmstart": {"tokens": 4000, "batch_tokens": 2000},
            "rollouts": {"tasks": 2},
            "train": {"iterations": 3, "groups": 1, "group_size": 2, "updates": 1},
        }
    },
    "tune": {"trials": 2, "pruner": {"name": "NopPruner"}, "space": SPACE},
}
SIZES = {"train": 12, "valid_seen": 1, "valid_unseen": 1, "tune": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a study's warm start and rollouts, and nothing searched."""
    root = tmp_path_factory.mktemp("tune")
    (root / "config").mkdir()
    (root / "config/data.yaml").write_text(
        yaml.safe_dump({"data_sets": {"alfworld": {"type": "alfworld", "sizes": SIZES}}})
    )
    (root / "config/environments.yaml").write_text("{}")
    configure(root)
    study, sets = read_study(root / "config", None)
    out = root / "results/mini/alfworld"
    data_stage.run(sets["alfworld"], root / "data/alfworld")
    quiet: dict[str, Any] = {"progress": lambda *_: None}
    start = warmstart_run(study, sets, "alfworld")
    warmstart.run(start, root / "data/alfworld", out / "warmstart", on_metrics=lambda *_: None, **quiet)
    first = rollouts_run(study, sets, "alfworld")
    collect.run(first, root / "data/alfworld", out / "warmstart/model", out / "rollouts", **quiet)
    return root


def configure(root: Path, **tune: Any) -> None:
    study = STUDY | {"tune": STUDY["tune"] | tune}
    (root / "config/config.yaml").write_text(yaml.safe_dump(study))


def searched(root: Path) -> pl.DataFrame:
    page = search.run(None, 2, lambda *_: None, root)
    return pl.read_parquet(page.parent / "tables/trials.parquet")


def test_a_search_is_whole_continues_and_is_in_mlflow(root: Path) -> None:
    configure(root)
    found = searched(root)
    assert found.group_by("method").len().sort("method").rows() == [("grpo", 2), ("grpo_empg", 2)]
    study, _ = read_study(root / "config", None)
    own = study.environments["alfworld"].train.optimiser.lr
    assert found.filter(trial=0)["train.optimiser.lr"].to_list() == [own, own]
    assert found.filter(trial=0, method="grpo_empg")["method.k"].to_list() == [1.0]
    assert found.filter(method="grpo")["method.k"].null_count() == 2, "GRPO has no k"
    assert found["sampled"].is_between(0, 1).all()
    folder = root / "results/tune/mini"
    assert not list(folder.rglob("train")), "trainings do not stay"
    assert {path.name for path in folder.glob("figures/*.svg")} >= {"history.svg"}
    assert "GRPO + EMPG | best of 2, 0 pruned" in (folder / "README.md").read_text()
    assert searched(root).equals(found), "nothing is played twice"

    # A process that was killed leaves a trial that runs for ever: it is played first, with the same values.
    trials = optuna.load_study(study_name="alfworld/grpo_empg", storage=f"sqlite:///{folder / 'optuna.db'}")
    cut = trials.ask({"method.k": optuna.distributions.FloatDistribution(0, 4)})
    configure(root, trials=3)
    more = searched(root)
    assert more.height == 6
    assert more.filter(trial=cut.number + 1, method="grpo_empg")["method.k"].to_list() == [cut.params["method.k"]]

    client = connect(root / "results")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tune_mini"]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == more.height
    tags = {(run.data.tags["method"], int(run.data.tags["trial"])): run.data.metrics["sampled"] for run in runs}
    assert tags == {(row["method"], row["trial"]): row["sampled"] for row in more.iter_rows(named=True)}


def test_a_pruned_trial_counts_and_has_no_success(root: Path) -> None:
    """The threshold is above any success, so the pruner ends every trial."""
    (root / "config/config.yaml").write_text(
        yaml.safe_dump(
            STUDY
            | {
                "study": "pruned",
                "tune": STUDY["tune"] | {"pruner": {"name": "ThresholdPruner", "options": {"lower": 2.0}}},
            }
        )
    )
    if not (root / "results/pruned").exists():
        (root / "results/pruned").symlink_to(root / "results/mini")
    found = searched(root)
    assert found["state"].to_list() == ["pruned"] * 4
    assert found["sampled"].null_count() == 4


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        (
            {"space": {"train.optimiser.rate": {"low": 0, "high": 1}}},
            "expected settings of a training, found train.optimiser.rate",
        ),
        (
            {"space": {"train.reward": {"low": 0, "high": 1}}},
            "train.reward: expected a number's setting, found 'success'",
        ),
        (
            {"space": {"train.optimiser.lr": {"low": -1, "high": 1}}},
            "train.optimiser.lr: Input should be greater than 0, found -1",
        ),
        ({"space": {"method.k": {"low": 2, "high": 1}}}, "high: expected more than low, 2, found 1"),
        ({"space": {"evaluate.seed": {"low": 2, "high": 3}}}, "tune.space"),
        ({"sampler": {"name": "TPE"}}, "tune.sampler.name: expected one of .*TPESampler.*, found 'TPE'"),
        ({"pruner": {"name": "MedianPruner", "options": {"warmup": 1}}}, "tune.pruner.options: .*warmup"),
    ],
)
def test_a_mistake_is_refused_before_any_training(root: Path, tune: dict[str, Any], message: str) -> None:
    configure(root, **tune)
    with pytest.raises(ConfigError, match=message):
        search.run(None, 1, lambda *_: None, root)


def test_other_settings_do_not_mix(root: Path) -> None:
    configure(root)
    searched(root)
    configure(root, seed=7)
    with pytest.raises(ConfigError, match="begun with other settings"):
        search.run(None, 1, lambda *_: None, root)


def test_what_is_missing_is_named(root: Path) -> None:
    (root / "config/config.yaml").write_text(yaml.safe_dump(STUDY | {"study": "other"}))
    with pytest.raises(DataError, match=r"results/other/alfworld/warmstart: expected the stage's results.*STUDY=other"):
        search.run(None, 1, lambda *_: None, root)
    (root / "config/config.yaml").write_text(yaml.safe_dump({k: v for k, v in STUDY.items() if k != "tune"}))
    with pytest.raises(ConfigError, match="tune: expected what to search"):
        search.run(None, 1, lambda *_: None, root)


def test_a_second_search_of_a_study_waits(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(root)
    searched(root)
    waiting, said = "results/tune/mini: another process writes here; waiting until it has ended", ""
    with only_writer(root / "results/tune/mini"):
        second = Thread(target=searched, args=(root,))
        second.start()
        while second.is_alive() and waiting not in said:
            second.join(0.1)
            said += capsys.readouterr().err
        second.join(1)
        assert second.is_alive()
    second.join()
    assert waiting in said


def test_a_method_without_a_searched_setting_gets_no_trials(root: Path) -> None:
    configure(root, space={"method.k": {"low": 0, "high": 4}})
    study, sets = read_study(root / "config", None)
    assert [arm.name for arm, _ in search.arms(study, sets, study.tune, root)] == ["alfworld/grpo_empg"]


def test_values_are_put_where_the_path_says(root: Path) -> None:
    configure(root)
    study, sets = read_study(root / "config", None)
    (arm, _), *_ = search.arms(study, sets, study.tune, root)
    changed = replaced(arm.train, {"train.optimiser.lr": 0.5, "sampling.temperature": 0.25})
    assert (read(changed, "train.optimiser.lr"), changed.sampling.temperature) == (0.5, 0.25)
    assert changed.model_copy(update={"train": arm.train.train, "sampling": arm.train.sampling}) == arm.train
