"""Evaluation on fixed panels: every task of each split, greedy once and sampled once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from empg.config import ENVIRONMENTS, EvaluateRun
from empg.environments.base import Task
from empg.environments.datasets import open_dataset
from empg.files import write_json
from empg.policy.policy import Policy
from empg.provenance import stage
from empg.rollouts.collect import make_sampler
from empg.rollouts.episodes import Episode, Trajectory
from empg.schema import EPISODES
from empg.seeding import derive_seed

MODES = ("greedy", "sampled")


def run(config: EvaluateRun, data: Path, model: Path, out: Path, *, progress: Callable[[int, int], None]) -> None:
    """Play the panels and write ``out/episodes.parquet`` and ``out/summary.json``.

    ``progress`` gets (episodes played, episodes in all). The sampled mode's random numbers derive from the panel's
    coordinates and not from the run, so all policies of a study draw the same numbers and their differences are paired.
    """
    with stage("evaluate", config, out, inputs={"data": data, "model": model}) as record:
        episodes = play(config, data, model, progress)
        panels = summarise(episodes)
        record.write_table(episodes, EPISODES, "episodes.parquet")
        key = {"environment": config.environment, "method": config.method_name, "seed": config.seed}
        kind = ENVIRONMENTS[config.data.type]
        about = {"metrics": dict(kind.metrics), "stop_reasons": dict(kind.stop_reasons)}
        write_json(out / "summary.json", {**key, "about": about, "panels": panels})
        record.summary = {
            f"{split}_{mode}_success": panels[split][mode]["success"] for split in panels for mode in MODES
        }


def play(config: EvaluateRun, data: Path, model: Path, progress: Callable[[int, int], None]) -> pl.DataFrame:
    """Every episode of every panel, in :data:`~empg.schema.EPISODES`."""
    policy = Policy.load(model, config.system)
    dataset = open_dataset(config.data, data, config.interface)
    panels = {split: dataset.tasks(split) for split in config.evaluate.splits}
    total = len(MODES) * sum(map(len, panels.values()))
    played = 0

    def advance(count: int) -> None:
        nonlocal played
        played += count
        progress(played, total)

    frames = []
    for mode in MODES:
        greedy = mode == "greedy"
        sampler = make_sampler(policy, config.sampling, dataset, config.max_steps, greedy=greedy)
        for tasks in panels.values():
            frames.append(episode_rows(sampler.play(panel(tasks, mode, config.evaluate.seed), advance), mode))
    return pl.concat(frames)


def panel(tasks: Sequence[Task], mode: str, seed: int) -> list[Episode]:
    """One episode for each task, in the panel's order. Its seed depends on panel, mode and task alone."""
    return [
        Episode(
            task, group=0, trajectory=i, seed=derive_seed(seed, "evaluate", task.environment, task.split, mode, task.id)
        )
        for i, task in enumerate(tasks)
    ]


def episode_rows(trajectories: Sequence[Trajectory], mode: str) -> pl.DataFrame:
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
                "task_type": task.type,
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


def summarise(episodes: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Split → mode → numbers, from the rows of :data:`~empg.schema.EPISODES`; intervals are Wilson's, 95 %."""
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

    successes = int(rows["success"].sum())
    low, high = binomtest(successes, len(rows)).proportion_ci(method="wilson")
    interval = {"success_low": float(low), "success_high": float(high)}
    return {"n": len(rows), "successes": successes, "success": successes / len(rows), **interval}
