"""Runs commands, counts the CPU seconds of all that they start, and ends it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

import psutil

from ..workflow.conftest import Project

PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.2
LONGEST = 3600.0  # seconds that a command may take on a busy machine


class Ended(NamedTuple):
    """How a command ended: its exit code, and what it wrote to stdout and stderr."""

    code: int
    output: str


class Command:
    """A running command of a project, in a session of its own."""

    def __init__(
        self, project: Project, *arguments: str, env: Mapping[str, str] = {}, before: Callable[[], None] | None = None
    ) -> None:
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - read at the end
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=project.root,
            env=project.env | {"OMP_NUM_THREADS": "1"} | dict(env),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=before,  # noqa: PLW1509 - this process has no threads
        )
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        """Whether the command itself has not ended. What it started may live on."""
        return self._process.poll() is None

    def wait(self, seconds: float = LONGEST) -> Ended:
        """Wait until it ends."""
        code = self._process.wait(seconds)
        self._output.seek(0)
        return Ended(code, self._output.read())

    def until(self, holds: Callable[[], bool]) -> bool:
        """Wait until ``holds()`` or the command's end; whether it still runs."""
        while self.running:
            if holds():
                return True
            time.sleep(POLL_SECONDS)
        return False


def snakemake(project: Project, *arguments: str, env: Mapping[str, str] = {}) -> Command:
    """Start what a user types: ``snakemake --cores all``."""
    return Command(project, "snakemake", "--cores", "all", *arguments, env=env)


def adopt_orphans() -> None:
    """Make this process the parent of all that its children leave behind, so that it can end and count them."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[psutil.Process]:
    """All that this process started and that has not ended."""
    return [process for process in psutil.Process().children(recursive=True) if _living(process)]


def cpu_seconds() -> float:
    """CPU seconds of all that this process has started, ended or not."""
    ended = os.times()
    total = ended.children_user + ended.children_system
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # its own, and of its children that have ended
    return total


def kill_all() -> None:
    """SIGKILL to the whole tree, until nothing is left of it."""
    while living := descendants():
        for process in living:
            with suppress(psutil.Error):
                process.kill()
        reap()
    reap()


def reap() -> None:
    """Take over the exit codes and CPU seconds of orphans that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def settle() -> None:
    """Wait until everything that was started has ended."""
    while descendants():
        reap()
        time.sleep(POLL_SECONDS)
    reap()


def _living(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
