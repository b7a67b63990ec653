"""The reinforcement learning loop of one run: collect → credit → update, on-policy, from the warm start.

One iteration samples ``group_size`` episodes of each of ``groups`` tasks with the current policy (the rollout stage's
collection serves as the first batch: it is exactly on-policy), gives every step its advantage over the whole batch
(:mod:`empg.training.credit`), and makes one or more optimiser steps (:mod:`empg.training.update`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from torch import Tensor

from empg.config import PretrainedPolicy, TrainRun
from empg.core.advantages import informative_groups
from empg.environments.registry import open_dataset
from empg.errors import ConfigError, DataError, DivergenceError
from empg.files import atomic_directory
from empg.policy.policy import Policy
from empg.provenance import Record, stage
from empg.rollouts.collect import draw_tasks, draw_weights, group_episodes, make_sampler
from empg.rollouts.episodes import Trajectory
from empg.rollouts.table import from_table, to_table
from empg.schema import CREDIT, CREDITED_STEPS, DIFFICULTY, STEPS, read_table
from empg.seeding import derive_seed
from empg.training import checkpoint
from empg.training.credit import Credit, credit_batch, groups_of
from empg.training.optimiser import Optimiser, learning_rate_factor
from empg.training.update import renyi2_entropies, token_batch, update

Metrics = dict[str, float | None]


def run(config: TrainRun, data: Path, model: Path, rollouts: Path, out: Path, *,
        on_metrics: Callable[[int, Metrics], None], progress: Callable[[int, int], None]) -> None:  # fmt: skip
    """Train from ``model`` to ``out/model``, with ``out/metrics.parquet`` and every iteration's credited rollouts.

    A run that was cut off goes on from its last checkpoint and ends as if it had not been; ``on_metrics`` is told of
    the earlier iterations again. Raises :class:`DivergenceError` when a loss is not finite: the last checkpoint stays.
    """
    with stage("train", config, out, inputs={"data": data, "model": model, "rollouts": rollouts}) as record:
        loop = Loop(config, data, model, rollouts, record)
        loop.resume(on_metrics)
        progress(loop.progress.iteration, config.train.iterations)
        while loop.progress.iteration < config.train.iterations:
            iteration = loop.progress.iteration
            try:
                on_metrics(iteration, loop.iterate())
            except DivergenceError as error:
                raise DivergenceError(f"{out}: iteration {iteration}: {error}; the last checkpoint is kept") from None
            progress(iteration + 1, config.train.iterations)
        with atomic_directory(out / "model") as folder:
            loop.policy.save(folder)
        record.write_frame(pl.DataFrame(loop.progress.history, infer_schema_length=None), "metrics.parquet")
        last = loop.progress.history[-10:]
        record.summary = {"iterations": config.train.iterations,
                          "last_success": float(np.mean([m["success"] for m in last]))}  # fmt: skip
    shutil.rmtree(out / "checkpoint", ignore_errors=True)


class Loop:
    """The state of one run."""

    def __init__(self, config: TrainRun, data: Path, model: Path, rollouts: Path, record: Record) -> None:
        self.config, self.record = config, record
        self.policy = Policy.load(model, config.system)
        if isinstance(config.policy, PretrainedPolicy):
            self.policy.network.gradient_checkpointing = config.policy.gradient_checkpointing
        self.reference = Policy.load(model, config.system).network if config.method.kl_coef > 0 else None
        self.optimiser = Optimiser(self.policy.network, config.train.optimiser)
        dataset = open_dataset(config.data, data, config.interface)
        self.sampler = make_sampler(self.policy, config.sampling, dataset, config.max_steps)
        self.collection = rollouts / "rollouts.parquet"
        self.difficulty = read_table(rollouts / "difficulty.parquet", DIFFICULTY)
        self.tasks = dataset.tasks("train")
        self.weights = draw_weights(self.tasks, self.difficulty, config.train.difficulty_floor)
        self.checkpoints = record.out / "checkpoint"
        self.progress = checkpoint.Progress(record.digest, 0, 0, [])

    def resume(self, on_metrics: Callable[[int, Metrics], None]) -> None:
        """Go back to the last checkpoint, if there is one of the same configuration and inputs."""
        found = checkpoint.load_latest(self.checkpoints, self.policy.network, self.optimiser, self.record.digest)
        if found is None:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            shutil.rmtree(self.record.out / "rollouts", ignore_errors=True)
            return
        self.progress = found
        for iteration, metrics in enumerate(found.history):
            on_metrics(iteration, metrics)

    def iterate(self) -> Metrics:
        """One iteration; its metrics."""
        iteration, train = self.progress.iteration, self.config.train
        clock = [time.process_time()]
        version = self.progress.updates
        kept, dropped = self.collect(iteration)
        clock.append(time.process_time())
        credited = self._credit(kept)
        parts = [self._update(*part) for part in _minibatches(kept, credited, train.updates)]
        clock.append(time.process_time())
        self._write_rollouts(iteration, version, kept, dropped, credited)
        metrics = batch_metrics(kept, dropped, credited)
        metrics |= {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
        if self.reference is None:
            metrics["kl"] = None
        self.progress.updates += len(parts)
        self.progress.iteration += 1
        self.progress.history.append({"iteration": iteration, **metrics})
        if self.progress.iteration % train.checkpoint_every == 0 and self.progress.iteration < train.iterations:
            checkpoint.save(self.checkpoints, self.policy.network, self.optimiser, self.progress)
        clock.append(time.process_time())
        self.record.iteration_seconds.append(
            dict(zip(("collect", "update", "write"), np.diff(clock).tolist(), strict=True))
        )
        return metrics

    def _credit(self, trajectories: list[Trajectory]) -> Credit:
        config, entropies = self.config, None
        if config.method.entropy == "renyi2":
            entropies = renyi2_entropies(self.policy.network, trajectories, temperature=config.sampling.temperature,
                                         micro_batch_tokens=config.train.micro_batch_tokens)  # fmt: skip
        return credit_batch(trajectories, config.method, config.sampling.max_response, config.train.reward, entropies)

    def collect(self, iteration: int) -> tuple[list[Trajectory], list[Trajectory]]:
        """The iteration's trajectories: those to train on, and those that dynamic sampling dropped."""
        train, method = self.config.train, self.config.method
        kept: list[Trajectory] = []
        dropped: list[Trajectory] = []
        for attempt in range(1 + method.dynamic_sampling):
            missing = train.groups - len(kept) // train.group_size
            if missing == 0:
                break
            batch = self._collect_groups(iteration, attempt, missing)
            if not method.dynamic_sampling:
                return batch, []
            informative = informative_groups(*groups_of(batch, train.reward)).tolist()
            kept += [t for t, good in zip(batch, informative, strict=True) if good]
            dropped += [t for t, good in zip(batch, informative, strict=True) if not good]
        if not kept:  # nothing to learn from: train on the last groups rather than on none
            return dropped[-train.group_size :], dropped[: -train.group_size]
        return kept, dropped

    def _collect_groups(self, iteration: int, attempt: int, groups: int) -> list[Trajectory]:
        seed, size = self.config.seed, self.config.train.group_size
        first = attempt * self.config.train.groups
        draw = derive_seed(seed, "tasks", iteration, attempt)
        if iteration == 0 and attempt == 0:
            return self._first_batch(draw, groups)
        tasks = draw_tasks(self.tasks, self.weights, groups, draw)
        played = self.sampler.play(group_episodes(tasks, size, first, seed, "train", iteration, attempt))
        batch = [t for t in played if t.steps]  # an opening may be too long for the context: nothing to learn from
        if not batch:
            raise ConfigError(
                f"sampling.max_context: expected room for an opening and {self.config.sampling.max_response} tokens, "
                f"found {self.config.sampling.max_context} tokens, which hold none of {groups} tasks' openings"
            )
        return batch

    def _first_batch(self, draw: int, groups: int) -> list[Trajectory]:
        """Groups from the rollout stage's collection, drawn like any other iteration's tasks."""
        trajectories = from_table(read_table(self.collection, STEPS), self.config.environment)
        tasks = list(dict.fromkeys(t.episode.task for t in trajectories))
        if len(tasks) < groups:
            raise DataError(
                f"{self.collection}: expected at least {groups} tasks for the first batch, found {len(tasks)}"
            )
        chosen = draw_tasks(
            tasks, draw_weights(tasks, self.difficulty, self.config.train.difficulty_floor), groups, draw
        )
        group = {task: number for number, task in enumerate(task for task in tasks if task in chosen)}
        batch = [t for t in trajectories if t.episode.task in group]
        for number, t in enumerate(batch):
            t.episode = replace(t.episode, group=group[t.episode.task], trajectory=number)
        return batch

    def _update(self, trajectories: list[Trajectory], advantage: Tensor) -> dict[str, float]:
        network = self.policy.network
        method, sampling = self.config.method, self.config.sampling
        batch = token_batch(trajectories, advantage, method.aggregation, network.embedding.device)
        train, iteration = self.config.train, self.progress.iteration
        factor = learning_rate_factor(iteration / train.iterations, warmup=0.0, decay=train.decay)
        return update(network, self.reference, self.optimiser, batch, method, temperature=sampling.temperature,
                      micro_batch_tokens=train.micro_batch_tokens, lr_factor=factor)  # fmt: skip

    def _write_rollouts(self, iteration: int, version: int, kept: list[Trajectory], dropped: list[Trajectory],
                        credited: Credit) -> None:  # fmt: skip
        table = to_table(kept, iteration=iteration, policy_version=version)
        table = table.hstack(credited.columns())
        if dropped:
            rest = to_table(dropped, iteration=iteration, policy_version=version)
            nothing = pl.DataFrame({name: pl.Series([None] * len(rest), dtype=t) for name, t in CREDIT.items()})
            table = table.vstack(rest.hstack(nothing.with_columns(trained=pl.lit(False))))
        self.record.write_table(table, CREDITED_STEPS, f"rollouts/iteration_{iteration:04d}.parquet")


def _minibatches(trajectories: list[Trajectory], credited: Credit,
                 count: int) -> Iterator[tuple[list[Trajectory], Tensor]]:  # fmt: skip
    """The batch's trajectories and their tokens' advantages, in ``count`` parts of whole trajectories."""
    tokens = np.cumsum([0] + [sum(len(step.response_ids) for step in t.steps) for t in trajectories])
    advantage = credited.token_advantage
    bounds = np.linspace(0, len(trajectories), count + 1).astype(int)
    for start, end in pairwise(bounds):
        if end > start:
            yield trajectories[start:end], advantage[tokens[start] : tokens[end]]


def batch_metrics(kept: list[Trajectory], dropped: list[Trajectory], credited: Credit) -> Metrics:
    """What an iteration's batch looked like; ``success`` is over everything that was sampled."""
    everything = kept + dropped
    steps = [step for t in everything for step in t.steps]
    m, entropy = credited.modulation, credited.step_entropy
    return {
        "success": float(np.mean([t.reward for t in everything])),
        "reward_mean": float(credited.reward.mean()),
        "score_mean": float(np.mean([t.score for t in everything])),
        "invalid_rate": float(np.mean([step.invalid for step in steps])),
        "steps_mean": len(steps) / len(everything),
        "agent_tokens": float(sum(len(step.response_ids) for step in steps)),
        "context_tokens": float(sum(t.tokens for t in everything)),
        "entropy_mean": float(np.mean(np.concatenate([step.entropies for step in steps]))),
        "step_entropy_min": float(entropy.min()),
        "step_entropy_mean": float(entropy.mean()),
        "step_entropy_max": float(entropy.max()),
        "gradient_scale_min": float(m.gradient_scale.min()),
        "gradient_scale_max": float(m.gradient_scale.max()),
        "clarity_bonus_mean": float(m.clarity_bonus.mean()),
        "advantage_abs_mean": float(m.advantage.abs().mean()),
        "equal_reward_groups": credited.equal_reward_groups,
        "equal_reward_mass": credited.equal_reward_mass,
        "groups_dropped": len({t.episode.group for t in dropped}),
    }
