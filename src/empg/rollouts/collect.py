"""The rollout stage: groups sampled from the warm-start policy, and the difficulty table that they give."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from empg.config import RolloutsRun, Sampling
from empg.environments.base import Dataset, Task
from empg.environments.datasets import open_dataset
from empg.policy.policy import Policy
from empg.processes import launch
from empg.processes.job import Job
from empg.provenance import CHECKPOINT, stage
from empg.rollouts.episodes import Episode, Trajectory
from empg.rollouts.sampler import Sampler
from empg.rollouts.table import to_table
from empg.rollouts.vllm_server import Server, serving
from empg.schema import DIFFICULTY, STEPS, write_table
from empg.seeding import derive_seed

PRIOR_ATTEMPTS = 4  # attempts' worth of weight with which a task's success rate is shrunk to its type's


def make_sampler(
    policy: Policy,
    sampling: Sampling,
    dataset: Dataset,
    max_steps: int,
    *,
    greedy: bool = False,
    server: Server | None = None,
) -> Sampler:
    """A sampler of episodes of this data set: of the ``server``, which :func:`serving` gives, or the policy itself."""
    if server is not None:
        from empg.rollouts.vllm import VllmSampler

        return VllmSampler(policy, dataset.arena(max_steps), server, sampling, greedy=greedy)
    return Sampler(
        policy.network,
        policy.chat,
        dataset.arena(max_steps),
        max_response=sampling.max_response,
        max_context=sampling.max_context,
        max_refused=sampling.max_refused,
        rows=sampling.rows,
        temperature=sampling.temperature,
        greedy=greedy,
    )


def group_episodes(tasks: Sequence[Task], group_size: int, first_group: int, *coordinates: int | str) -> list[Episode]:
    """``group_size`` episodes of each task. Seeds derive from the coordinates, the group and the place in the group."""
    return [
        Episode(task, group, group * group_size + i, derive_seed(*coordinates, group, i))
        for group, task in enumerate(tasks, first_group)
        for i in range(group_size)
    ]


def run(config: RolloutsRun, data: Path, model: Path, out: Path, *, progress: Callable[[int, int], None]) -> None:
    """Write ``out/rollouts.parquet`` and ``out/difficulty.parquet``; ``progress`` gets (episodes done, in all)."""
    if by_trl := config.engine == "trl":
        launch.check(config)
    inputs = {"data": data, "model": model, **launch.inputs(config)}
    with stage("rollouts", config, out, inputs=inputs, libraries=launch.libraries(config)) as record:
        dataset = open_dataset(config.data, data, config.interface)
        episodes = collection(config, dataset)
        done = 0

        def on_ended(count: int) -> None:
            nonlocal done
            done += count
            progress(done, len(episodes))

        if by_trl:
            job = Job.prepare(config, record.digest, os.getpid(), data=data, model=model, out=out)
            parts = launch.follow(job, "empg.rollouts.collect", "part", lambda _, part: on_ended(part["episodes"]))
            record.summary = parts[-1]["metrics"]["summary"]
        else:
            with serving(config.sampling, model, out) as server:
                policy = Policy.load(model, config.system)
                sampler = make_sampler(policy, config.sampling, dataset, config.max_steps, server=server)
                record.summary = write(sampler.play(episodes, on_ended), out)
    shutil.rmtree(out / CHECKPOINT, ignore_errors=True)


def play_share(job: Job) -> None:
    """The work of one of several processes: its share of the episodes, with the seeds that they have in one process.

    The first process writes the tables.
    """
    from accelerate import PartialState

    from empg.processes.rank import check_count, joined, share

    config = job.config
    assert isinstance(config, RolloutsRun)
    state = PartialState(cpu=not torch.cuda.is_available())  # also chooses the process's GPU
    check_count(config, state.num_processes)
    dataset = open_dataset(config.data, Path(job.data), config.interface)
    policy = Policy.load(Path(job.model), config.system)
    sampler = make_sampler(policy, config.sampling, dataset, config.max_steps)
    own = share(collection(config, dataset), state.process_index, state.num_processes)
    played = joined(sampler.play(own, lambda count: job.ended({"episodes": count})))
    if state.is_main_process:
        job.ended({"episodes": 0, "summary": write(played, Path(job.out))})
    state.wait_for_everyone()
    state.destroy_process_group()


def collection(config: RolloutsRun, dataset: Dataset) -> list[Episode]:
    """The episodes of the stage: a group of each of some tasks, drawn uniformly."""
    tasks, seed = dataset.tasks("train"), config.rollouts.seed
    chosen = draw_tasks(tasks, np.ones(len(tasks)), config.rollouts.tasks, derive_seed(seed, "tasks"))
    return group_episodes(chosen, config.group_size, 0, seed, "rollouts")


def write(trajectories: Sequence[Trajectory], out: Path) -> dict[str, float]:
    """Write the tables of the stage; returns the summary of its manifest."""
    write_table(to_table(trajectories, iteration=0, policy_version=0), STEPS, out / "rollouts.parquet")
    write_table(difficulty_table(trajectories), DIFFICULTY, out / "difficulty.parquet")
    return {"episodes": len(trajectories), "success": float(np.mean([t.reward for t in trajectories]))}


def difficulty_table(trajectories: Sequence[Trajectory]) -> pl.DataFrame:
    """Attempts and successes of each task, in :data:`~empg.schema.DIFFICULTY`."""
    rows = [(*_key(t.episode.task), t.episode.task.type, t.reward == 1.0) for t in trajectories]
    frame = pl.DataFrame(rows, schema=["split", "task", "task_type", "success"], orient="row")
    table = frame.group_by("split", "task", "task_type", maintain_order=True).agg(
        attempts=pl.len(), successes=pl.col("success").sum()
    )
    return table.cast(DIFFICULTY)  # type: ignore[arg-type]


def _key(task: Task) -> tuple[str, int]:
    return task.split, task.id


def draw_weights(tasks: Sequence[Task], difficulty: pl.DataFrame, floor: float) -> NDArray[np.float64]:
    """How often to draw each task, ``[tasks]``: floor + (1 − floor)·4p(1 − p), with p the task's success rate.

    Tasks that are always or never solved are drawn less. p is shrunk to the rate of the task's type, which a task
    without attempts has. ``difficulty`` is of the schema :data:`~empg.schema.DIFFICULTY`.
    """
    by_type = difficulty.group_by("task_type").agg(pl.col("attempts").sum(), pl.col("successes").sum())
    rate = {name: successes / attempts for name, attempts, successes in by_type.iter_rows()}
    overall = float(difficulty["successes"].sum()) / float(difficulty["attempts"].sum())
    counts = {
        (row["split"], row["task"]): (row["attempts"], row["successes"]) for row in difficulty.iter_rows(named=True)
    }
    attempts, successes = np.array([counts.get(_key(task), (0, 0)) for task in tasks], dtype=np.float64).T
    prior = np.array([rate.get(task.type, overall) for task in tasks])
    p: NDArray[np.float64] = (successes + PRIOR_ATTEMPTS * prior) / (attempts + PRIOR_ATTEMPTS)
    weights: NDArray[np.float64] = floor + (1 - floor) * 4 * p * (1 - p)
    return weights


def draw_tasks(tasks: Sequence[Task], weights: NDArray[np.float64], count: int, seed: int) -> list[Task]:
    """``count`` different tasks (all if there are fewer), drawn in proportion to the weights ``[tasks]``."""
    random = np.random.Generator(np.random.Philox(key=seed))
    chosen = random.choice(len(tasks), size=min(count, len(tasks)), replace=False, p=weights / weights.sum())
    return [tasks[i] for i in chosen]


if __name__ == "__main__":
    from empg.processes.rank import main

    sys.exit(main(play_share))
