"""Training by TRL on any number of processes: starts them, follows what they write, and says what went wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from empg.config import TrainRun, read_yaml
from empg.errors import ConfigError, DivergenceError, EmpgError
from empg.provenance import Record
from empg.training.metrics import Metrics
from empg.training.trl_job import JOB, Job

if TYPE_CHECKING:
    from empg.training import trl_rank  # noqa: F401 - what the processes run is a source of the stage

LIBRARIES = ("trl", "accelerate", "peft")  # beside the usual ones, these can change a number
LOOK = 0.2  # seconds between two looks at what the processes have written
PATIENCE = 10.0  # seconds in which processes that are told to end may do so


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
    seen = 0

    def follow() -> None:
        nonlocal seen
        for line in job.iterations()[seen:]:
            on_metrics(seen, line["metrics"])
            seen += 1
            progress(seen, config.train.iterations)

    progress(0, config.train.iterations)
    with _started(command(config, job)) as process:
        while process.poll() is None:
            follow()
            time.sleep(LOOK)
        follow()
    if process.returncode:
        error = job.error()
        if isinstance(error, DivergenceError):
            raise DivergenceError(f"{record.out}: iteration {seen}: {error}; the last checkpoint is kept")
        raise error or EmpgError(
            f"{record.out}: expected {config.processes} processes of trl to end well, found exit code "
            f"{process.returncode} in iteration {seen}; what they printed is above, and the last checkpoint is kept"
        )
    lines = job.iterations()
    return [line["metrics"] for line in lines], [line["seconds"] for line in lines]


def check(config: TrainRun) -> None:
    """Raises :class:`ConfigError` for what can be seen before any process starts."""
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"engine: expected {', '.join(missing)} for trl, found none; pip install 'empg[trl]'")
    if config.accelerate is not None:
        _check_file(Path(config.accelerate), config.processes)
    elif torch.cuda.is_available() and torch.cuda.device_count() < config.processes:
        raise ConfigError(f"processes: expected at most {torch.cuda.device_count()} GPUs, found {config.processes}")


def _check_file(path: Path, processes: int) -> None:
    """Compare a config file of `accelerate` with the study's settings."""
    settings: Any = read_yaml(path)
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected the settings of `accelerate config`, found {settings!r}")
    for key, expected in (("num_processes", processes), ("num_machines", 1)):
        if (found := settings.get(key, expected)) != expected:
            raise ConfigError(f"{path}: {key}: expected {expected}, found {found!r}")
    kind = str(settings.get("distributed_type", "NO"))
    if kind in ("NO", "MULTI_CPU") and processes > 1:
        raise ConfigError(
            f"{path}: distributed_type: expected one that starts {processes} processes, found {kind}; "
            "on CPUs leave `accelerate` out"
        )


def command(config: TrainRun, job: Job) -> list[str]:
    """What starts the processes: `torchrun`, or `accelerate` where a file says how."""
    module = ["-m", "empg.training.trl_rank", str(job.folder / JOB)]
    if config.accelerate is not None:
        launcher = ["accelerate.commands.launch", "--config_file", config.accelerate]
    elif config.processes > 1:
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(config.processes)]
    else:
        return [sys.executable, *module]
    return [sys.executable, "-m", *launcher, *module]


@contextmanager
def _started(arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher and its processes, which end with this block."""
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen(arguments, env=os.environ | quiet | {"OMP_NUM_THREADS": "1"}, stdout=sys.stderr)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()  # its processes end when this one does
                process.wait()
