"""The state of a run: which jobs run, which have ended, and how long the rest will take. No output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from empg import progress

# Seconds of a job of the default study on two cores. Only their ratios count: jobs that have ended give the scale.
TYPICAL = {
    "mlflow_database": 8.0,
    "data": 8.0,
    "warmstart": 150.0,
    "rollouts": 6.0,
    "train": 150.0,
    "evaluate_warmstart": 25.0,
    "evaluate": 25.0,
    "report": 25.0,
    "track": 40.0,
}
NOT_TO_SCALE = ("mlflow_database", "data")  # they run no policy, so the policy's size does not change their time
LAST = ("report", "track")  # they wait for all others and run alone
TARGET = "all"  # the rule that stands for the whole study and does nothing


@dataclass
class Job:
    """A job that runs. Times are in seconds since the epoch."""

    id: int
    rule: str
    what: str
    log: Path | None
    started: float
    _seen: tuple[float, progress.Progress | None] = (0.0, None)  # when the log was written last, and what it said

    def progress(self) -> progress.Progress | None:
        """What the job's log says, which may be of an earlier run until the job has written to it."""
        if self.log is None:
            return None
        try:
            written = self.log.stat().st_mtime
        except OSError:
            return None
        if written < self.started - 1:
            return None
        if written != self._seen[0]:
            self._seen = (written, progress.last(self.log))
        return self._seen[1]

    @property
    def waiting(self) -> bool:
        """Whether its log is still to come: the job waits in a cluster's queue."""
        return self.log is not None and not self.log.exists()

    def left(self, now: float) -> float | None:
        """Seconds that the job still takes, by its own log; below zero for a job that is late."""
        told = self.progress()
        return None if told is None or told.left is None else told.left - (now - self._seen[0])


@dataclass
class Study:
    """All jobs of the run, from Snakemake's events."""

    counts: dict[str, int] = field(default_factory=dict)  # jobs of each rule
    running: dict[int, Job] = field(default_factory=dict)
    ended: dict[str, list[float]] = field(default_factory=dict)  # rule → seconds of each job
    failed: dict[int, str] = field(default_factory=dict)  # what the jobs do whose last attempt failed
    started: float | None = None
    workers: int = 1  # most jobs that ran at once

    def plan(self, stats: Mapping[str, int], now: float) -> None:
        """The number of jobs of each rule."""
        self.counts = {rule: count for rule, count in stats.items() if rule not in ("total", TARGET)}
        self.started = now

    def start(self, job: Job) -> None:
        """A job begins, or begins anew after a failure."""
        self.running[job.id] = job
        self.failed.pop(job.id, None)
        self.workers = max(self.workers, len(self.running))

    def finish(self, job_id: int, now: float) -> Job | None:
        """The job that has ended well; None for one that was never announced."""
        job = self.running.pop(job_id, None)
        if job is not None:
            self.ended.setdefault(job.rule, []).append(now - job.started)
        return job

    def fail(self, job_id: int) -> Job | None:
        """The job that has failed; None for one that was never announced or has failed already."""
        job = self.running.pop(job_id, None)
        if job is not None:
            self.failed[job_id] = job.what
        return job

    @property
    def done(self) -> int:
        """Jobs that ended well."""
        return sum(map(len, self.ended.values()))

    @property
    def total(self) -> int:
        """Jobs of this run."""
        return sum(self.counts.values())

    def elapsed(self, now: float) -> float:
        """Seconds since the first job could start."""
        return now - (now if self.started is None else self.started)

    def job_left(self, job: Job, now: float) -> float | None:
        """Seconds that a job still takes, by its log or by ended jobs of its rule; None for a job that is late."""
        left = job.left(now)
        if left is None and (like := self.ended.get(job.rule)):
            left = sum(like) / len(like) - (now - job.started)
        return left if left is None or left >= 0 else None

    def left(self, now: float) -> float | None:
        """Seconds that the run still takes, roughly; None before any job with a policy can tell its time.

        A job that has not begun counts as much as the mean of its rule's jobs, or as their typical time on the scale of
        the others; all of them share the workers, but for the last ones.
        """
        times = {rule: [*seconds] for rule, seconds in self.ended.items()}
        running = {job.id: (job, self.job_left(job, now)) for job in self.running.values()}
        for job, left in running.values():
            if left is not None:
                times.setdefault(job.rule, []).append(now - job.started + left)
        scaled = [rule for rule in times if rule not in NOT_TO_SCALE and rule in TYPICAL]
        if not scaled:
            return None
        scale = sum(sum(times[rule]) for rule in scaled) / sum(len(times[rule]) * TYPICAL[rule] for rule in scaled)
        means = {rule: sum(seconds) / len(seconds) for rule, seconds in times.items()}

        def expected(rule: str) -> float:
            return means.get(rule, TYPICAL.get(rule, 0.0) * (1.0 if rule in NOT_TO_SCALE else scale))

        shared = longest = alone = 0.0
        for job, left in running.values():
            rest = max(0.0, expected(job.rule) - (now - job.started)) if left is None else left
            shared, longest = shared + rest, max(longest, rest)
        active = Counter(job.rule for job in self.running.values())
        for rule, count in self.counts.items():
            pending = max(0, count - len(self.ended.get(rule, ())) - active[rule]) * expected(rule)
            shared, alone = (shared, alone + pending) if rule in LAST else (shared + pending, alone)
        return max(longest, shared / self.workers) + alone
