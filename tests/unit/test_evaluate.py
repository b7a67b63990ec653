"""Evaluation plays every task of the panels, greedy and sampled, keeps every step and summarises the episodes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from empg.config import EvaluateRun, Study, evaluate_run, parse, read_yaml
from empg.environments.alfworld.generated.writer import write_dataset
from empg.environments.alfworld.registration import AlfworldData
from empg.environments.alfworld.tasks import StoredGames
from empg.environments.base import Task
from empg.files import read_json
from empg.rollouts import evaluate, sampler
from empg.rollouts.episodes import StopReason, Trajectory
from empg.schema import EPISODES, EVALUATED_STEPS, read_table

TASKS = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(
        folder, profile="small", seed=3, sizes={"train": 60, "tune": 6, "valid_seen": TASKS, "valid_unseen": TASKS}
    )
    return folder


def config(study_results: Path, **sampling: object) -> EvaluateRun:
    path = study_results / "config" / "study.json"
    study = parse(Study, read_yaml(path), str(path))
    run = evaluate_run(study, {"alfworld": AlfworldData(seed=3)}, "alfworld", "grpo", 1)
    return run.model_copy(update={"sampling": run.sampling.model_copy(update=sampling), "max_steps": 3})


def test_run_writes_every_episode_of_every_panel(study_results: Path, data: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    model = study_results / "alfworld" / "grpo" / "seed1" / "train" / "model"
    evaluate.run(config(study_results), data, model, tmp_path, progress=lambda *state: told.append(state))
    episodes = read_table(tmp_path / "episodes.parquet", EPISODES)
    counts = episodes.group_by("split", "mode").agg(pl.col("task").n_unique(), pl.len())
    assert set(counts.iter_rows()) == {
        (split, mode, TASKS, TASKS) for split in ("valid_seen", "valid_unseen") for mode in ("greedy", "sampled")
    }
    assert told[-1] == (4 * TASKS, 4 * TASKS)
    assert episodes["steps"].max() <= 3
    summary = read_json(tmp_path / "summary.json")
    assert summary["panels"] == evaluate.summarise(episodes)
    assert (summary["environment"], summary["method"], summary["seed"]) == ("alfworld", "grpo", 1)
    files = {"episodes.parquet", "steps.parquet", "summary.json"}
    assert set(read_json(tmp_path / "manifest.json")["outputs"]) == files
    steps = read_table(tmp_path / "steps.parquet", EVALUATED_STEPS)
    assert evaluate.episodes_of(steps).equals(episodes.drop("cluster", "trained", "metrics"))
    assert len(steps) == episodes["steps"].sum()
    assert steps["trajectory"].unique(maintain_order=True).to_list() == list(range(4 * TASKS))
    for (row,), part in steps.group_by("trajectory"):
        episode, first = episodes.row(row, named=True), part.row(0, named=True)
        assert part["step"].to_list() == list(range(episode["steps"]))
        assert part["invalid"].sum() == episode["invalid_steps"]
        assert part["entropies"].list.len().sum() == episode["agent_tokens"]
        assert (first["reward"] == 1.0, first["score"]) == (episode["success"], episode["score"])
        same = ("split", "mode", "task", "episode", "task_type", "stop_reason")
        assert [first[key] for key in same] == [episode[key] for key in same]


def test_the_warm_start_is_cooled_to_what_is_best_on_tune(
    study_results: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Success is what the temperature says, on tune and on the panels; .5 and .7 tie on tune, .5 is lower."""
    shares = {0.2: 1 / 3, 0.5: 2 / 3, 0.7: 2 / 3}
    asked: list[tuple[float, str, int]] = []

    class Scripted:
        def __init__(self, sampling) -> None:
            self.temperature = sampling.temperature

        def play(self, episodes, on_ended=None) -> list[Trajectory]:
            asked.append((self.temperature, episodes[0].task.split, len(episodes)))
            solved = round(shares[self.temperature] * len(episodes))
            return [Trajectory(e, [], float(i < solved), StopReason.STEP_LIMIT) for i, e in enumerate(episodes)]

    monkeypatch.setattr(evaluate, "make_sampler", lambda _, sampling, *rest, **options: Scripted(sampling))
    own = config(study_results)
    setting = own.evaluate.model_copy(update={"temperatures": (0.7, 0.2, 0.5), "tune_tasks": 3, "episodes": 2})
    model = study_results / "alfworld" / "grpo" / "seed1" / "train" / "model"
    found = evaluate.cool(own.model_copy(update={"evaluate": setting}), data, model)
    assert found["temperature"] == 0.5
    assert found["tune"] == [(t, pytest.approx(share)) for t, share in shares.items()]
    assert {split: (panel["n"], panel["success"]) for split, panel in found["panels"].items()} == {
        split: (2 * TASKS, pytest.approx(0.6)) for split in ("valid_seen", "valid_unseen")
    }
    panels = [(0.5, split, TASKS) for split in ("valid_seen", "valid_unseen") for _ in range(2)]
    assert asked == [(t, "tune", 3) for t in (0.2, 0.5, 0.7)] + panels


def test_only_the_warm_start_is_cooled(study_results: Path) -> None:
    path = study_results / "config" / "study.json"
    grid = read_yaml(path)
    grid["environments"]["alfworld"]["evaluate"] = {"temperatures": [0.5]}
    study, data = parse(Study, grid, str(path)), {"alfworld": AlfworldData(seed=3)}
    assert evaluate_run(study, data, "alfworld", "warmstart", 0).evaluate.temperatures == (0.5,)
    assert evaluate_run(study, data, "alfworld", "grpo", 1).evaluate.temperatures == ()


def test_rows_name_the_room_and_whether_training_has_the_same_goal_there() -> None:
    """Tasks 0 and 1 share room and goal with a training task; 2 and 3 only one of them; of 4 neither is known."""
    what = [("1", "mug"), ("2", "cup"), ("1", "cup"), ("3", "mug"), ("", "")]
    tasks = [Task("e", "s", i, "x", cluster=room, goal=goal) for i, (room, goal) in enumerate(what)]
    played = [Trajectory(e, [], 0.0, StopReason.STEP_LIMIT) for e in evaluate.panel(tasks, "greedy", 0)]
    rows = evaluate.tables(played, "greedy", 0, {("1", "mug"), ("2", "cup")}).episodes
    assert rows["cluster"].to_list() == ["1", "2", "1", "3", ""]
    assert rows["trained"].to_list() == [True, True, False, False, None]


def test_a_games_path_names_room_and_goal(data: Path) -> None:
    game = StoredGames(data)
    for task in game.tasks("train"):
        folder = game._index("train")[task.id].path.split("/")[0]
        assert f"{task.goal}-{task.cluster}" == folder
        assert task.cluster.isdigit()
    assert Task("alfworld", "train", task.id, task.type) == task  # no part of a task's identity


def test_further_plays_have_luck_of_their_own_and_leave_the_first_as_it_was(study_results: Path, data: Path) -> None:
    model = study_results / "alfworld" / "grpo" / "seed1" / "train" / "model"
    told: list[tuple[int, int]] = []
    once, thrice = config(study_results), config(study_results)
    thrice = thrice.model_copy(update={"evaluate": thrice.evaluate.model_copy(update={"episodes": 3})})
    first, all_plays = (evaluate.play(c, data, model, lambda *state: told.append(state)) for c in (once, thrice))
    assert told[-1] == (8 * TASKS, 8 * TASKS)  # two panels, once greedy and three times sampled
    assert all_plays.episodes.filter(episode=0).equals(first.episodes)
    assert all_plays.steps.filter(episode=0).drop("trajectory").equals(first.steps.drop("trajectory"))
    assert all_plays.episodes.filter(mode="greedy")["episode"].to_list() == [0] * 2 * TASKS
    sampled = all_plays.steps.filter(mode="sampled")
    assert sampled.group_by("split", "task").agg(pl.col("seed").n_unique())["seed"].to_list() == [3] * 2 * TASKS
    assert sampled.group_by("episode").agg("text")["text"].n_unique() == 3
    numbered = all_plays.episodes.with_row_index("trajectory")
    keys = ["split", "mode", "task", "episode"]
    joined = all_plays.steps.join(numbered, on="trajectory")
    assert all(joined[key].equals(joined[f"{key}_right"], check_names=False) for key in keys)


def test_waves_change_nothing(study_results: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = study_results / "alfworld" / "grpo" / "seed1" / "train" / "model"
    told: list[tuple[int, int]] = []
    opened: list[int] = []
    prefill = sampler._Batch._prefill_openings

    def spy(batch: sampler._Batch) -> None:
        opened.append(len(batch.rows))
        prefill(batch)

    monkeypatch.setattr(sampler._Batch, "_prefill_openings", spy)
    whole, parts = (
        evaluate.play(config(study_results, rows=rows), data, model, lambda *state: told.append(state)).episodes
        for rows in (256, 2)
    )
    assert opened == [TASKS] * 4 + [2, 2, 1] * 4
    assert told[-1] == (4 * TASKS, 4 * TASKS)
    assert whole.drop("mean_entropy").equals(parts.drop("mean_entropy"))
    assert whole["mean_entropy"].to_list() == pytest.approx(parts["mean_entropy"].to_list(), abs=1e-5)


def test_luck_belongs_to_task_mode_and_panel_seed(data: Path) -> None:
    tasks = StoredGames(data).tasks("valid_seen")
    seeds = {episode.task.id: episode.seed for episode in evaluate.panel(tasks, "sampled", 0)}
    backwards = {episode.task.id: episode.seed for episode in evaluate.panel(tasks[::-1], "sampled", 0)}
    assert seeds == backwards
    assert len(set(seeds.values())) == TASKS
    assert not set(seeds.values()) & {episode.seed for episode in evaluate.panel(tasks, "greedy", 0)}
    assert not set(seeds.values()) & {episode.seed for episode in evaluate.panel(tasks, "sampled", 1)}


def named(**values: float) -> list[dict[str, object]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def test_summary_by_hand() -> None:
    columns = {
        "split": "valid_seen",
        "mode": "greedy",
        "task": [0, 1, 2, 3],
        "episode": 0,
        "task_type": ["look", "pick", "look", "pick"],
        "cluster": "",
        "trained": None,
        "success": [True, True, False, True],
        "score": [1.0, 1.0, 0.4, 1.0],
        "metrics": [named(recall=0.5), named(recall=1.0, f1=0.2), [], named(recall=0.0)],
        "steps": [2, 4, 10, 4],
        "invalid_steps": [0, 1, 9, 0],
        "agent_tokens": [10, 30, 0, 20],
        "mean_entropy": [0.5, 0.1, None, 0.2],
        "stop_reason": ["success", "success", "step_limit", "success"],
    }
    numbers = evaluate.summarise(pl.DataFrame(columns).cast(EPISODES))["valid_seen"]["greedy"]  # type: ignore[arg-type]
    assert (numbers["n"], numbers["successes"], numbers["success"]) == (4, 3, 0.75)
    # z² = 3.841459, n = 4: centre (0.75 + 0.480182)/1.960365, half 1.959964·√(0.046875 + 0.060023)/1.960365
    assert (numbers["success_low"], numbers["success_high"]) == pytest.approx((0.300642, 0.954413), abs=1e-6)
    assert (numbers["steps_mean"], numbers["invalid_rate"], numbers["agent_tokens"]) == (5.0, 0.5, 60)
    assert numbers["token_entropy_mean"] == pytest.approx((5 + 3 + 4) / 60)
    assert (numbers["score_mean"], numbers["metrics"]) == (pytest.approx(0.85), {"f1": 0.2, "recall": 0.5})
    assert numbers["stop_reasons"] == {"step_limit": 1, "success": 3}
    assert {name: part["success"] for name, part in numbers["types"].items()} == {"look": 0.5, "pick": 1.0}


def test_an_interval_counts_tasks_and_not_their_plays() -> None:
    """Two plays of four tasks, five successes: solved tasks are 2.5 of 4, so the interval is that of 2 and of 3."""
    columns = {"task": [0, 1, 2, 3] * 2, "success": [True, True, True, False, True, True, False, False]}
    numbers = evaluate._success(pl.DataFrame(columns))
    solved = [pl.DataFrame({"task": range(4), "success": [i < k for i in range(4)]}) for k in (2, 3)]
    two, three = map(evaluate._success, solved)
    assert (numbers["n"], numbers["successes"], numbers["success"]) == (8, 5, 0.625)
    assert (numbers["success_low"], numbers["success_high"]) == (two["success_low"], three["success_high"])
