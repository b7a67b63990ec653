"""Starts the processes of a stage of ``engine: trl``, follows what they write, and says what went wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from empg.config import read_yaml
from empg.errors import ConfigError, DivergenceError, EmpgError
from empg.processes.job import JOB, Job, Run

LIBRARIES = ("trl", "accelerate", "peft")  # beside the usual ones, these can change a number
LOOK = 0.2  # seconds between two looks at what the processes have written
PATIENCE = 10.0  # seconds in which processes that are told to end may do so


def follow(job: Job, module: str, part: str, on_part: Callable[[int, dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Start a job's processes, each ``python -m module JOB``, and wait until they have ended.

    ``on_part`` gets the number of each part that has ended, those before the checkpoint too, and its metrics; ``part``
    is what messages call it. Returns the lines of all parts. Raises the error of the process that failed.
    """
    seen = 0

    def look() -> None:
        nonlocal seen
        for line in job.parts()[seen:]:
            on_part(seen, line["metrics"])
            seen += 1

    config = job.config
    with _started(command(config, job, module)) as process:
        while process.poll() is None:
            look()
            time.sleep(LOOK)
        look()
    if process.returncode:
        error = job.error()
        kept = "; the last checkpoint is kept" if job.stage == "train" else ""
        if isinstance(error, DivergenceError):
            raise DivergenceError(f"{job.out}: {part} {seen}: {error}{kept}")
        raise error or EmpgError(
            f"{job.out}: expected {config.processes} processes of trl to end well, found exit code "
            f"{process.returncode} in {part} {seen}; what they printed is above{kept.replace(';', ', and')}"
        )
    return job.parts()


def check(config: Run) -> None:
    """Raises :class:`ConfigError` for what can be seen before any process starts."""
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"engine: expected {', '.join(missing)} for trl, found none; pip install 'empg[trl]'")
    if config.accelerate is not None:
        _check_file(Path(config.accelerate), config.processes)
    elif torch.cuda.is_available() and torch.cuda.device_count() < config.processes:
        raise ConfigError(f"processes: expected at most {torch.cuda.device_count()} GPUs, found {config.processes}")


def libraries(config: Run) -> tuple[str, ...]:
    """What can change a number of this stage beside the libraries of every stage."""
    return LIBRARIES if config.engine == "trl" else ()


def inputs(config: Run) -> dict[str, Path]:
    """The stage's input files beside its data: the config file of `accelerate`."""
    return {} if config.accelerate is None else {"accelerate": Path(config.accelerate)}


def _check_file(path: Path, processes: int) -> None:
    """Compare a config file of `accelerate` with the study's settings."""
    settings = _read(path)
    for key, expected in (("num_processes", processes), ("num_machines", 1)):
        if (found := settings.get(key, expected)) != expected:
            raise ConfigError(f"{path}: {key}: expected {expected}, found {found!r}")
    kind = str(settings.get("distributed_type", "NO"))
    if kind in ("NO", "MULTI_CPU") and processes > 1:
        raise ConfigError(
            f"{path}: distributed_type: expected one that starts {processes} processes, found {kind}; "
            "on CPUs leave `accelerate` out"
        )


def _read(path: Path) -> dict[str, Any]:
    settings: Any = read_yaml(path)
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected the settings of `accelerate config`, found {settings!r}")
    return settings


def shards(config: Run) -> int:
    """Over how many processes the weights are split: all of them under FSDP, else one."""
    split = config.accelerate is not None and _read(Path(config.accelerate)).get("distributed_type") == "FSDP"
    return config.processes if split else 1


def command(config: Run, job: Job, module: str) -> list[str]:
    """What starts the processes: `torchrun`, or `accelerate` where a file says how."""
    program = ["-m", module, str(job.folder / JOB)]
    if config.accelerate is not None:
        launcher = ["accelerate.commands.launch", "--config_file", config.accelerate]
    elif config.processes > 1:
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(config.processes)]
    else:
        return [sys.executable, *program]
    return [sys.executable, "-m", *launcher, *program]


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
