"""Evaluation on fixed panels: every task of each split, greedy once and sampled once or several times.

The stage writes, beside ``manifest.json``:

* ``episodes.parquet``, one row an episode, in :data:`~empg.schema.EPISODES`;
* ``steps.parquet``, one row a step of each of these episodes, in :data:`~empg.schema.EVALUATED_STEPS`: the rollouts'
  columns (observation, text, action, ids, log-probabilities and entropies of tokens, reward, stop reason) and ``mode``
  and ``episode``. Split, mode, task and episode name an episode in both files; ``trajectory`` is its row in the former.
  Rows are in the order of the episodes and their steps. An episode that ended before its first step has none;
* ``summary.json``, the numbers of each panel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from empg.config import ENVIRONMENTS, EvaluateRun
from empg.environments.base import Task
from empg.environments.datasets import open_dataset
from empg.files import write_json
from empg.policy.policy import Policy
from empg.provenance import stage
from empg.rollouts.collect import draw_tasks, make_sampler
from empg.rollouts.episodes import Episode, Trajectory
from empg.rollouts.table import to_table
from empg.rollouts.vllm_server import Server, serving
from empg.schema import EPISODES, EVALUATED_STEPS, STEPS
from empg.seeding import derive_seed

MODES = ("greedy", "sampled")
GIVING = (  # the columns of steps that give the episodes
    *("split", "mode", "task", "episode", "task_type"),
    *("step", "invalid", "entropies", "reward", "score", "stop_reason"),
)


class Played(NamedTuple):
    """The episodes of an evaluation, in :data:`~empg.schema.EPISODES`, and their steps, in
    :data:`~empg.schema.EVALUATED_STEPS`."""

    episodes: pl.DataFrame
    steps: pl.DataFrame


def run(config: EvaluateRun, data: Path, model: Path, out: Path, *, progress: Callable[[int, int], None]) -> None:
    """Play the panels and write ``out/episodes.parquet``, ``out/steps.parquet`` and ``out/summary.json``.

    ``progress`` gets (episodes played, episodes in all). The sampled mode's random numbers derive from the panel's
    coordinates and not from the run, so all policies of a study draw the same numbers and their differences are paired.
    """
    with (
        stage("evaluate", config, out, inputs={"data": data, "model": model}) as record,
        serving(config.sampling, model, out) as server,
    ):
        played = play(config, data, model, progress, server)
        panels = summarise(played.episodes)
        record.write_table(played.episodes, EPISODES, "episodes.parquet")
        record.write_table(played.steps, EVALUATED_STEPS, "steps.parquet")
        key = {"environment": config.environment, "method": config.method_name, "seed": config.seed}
        kind = ENVIRONMENTS[config.data.type]
        about = {"metrics": dict(kind.metrics), "stop_reasons": dict(kind.stop_reasons)}
        chosen = {"cooled": cool(config, data, model, server)} if config.evaluate.temperatures else {}
        write_json(out / "summary.json", {**key, "about": about, "panels": panels, **chosen})
        record.summary = {
            f"{split}_{mode}_success": panels[split][mode]["success"] for split in panels for mode in MODES
        }


def play(
    config: EvaluateRun,
    data: Path,
    model: Path,
    progress: Callable[[int, int], None],
    server: Server | None = None,
) -> Played:
    """Play every episode of every panel.

    The sampled mode plays each task ``evaluate.episodes`` times. The greedy mode plays it once, because another play of
    the same task by the same policy would be the same.
    """
    policy = Policy.load(model, config.system)
    dataset = open_dataset(config.data, data, config.interface)
    panels = {split: dataset.tasks(split) for split in config.evaluate.splits}
    trained = {_what(task) for task in dataset.tasks("train")}
    plays = {mode: 1 if mode == "greedy" else config.evaluate.episodes for mode in MODES}
    total = sum(plays.values()) * sum(map(len, panels.values()))
    played = 0

    def advance(count: int) -> None:
        nonlocal played
        played += count
        progress(played, total)

    parts = []
    for mode in MODES:
        greedy = mode == "greedy"
        sampler = make_sampler(policy, config.sampling, dataset, config.max_steps, greedy=greedy, server=server)
        for tasks in panels.values():
            for episode in range(plays[mode]):
                started = panel(tasks, mode, config.evaluate.seed, episode)
                parts.append(tables(sampler.play(started, advance), mode, episode, trained))
    episodes = pl.concat(part.episodes for part in parts)
    first = np.cumsum([0, *(len(part.episodes) for part in parts[:-1])])
    steps = [part.steps.with_columns(pl.col("trajectory") + int(row)) for part, row in zip(parts, first, strict=True)]
    return Played(episodes, pl.concat(steps).cast(EVALUATED_STEPS))  # type: ignore[arg-type]


def cool(config: EvaluateRun, data: Path, model: Path, server: Server | None = None) -> dict[str, Any]:
    """The policy at the temperature of ``evaluate.temperatures`` with which it solves most tasks of the split ``tune``.

    Sampling at less than the training's temperature sharpens a policy without any training (ours): what training gains
    beyond it is more than sharpening. Returns ``temperature``, ``tune`` (its success with each temperature, as pairs)
    and ``panels``, the numbers of each split, sampled. The lowest temperature wins a tie.
    """
    policy = Policy.load(model, config.system)
    dataset = open_dataset(config.data, data, config.interface)
    seed, played = config.evaluate.seed, config.evaluate.episodes

    def numbers(tasks: Sequence[Task], temperature: float, episodes: int) -> dict[str, Any]:
        sampling = config.sampling.model_copy(update={"temperature": temperature})
        sampler = make_sampler(policy, sampling, dataset, config.max_steps, server=server)
        rows = [
            episode_rows(sampler.play(panel(tasks, "sampled", seed, episode)), "sampled", episode, ())
            for episode in range(episodes)
        ]
        (modes,) = summarise(pl.concat(rows)).values()
        return {name: modes["sampled"][name] for name in ("n", "success", "success_low", "success_high")}

    every = dataset.tasks("tune")
    tasks = draw_tasks(every, np.ones(len(every)), config.evaluate.tune_tasks, derive_seed(seed, "cool"))
    tried = [(t, float(numbers(tasks, t, 1)["success"])) for t in sorted(config.evaluate.temperatures)]
    best = max(tried, key=itemgetter(1))[0]
    panels = {split: numbers(dataset.tasks(split), best, played) for split in config.evaluate.splits}
    return {"temperature": best, "tune": tried, "panels": panels}


def panel(tasks: Sequence[Task], mode: str, seed: int, episode: int = 0) -> list[Episode]:
    """One play of each task, in the panel's order. Its seed depends on panel, mode, task and play alone."""
    return [
        Episode(
            task,
            group=i,
            trajectory=i,
            seed=derive_seed(
                seed, "evaluate", task.environment, task.split, mode, task.id, *([episode] if episode else [])
            ),
        )
        for i, task in enumerate(tasks)
    ]


def tables(
    trajectories: Sequence[Trajectory], mode: str, episode: int, trained: Container[tuple[str, str]] = ()
) -> Played:
    """The tables of one play of one panel. ``trajectory`` is an episode's place in it.

    ``trained`` holds cluster and goal of each training task.
    """
    where = [pl.lit(mode).alias("mode"), pl.lit(episode, pl.Int32).alias("episode")]
    steps = to_table(trajectories, iteration=0, policy_version=0).select(*where, *STEPS)
    return Played(episode_rows(trajectories, mode, episode, trained), steps)


def episode_rows(
    trajectories: Sequence[Trajectory], mode: str, episode: int, trained: Container[tuple[str, str]]
) -> pl.DataFrame:
    """One row for each trajectory, in :data:`~empg.schema.EPISODES`."""
    rows = []
    for trajectory in trajectories:
        task, steps = trajectory.episode.task, trajectory.steps
        entropies = np.concatenate([step.entropies for step in steps]) if steps else np.empty(0)
        rows.append(
            {
                "split": task.split,
                "mode": mode,
                "task": task.id,
                "episode": episode,
                "task_type": task.type,
                "cluster": task.cluster,
                "trained": _what(task) in trained if any(_what(task)) else None,
                "success": trajectory.reward == 1.0,
                "score": trajectory.score,
                "metrics": [{"name": name, "value": value} for name, value in trajectory.metrics.items()],
                "steps": len(steps),
                "invalid_steps": sum(step.invalid for step in steps),
                "agent_tokens": len(entropies),
                "mean_entropy": float(entropies.mean()) if len(entropies) else None,
                "stop_reason": trajectory.stop_reason,
            }
        )
    return pl.DataFrame(rows, schema=EPISODES)


def _what(task: Task) -> tuple[str, str]:
    return task.cluster, task.goal


def episodes_of(steps: pl.DataFrame) -> pl.DataFrame:
    """The rows of :data:`~empg.schema.EPISODES` that kept steps give, in their order, without what the task or the
    environment adds (``cluster``, ``trained``, ``metrics``).

    Needs the columns :data:`GIVING`. Steps that are not 0, 1, 2, … give no number of ``steps`` (null). An episode
    without a step is missing.
    """
    key = ["split", "mode", "task", "episode"]
    in_order = (pl.col("step") == pl.int_range(pl.len())).all()
    rows = steps.group_by(*key, maintain_order=True).agg(
        pl.col("task_type").first(),
        (pl.col("reward") == 1.0).all().alias("success"),
        pl.col("score").last(),
        pl.when(in_order).then(pl.len()).alias("steps"),
        pl.col("invalid").sum().alias("invalid_steps"),
        pl.col("entropies").list.len().sum().alias("agent_tokens"),
        pl.col("stop_reason").last(),
    )
    nats = steps["entropies"].explode().to_numpy()
    ends = rows["agent_tokens"].cum_sum().to_list()
    means = [float(nats[start:end].mean()) for start, end in pairwise([0, *ends])]
    schema = {name: dtype for name, dtype in EPISODES.items() if name not in ("cluster", "trained", "metrics")}
    return rows.with_columns(pl.Series("mean_entropy", means)).select(*schema).cast(schema)  # type: ignore[arg-type]


def summarise(episodes: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Split → mode → numbers, from the rows of :data:`~empg.schema.EPISODES`; intervals are Wilson's, 95 %.

    ``n`` counts episodes. Episodes of one task depend on each other, so an interval counts tasks.
    """
    panels: dict[str, dict[str, Any]] = {}
    for (split, mode), rows in episodes.group_by("split", "mode", maintain_order=True):
        types = {str(name): _success(part) for (name,), part in sorted(rows.group_by("task_type"), key=lambda x: x[0])}
        stops = rows["stop_reason"].value_counts().sort("stop_reason")
        tokens, steps = int(rows["agent_tokens"].sum()), int(rows["steps"].sum())
        nats = float((rows["mean_entropy"].cast(pl.Float64) * rows["agent_tokens"]).sum())
        panels.setdefault(str(split), {})[str(mode)] = _success(rows) | {
            "score_mean": float(rows["score"].to_numpy().astype(np.float64).mean()),
            "metrics": _metric_means(rows),
            "steps_mean": steps / len(rows),
            "invalid_rate": int(rows["invalid_steps"].sum()) / steps if steps else None,
            "token_entropy_mean": nats / tokens if tokens else None,
            "agent_tokens": tokens,
            "stop_reasons": dict(stops.iter_rows()),
            "types": types,
        }
    return panels


def _metric_means(rows: pl.DataFrame) -> dict[str, float]:
    """The mean of each of the environment's own metrics over the episodes that have it."""
    values = rows.select(pl.col("metrics").explode().struct.unnest()).drop_nulls()
    return dict(values.group_by("name").agg(pl.col("value").mean()).sort("name").iter_rows())


def _success(rows: pl.DataFrame) -> dict[str, Any]:
    from scipy.stats import binomtest  # takes most of a second, and only the end of an evaluation needs it

    successes, tasks = int(rows["success"].sum()), rows["task"].n_unique()
    # Solved tasks, which several plays of each make a fraction: the interval is of the whole numbers around it.
    solved = successes * tasks / len(rows)
    low, high = (binomtest(k, tasks).proportion_ci(method="wilson") for k in (math.floor(solved), math.ceil(solved)))
    interval = {"success_low": float(low.low), "success_high": float(high.high)}
    return {"n": len(rows), "successes": successes, "success": successes / len(rows), **interval}
