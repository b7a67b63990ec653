"""What every process of a stage of ``engine: trl`` does, whatever its work is."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import torch
from accelerate.utils import gather_object

from empg.errors import ConfigError, EmpgError, StorageError
from empg.files import clear_refusals
from empg.processes.job import Job, Run

T = TypeVar("T")
WATCHED = 0.5  # seconds between two looks at the process of the stage


def main(work: Callable[[Job], None]) -> int:
    """Do a job's share; its path is the program's argument. The stage reads expected errors from a file.

    All others are printed. The process ends with that of the stage, or with the launcher's.
    """
    job = Job.read(Path(sys.argv[1]))
    end_with(job.process)
    end_with(os.getppid())  # the launcher, or the stage itself
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32, as every stage
    try:
        with clear_refusals(job.folder):  # libraries write checkpoints by themselves
            work(job)
    except EmpgError as error:
        _leave(job, error)
        return error.exit_code
    return 0


def _leave(job: Job, error: EmpgError) -> None:
    """Leave the error for the stage; where the disk is too full even for that, print it."""
    job.drop_unfinished()
    try:
        job.fail(int(os.environ.get("RANK", "0")), error)
    except StorageError:
        print(f"empg: error: {error}", file=sys.stderr)


def end_with(process: int) -> None:
    """End this process, whatever it does, once that one has ended."""

    def watch() -> None:
        while psutil.pid_exists(process):
            time.sleep(WATCHED)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def check_count(config: Run, found: int) -> None:
    """Raises :class:`ConfigError` unless as many processes run as the study says."""
    if found != config.processes:
        started = config.accelerate or "the launcher"
        raise ConfigError(f"processes: expected {config.processes}, found {found} from {started}")


def share(items: Sequence[T], index: int, count: int) -> Sequence[T]:
    """The consecutive items of process ``index`` of ``count``."""
    bounds = np.linspace(0, len(items), count + 1).astype(int)
    return items[bounds[index] : bounds[index + 1]]


def joined(own: Sequence[T]) -> list[T]:
    """The items of all processes in their order; every process calls it and gets them."""
    return [item for part in gather_object([list(own)]) for item in part]
