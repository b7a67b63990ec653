"""The reinforcement learning loop: collect → credit → update, on-policy, from the warm start.

:class:`Loop` is the algorithm, :func:`build` makes one from configuration and files, and :func:`run` is the stage.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from empg.config import PretrainedPolicy, TinyPolicy, TrainRun
from empg.environments.datasets import open_dataset
from empg.environments.prompts import turns_apart
from empg.errors import DivergenceError
from empg.files import atomic_directory
from empg.policy import memory
from empg.policy.network import Network
from empg.policy.policy import Policy
from empg.processes import launch
from empg.provenance import Record, stage
from empg.rollouts.collect import make_sampler
from empg.rollouts.episodes import Trajectory
from empg.rollouts.vllm_server import Server, serving
from empg.training import trl_launch
from empg.training.batches import Batches, Collected
from empg.training.checkpoint import Progress
from empg.training.credit import Credit
from empg.training.importance import truncated_weights
from empg.training.metrics import Metrics, batch_metrics
from empg.training.optimiser import Optimiser, learning_rate_factor
from empg.training.update import credit_of, minibatches, token_batch, update
from empg.training.writer import Writer

UPDATE_REMEDY = "lower train.micro_batch_tokens or sampling.max_context, or use lora"
SAMPLING_REMEDY = "lower sampling.rows or sampling.max_context"


@dataclass(slots=True)
class Loop:
    """A run: its parts and how far it is.

    ``reference`` is the warm start's network, None without a KL penalty; ``server`` samples, unless it is None.
    """

    config: TrainRun
    policy: Policy
    reference: Network | None
    optimiser: Optimiser
    batches: Batches
    writer: Writer
    progress: Progress
    server: Server | None = None

    def iterate(self) -> Metrics:
        """One iteration: collect a batch, credit its steps, update the policy, write. Returns the metrics."""
        iteration, version, clock = self.progress.iteration, self.progress.updates, [time.process_time()]
        collected = self.collect(iteration)
        clock.append(time.process_time())
        credited = self.credit(collected.kept)
        updates = self.update(iteration, collected.kept, credited)
        clock.append(time.process_time())
        self.writer.rollouts(iteration, version, collected, credited)
        metrics = batch_metrics(*collected, credited) | updates
        self._advance(metrics, clock)
        return metrics

    def collect(self, iteration: int) -> Collected:
        """Groups of trajectories, sampled with the current policy."""
        return self.batches.collect(iteration)

    def credit(self, trajectories: list[Trajectory]) -> Credit:
        """The advantage of every step, over the whole batch."""
        return credit_of(self.config, self.policy.network, trajectories)

    def update(self, iteration: int, trajectories: list[Trajectory], credited: Credit) -> Metrics:
        """One optimiser step on each minibatch; the means of the metrics. The learning rate falls at the end."""
        train, method, network = self.config.train, self.config.method, self.policy.network
        factor = learning_rate_factor(iteration / train.iterations, warmup=0.0, decay=train.decay)
        apart = turns_apart(self.config.interface)
        parts = []
        weighted = credited.token_advantage * truncated_weights(trajectories, self.config.sampling.max_ratio)
        for part, advantage in minibatches(trajectories, weighted, train.updates):
            batch = token_batch(part, advantage, method.aggregation, network.device, apart=apart)
            parts.append(
                update(
                    network,
                    self.reference,
                    self.optimiser,
                    batch,
                    method,
                    temperature=self.config.sampling.temperature,
                    micro_batch_tokens=train.micro_batch_tokens,
                    lr_factor=factor,
                )
            )
        self.progress.updates += len(parts)
        if self.server is not None:
            self.server.stale = True
        means: Metrics = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
        return means if self.reference is not None else means | {"kl": None}

    def _advance(self, metrics: Metrics, clock: list[float]) -> None:
        """Count the iteration, and save the policy of half-way and a checkpoint where they are due.

        The last iteration needs no checkpoint.
        """
        train, progress = self.config.train, self.progress
        progress.history.append({"iteration": progress.iteration, **metrics})
        seconds = np.diff([*clock, time.process_time()]).tolist()
        progress.seconds.append(dict(zip(("collect", "update", "write"), seconds, strict=True)))
        progress.iteration += 1
        if isinstance(self.config.policy, TinyPolicy) and progress.iteration == (train.iterations + 1) // 2:
            self.writer.halfway(self.policy)
        if progress.iteration % train.checkpoint_every == 0 and progress.iteration < train.iterations:
            self.writer.checkpoint(self.policy, self.optimiser, progress)
        progress.seconds[-1]["write"] = time.process_time() - clock[-1]  # with what the checkpoint took


def check_memory(config: TrainRun, policy: PretrainedPolicy, model: Path) -> None:
    """Raises :class:`ConfigError` with the numbers where an update or the episodes in play do not fit into memory."""
    sizes, context = memory.Sizes.of(model), config.sampling.max_context
    copies = 2 if config.method.kl_coef > 0 else 1
    tokens = max(config.train.micro_batch_tokens, context)
    parts = memory.update_bytes(sizes, policy, tokens, context, copies)
    memory.require("train", parts, UPDATE_REMEDY)
    rows = min(config.sampling.rows, config.train.groups * config.train.group_size)
    parts = memory.sampling_bytes(sizes, policy, rows, context)
    memory.require("train", parts, SAMPLING_REMEDY)


def check_processes(config: TrainRun, model: Path) -> None:
    """:func:`check_memory` for the processes of ``engine: trl``, each of which plays and trains its share."""
    assert isinstance(config.policy, PretrainedPolicy)
    sizes, context, processes = memory.Sizes.of(model), config.sampling.max_context, config.processes
    parts = memory.trl_update_bytes(
        sizes,
        config.policy,
        max(config.train.micro_batch_tokens, context),
        context,
        reference=config.method.kl_coef > 0,
        shards=launch.shards(config),
    )
    memory.require("train", parts, UPDATE_REMEDY, processes)
    episodes = math.ceil(config.train.groups * config.train.group_size / processes)
    parts = memory.sampling_bytes(sizes, config.policy, min(config.sampling.rows, episodes), context)
    memory.require("train", parts, SAMPLING_REMEDY, processes)


def build(
    config: TrainRun, data: Path, model: Path, rollouts: Path, record: Record, *, server: Server | None = None
) -> Loop:
    """The loop of a run, from the warm-start model and the collection, or from its last checkpoint."""
    if isinstance(config.policy, PretrainedPolicy):
        check_memory(config, config.policy, model)
        policy = Policy.load_pretrained(config.policy, model, config.system)
    else:
        policy = Policy.load(model, config.system)
    reference = Policy.load(model, config.system).network if config.method.kl_coef > 0 else None
    optimiser = Optimiser(policy.network, config.train.optimiser)
    dataset = open_dataset(config.data, data, config.interface)
    sampler = make_sampler(policy, config.sampling, dataset, config.max_steps, server=server)
    batches = Batches.open(config, sampler, dataset.tasks("train"), rollouts)
    writer = Writer(record)
    return Loop(config, policy, reference, optimiser, batches, writer, writer.resume(policy, optimiser), server)


def run(
    config: TrainRun,
    data: Path,
    model: Path,
    rollouts: Path,
    out: Path,
    *,
    on_metrics: Callable[[int, Metrics], None],
    progress: Callable[[int, int], None],
) -> None:
    """Train from ``model`` to ``out/model``; write ``out/metrics.parquet`` and the credited rollouts of each iteration.

    ``out/halfway`` is a tiny policy after half of the iterations, rounded up.

    An interrupted run continues from its last checkpoint and ends with the same bits; ``on_metrics`` gets the earlier
    iterations again. Raises :class:`DivergenceError` for a loss that is not finite and keeps the last checkpoint.
    """
    inputs = {"data": data, "model": model, "rollouts": rollouts}
    by_trl = config.engine == "trl"
    if by_trl:
        launch.check(config)
        check_processes(config, model)
    inputs |= launch.inputs(config)
    with stage("train", config, out, inputs=inputs, libraries=launch.libraries(config)) as record:
        engine = trl_launch.train if by_trl else train
        history, seconds = engine(config, data, model, rollouts, record, on_metrics=on_metrics, progress=progress)
        record.write_frame(pl.DataFrame(history, infer_schema_length=None), "metrics.parquet")
        last = float(np.mean([metrics["success"] for metrics in history[-10:]]))
        record.summary = {"iterations": config.train.iterations, "last_success": last}
        record.iteration_seconds = seconds
    shutil.rmtree(out / "checkpoint", ignore_errors=True)


def train(
    config: TrainRun,
    data: Path,
    model: Path,
    rollouts: Path,
    record: Record,
    *,
    on_metrics: Callable[[int, Metrics], None],
    progress: Callable[[int, int], None],
) -> tuple[list[Metrics], list[dict[str, float]]]:
    """Train in this process; the metrics of each iteration, and its CPU seconds."""
    with serving(config.sampling, model, record.out) as server:
        loop = build(config, data, model, rollouts, record, server=server)
        for iteration, metrics in enumerate(loop.progress.history):
            on_metrics(iteration, metrics)
        progress(loop.progress.iteration, config.train.iterations)
        while loop.progress.iteration < config.train.iterations:
            iteration = loop.progress.iteration
            try:
                on_metrics(iteration, loop.iterate())
            except DivergenceError as error:
                raise DivergenceError(
                    f"{record.out}: iteration {iteration}: {error}; the last checkpoint is kept"
                ) from None
            progress(iteration + 1, config.train.iterations)
        with atomic_directory(record.out / "model") as folder:
            loop.policy.save(folder)
    return loop.progress.history, loop.progress.seconds
