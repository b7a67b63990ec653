"""The display in a terminal: finished jobs scroll up, and below them each running job has a line that changes."""

from __future__ import annotations

import time
from logging import LogRecord
from threading import Event, RLock, Thread
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from snakemake_interface_logger_plugins.settings import OutputSettingsLoggerInterface

from empg.progress import clock
from snakemake_logger_plugin_empg import words
from snakemake_logger_plugin_empg.plain import Plain
from snakemake_logger_plugin_empg.study import Job, Study

SECONDS_BETWEEN_DRAWINGS = 0.5
BAR = 14  # columns
WITH_BAR, WITH_COUNTS = 64, 100  # columns that a terminal needs for a bar, and for "120/3000 iterations" as well


class Terminal(Plain):
    """Draws from a thread of its own, since a job's progress comes from its log and not from an event."""

    def __init__(self, study: Study, stream: TextIO, settings: OutputSettingsLoggerInterface) -> None:
        super().__init__(study, stream, settings)
        self.console = Console(file=stream, no_color=settings.nocolor or None, highlight=False, markup=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.lock, self.stopped, self.broken = RLock(), Event(), False
        self.thread = Thread(target=self._draw, name="progress", daemon=True)

    def handle(self, record: LogRecord) -> None:
        """Show an event; raises after the drawing has failed, so that plain lines take over."""
        with self.lock:
            if self.broken:
                raise RuntimeError("the live display has failed")
            super().handle(record)

    def write(self, text: str, style: str = "") -> None:
        """Above the live lines."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def stop(self) -> None:
        """Remove the live lines and show the cursor."""
        self.stopped.set()
        with self.lock:
            if self.live.is_started:
                self.live.stop()

    def close(self) -> None:
        """Remove the live lines, then say how the run ended."""
        self.stop()
        super().close()

    def on_start(self, job: Job) -> None:
        """The first job starts the drawing."""
        if not self.live.is_started and not self.stopped.is_set():
            self.live.start()
            self.thread.start()
        self._refresh()

    def on_finish(self, job: Job, now: float) -> None:
        """A line that stays."""
        self.console.print(Text(words.finished(job, now)), soft_wrap=True)
        self._refresh()

    def _refresh(self) -> None:
        if self.live.is_started:
            lines = table(self.study, time.time(), self.console.width, self.console.height)
            self.live.update(lines, refresh=True)

    def _draw(self) -> None:
        while not self.stopped.wait(SECONDS_BETWEEN_DRAWINGS):
            with self.lock:
                try:
                    self._refresh()
                except Exception:
                    self.broken = True
                    return


def table(study: Study, now: float, width: int, height: int) -> Table:
    """The live lines: what the job does, a bar, its share, the time that is left; last the whole study."""
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    with_bar, with_counts = width >= WITH_BAR, width >= WITH_COUNTS
    if with_counts:
        grid.add_column(justify="right", no_wrap=True)
    if with_bar:
        grid.add_column(width=BAR)
    grid.add_column(justify="right", no_wrap=True, width=4)
    times = 17 if with_bar else 8
    grid.add_column(justify="right", no_wrap=True, width=times)
    name = width - 6 - times - (BAR + 1 if with_bar else 0)

    def line(text: str, counts: str, share: float | None, left: str, style: str) -> None:
        cells: list[Text | ProgressBar] = [Text(text if with_counts else shortened(text, name), style=style)]
        if with_counts:
            cells.append(Text(counts, style="dim"))
        if with_bar:
            cells.append(ProgressBar(total=1.0, completed=share or 0.0, width=BAR, pulse=False))
        cells += [Text("" if share is None else f"{share:.0%}", style=style), Text(left, style=style)]
        grid.add_row(*cells)

    jobs = [*study.running.values()]
    room = max(1, height - 4)
    for job in jobs[:room]:
        told, left = job.progress(), study.job_left(job, now)
        counts = "" if told is None else f"{told.done}/{told.total} {told.unit}"
        share = None if told is None else told.share
        line(job.what, counts, share, _job_time(job, share, left, now, with_bar), "")
    if len(jobs) > room:
        line(f"and {len(jobs) - room} more jobs", "", None, "", "dim")
    left = study.left(now)
    rest = "" if left is None else f"about {words.roughly(left)} left" if with_bar else f"~{words.roughly(left)}"
    text = f"{words.of_all(study)}, {clock(study.elapsed(now))} elapsed"
    line(text, "", study.done / max(1, study.total), rest, "bold")
    return grid


def _job_time(job: Job, share: float | None, left: float | None, now: float, long: bool) -> str:
    if share == 1.0:
        return "finishing" if long else "ending"
    if left is not None:
        return f"{clock(left)} left" if long else clock(left)
    if job.waiting:
        return "waiting"
    return f"{clock(now - job.started)} so far" if long else f"+{clock(now - job.started)}"


def shortened(text: str, width: int) -> str:
    """Cut before the closing parenthesis, which names the environment."""
    head, bracket, tail = text.rpartition(" (")
    if len(text) <= width or not bracket or width - len(tail) < 6:
        return text
    return f"{head[: width - len(tail) - 3]}… ({tail}"
