"""Trajectories as a table (one row a step, :data:`empg.schema.STEPS`) and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from empg.core.checks import check_step_index
from empg.environments.base import Task
from empg.errors import DataError
from empg.rollouts.episodes import Episode, Step, Trajectory
from empg.schema import OPTIONAL, STEPS


def to_table(trajectories: Sequence[Trajectory], *, iteration: int, policy_version: int) -> pl.DataFrame:
    """The table of trajectories, one row a step, in the order of trajectories and steps.

    It has the column ``sampler_logprobs`` if a step has any.
    """
    rows = [
        (
            iteration,
            t.episode.group,
            t.episode.trajectory,
            number,
            t.episode.task.split,
            t.episode.task.id,
            t.episode.task.type,
            t.episode.seed,
            policy_version,
            step.observation,
            step.text,
            step.action,
            step.invalid,
            step.truncated,
            step.prompt_ids.tolist(),
            step.response_ids.tolist(),
            step.logprobs.tolist(),
            step.entropies.tolist(),
            t.reward,
            t.score,
            str(t.stop_reason),
        )
        for t in trajectories
        for number, step in enumerate(t.steps)
    ]
    table = pl.DataFrame(rows, schema=STEPS, orient="row")
    reported = [step.sampler_logprobs for t in trajectories for step in t.steps]
    if all(logprobs is None for logprobs in reported):
        return table
    name = "sampler_logprobs"
    values = [None if logprobs is None else logprobs.tolist() for logprobs in reported]
    return table.with_columns(pl.Series(name, values, dtype=OPTIONAL[name]))


def from_table(frame: pl.DataFrame, environment: str) -> list[Trajectory]:
    """The trajectories of a table that :func:`to_table` made, in its order.

    Raises :class:`DataError` when a trajectory's steps are not 0, 1, 2, …: a duplicated row would enter EMPG's means.
    """
    if frame.is_empty():
        return []
    number = torch.from_numpy(frame["trajectory"].rank("dense").cast(pl.Int64).to_numpy() - 1)
    try:
        check_step_index(number, torch.from_numpy(frame["step"].cast(pl.Int64).to_numpy().copy()))
    except ValueError as error:
        raise DataError(f"rollouts: {error}") from None
    trajectories: list[Trajectory] = []
    for row in frame.select(*STEPS, *(name for name in OPTIONAL if name in frame.columns)).iter_rows(named=True):
        if row["step"] == 0:
            task = Task(environment, row["split"], row["task"], row["task_type"])
            episode = Episode(task, row["group"], row["trajectory"], row["seed"])
            trajectories.append(Trajectory(episode, [], row["reward"], row["stop_reason"], row["score"]))
        trajectories[-1].steps.append(
            Step(
                observation=row["observation"],
                prompt_ids=np.array(row["prompt_ids"], dtype=np.int32),
                response_ids=np.array(row["response_ids"], dtype=np.int32),
                logprobs=np.array(row["logprobs"], dtype=np.float32),
                entropies=np.array(row["entropies"], dtype=np.float32),
                text=row["text"],
                action=row["action"],
                invalid=row["invalid"],
                truncated=row["truncated"],
                sampler_logprobs=_floats(row.get("sampler_logprobs")),
            )
        )
    return trajectories


def _floats(values: list[float] | None) -> NDArray[np.float32] | None:
    return None if values is None else np.array(values, dtype=np.float32)
