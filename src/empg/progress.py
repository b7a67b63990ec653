"""How far a job is: one line of text, written to the job's log and read by whoever watches the study.

``iterations: 120/3000, 0:41 elapsed, 16:03 left`` is such a line. :class:`Progress` writes and parses it.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Report = Callable[[int, int], None]  # (done, total)
SECONDS_BETWEEN_LINES = 2.0
SHARE_BETWEEN_LINES = 0.01  # of the time elapsed, so that the log of a job of ten hours has some 600 lines
STARTED = "--- "
TAIL = 4096  # bytes at a log's end that are searched for a line
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
        """From 0 to 1."""
        return self.done / self.total if self.total else 1.0

    @classmethod
    def parse(cls, line: str) -> Progress | None:
        """The progress that a line of a log tells; None for any other line."""
        found = _LINE.fullmatch(line.strip())
        if found is None:
            return None
        unit, done, total, elapsed, left = found.groups()
        return cls(unit, int(done), int(total), _seconds(elapsed), _seconds(left) if left else None)


def started(what: str) -> str:
    """The line with which a job's log goes on: what comes after the last one is of the job's latest process."""
    return f"{STARTED}{what}, {time.strftime('%Y-%m-%d %H:%M:%S')}"


def since_start(lines: list[str]) -> list[str]:
    """The lines of a log that the job's latest process wrote."""
    starts = [i for i, line in enumerate(lines) if line.startswith(STARTED)]
    return lines[starts[-1] + 1 :] if starts else lines


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
    """The latest progress that a log tells; None where it has none or cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next(filter(None, map(Progress.parse, reversed(since_start(lines)))), None)


@contextmanager
def shown(unit: str) -> Iterator[Report]:
    """Show progress on stderr: a bar in a terminal, elsewhere, such as in a log file, a line now and then."""
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
    """The time left follows from the speed since the first report: a job that resumes begins far above zero."""
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
