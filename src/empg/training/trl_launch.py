"""Training by TRL on any number of processes, as the native engine's :func:`empg.training.rl.train`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empg.config import TrainRun
from empg.processes.job import Job
from empg.processes.launch import follow
from empg.provenance import Record
from empg.training.metrics import Metrics

if TYPE_CHECKING:
    from empg.training import trl_rank  # noqa: F401 - what the processes run is a source of the stage


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
    """Train from ``model`` to the model of the record's folder; the metrics of each iteration, and its CPU seconds.

    An interrupted run continues from its last checkpoint, and ``on_metrics`` gets the earlier iterations again. Raises
    the error of the process that failed; the last checkpoint is kept.
    """
    job = Job.prepare(config, record.digest, os.getpid(), data=data, model=model, rollouts=rollouts, out=record.out)

    def ended(iteration: int, metrics: dict[str, Any]) -> None:
        on_metrics(iteration, metrics)
        progress(iteration + 1, config.train.iterations)

    progress(0, config.train.iterations)
    lines = follow(job, "empg.training.trl_rank", "iteration", ended)
    return [line["metrics"] for line in lines], [line["seconds"] for line in lines]
