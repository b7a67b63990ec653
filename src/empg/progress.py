"""A job's log, and its progress: a line of text that the job writes to the log and the display of the study reads.

Such a line is ``iterations: 120/3000, 0:41 elapsed, 16:03 left``. :class:`Progress` writes and parses it.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

Report = Callable[[int, int], None]  # (done, total)
SECONDS_BETWEEN_LINES = 2.0
SHARE_BETWEEN_LINES = 0.01  # of the elapsed time, so that the log of a job of ten hours has about 600 lines
TAIL = 4096  # bytes at the end of a log, where the last line of progress is
BEGIN = "=== "  # of the line that a process writes first
_LINE = re.compile(r"(\w+): (\d+)/(\d+), ([\d:]+) elapsed(?:, ([\d:]+) left)?")


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units (tokens, episodes, iterations); times in seconds, ``left`` unknown at first."""

    unit: str
    done: int
    total: int
    elapsed: float
    left: float | None = None

    def __str__(self) -> str:
        left = "" if self.left is None else f", {clock(self.left)} left"
        return f"{self.unit}: {self.done}/{self.total}, {clock(self.elapsed)} elapsed{left}"

    @property
    def share(self) -> float:
        """The share that is done, from 0 to 1."""
        return self.done / self.total if self.total else 1.0

    @classmethod
    def parse(cls, line: str) -> Progress | None:
        """The progress in a line of a log; None for any other line."""
        found = _LINE.fullmatch(line.strip())
        if found is None:
            return None
        unit, done, total, elapsed, left = found.groups()
        return cls(unit, int(done), int(total), _seconds(elapsed), _seconds(left) if left else None)


def clock(seconds: float) -> str:
    """A duration as people read it: ``0:07``, ``16:03``, ``2:05:00``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _seconds(text: str) -> float:
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part)
    return float(total)


def last(log: Path) -> Progress | None:
    """The latest progress in a log; None if it has none or cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next(filter(None, map(Progress.parse, reversed(of_last_process(lines)))), None)


_jobs: set[int] = set()  # this process, once it writes to a log; no fork of it


def write_to(log: Path, command: str) -> None:
    """Send this process's stderr to the end of a log, after a line that says which command begins and when.

    Snakemake deletes a job's log before each start of the job. So ``log`` is a link to a hidden file beside it, which
    keeps the lines of all processes. Where links can't be made, the log starts again.

    Raises:
        OSError: the log can't be written.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = log.with_name(f".{log.name}")
    with suppress(OSError):
        kept.touch()
        log.unlink(missing_ok=True)
        log.symlink_to(kept.name)
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    _jobs.add(os.getpid())
    begin = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, empg {command}, process {os.getpid()}"
    print(f"{BEGIN}{begin} ===", file=sys.stderr, flush=True)


def end_undisturbed() -> None:
    """Ignore SIGINT and SIGTERM from now on in a job of Snakemake's, which is a process with a log.

    A stage calls this once all but its manifest is written. Snakemake deletes the outputs of a job that a signal ends.
    """
    if os.getpid() in _jobs and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def of_last_process(lines: Sequence[str]) -> Sequence[str]:
    """The lines that a log's last process wrote, without its first one."""
    begins = [number for number, line in enumerate(lines) if line.startswith(BEGIN)]
    return lines[begins[-1] + 1 :] if begins else lines


@contextmanager
def shown(unit: str) -> Iterator[Report]:
    """Show progress on stderr: as a bar in a terminal, elsewhere (such as a log file) as a line now and then."""
    if not sys.stderr.isatty():
        yield _lines(unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(unit, total=None)
        yield lambda done, total: bars.update(task, completed=min(done, total), total=total)


def _lines(unit: str) -> Report:
    """Print lines. The time left uses the speed since the first report, because a resumed job begins far above zero."""
    begin = time.monotonic()
    last = -SECONDS_BETWEEN_LINES
    first: tuple[int, float] | None = None

    def report(done: int, total: int) -> None:
        nonlocal last, first
        elapsed, done = time.monotonic() - begin, min(done, total)
        first = first or (done, elapsed)
        if done < total and elapsed - last < max(SECONDS_BETWEEN_LINES, SHARE_BETWEEN_LINES * elapsed):
            return
        speed = (done - first[0]) / (elapsed - first[1]) if elapsed > first[1] else 0.0
        left = (total - done) / speed if speed and done < total else None
        last = elapsed
        print(Progress(unit, done, total, elapsed, left), file=sys.stderr, flush=True)

    return report
