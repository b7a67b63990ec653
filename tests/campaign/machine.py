"""Signals, two runs at once, a clock that jumps, and the machine's limit of memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..workflow.conftest import Project
from .case import Case, NotRunError, kept
from .processes import Command, cpu_seconds, settle, snakemake
from .stages import METHOD, STAGES, STUDY

SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM}
TIMES = 3  # that each signal is sent
MOST_SECONDS = 12.0  # CPU seconds before a signal, or before the clock jumps
CONTINUE = "Run the same command again to continue from here."
FAKETIME = [Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"), Path("/usr/lib/faketime/libfaketimeMT.so.1")]
JUMPS = ("+40d", "-400d", "+3000s", "+0")
CGROUPS = {  # folder → the files that limit memory and that take a process
    Path("/sys/fs/cgroup/memory"): ("memory.limit_in_bytes", "cgroup.procs"),
    Path("/sys/fs/cgroup"): ("memory.max", "cgroup.procs"),
}
BEGUN = (".timing/*.json", "checkpoint/*")  # a stage's folder has these once it is at work


def signals(case: Case, name: str) -> None:
    """The signal reaches Snakemake and its jobs, as Ctrl-C and a batch system send it, at random moments."""
    draw, sent = case.random, 0
    project = case.unfinished()
    for _ in range(TIMES):
        start, after = cpu_seconds(), draw.uniform(2.0, MOST_SECONDS)
        command = snakemake(project)
        with kept(project.root / "results"):
            if not command.until(lambda start=start, after=after: cpu_seconds() - start >= after):
                break
            os.killpg(command.pid, SIGNALS[name])
            ended = command.wait()
            settle()
        sent += 1
        assert ended.code != 0
        assert "an error in the program" not in ended.output, ended.output[-2000:]
    case.completes(project)
    assert sent, "the study ended first"
    case.log.append(f"sent {sent} times")


def two_at_once(case: Case) -> None:
    """Two people type the same command at about the same time."""
    project = case.unfinished()
    both = [snakemake(project), snakemake(project)]
    codes = [command.wait().code for command in both]
    settle()
    assert 0 in codes, "both failed"
    case.log.append(f"exit codes {codes[0]} and {codes[1]}")
    case.completes(project)


def clock_jumps(case: Case) -> None:
    """The clock jumps to and fro while a study runs; afterwards half of the files are dated in the future."""
    library = next((path for path in FAKETIME if path.exists()), None)
    if library is None:
        raise NotRunError("needs Debian's libfaketime")
    project = case.unfinished()
    clock = case.scratch / "clock"
    clock.write_text("+0")
    env = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    jumps, moments, after = 0, case.random, cpu_seconds()
    command = snakemake(project, env=env)
    for jump in JUMPS:
        after += moments.uniform(2.0, MOST_SECONDS / 2)
        if command.until(lambda after=after: cpu_seconds() >= after):
            clock.write_text(jump)
            jumps += 1
    ended = command.wait()
    settle()
    assert ended.code == 0, ended.output[-2000:]
    case.log.append(f"{jumps} jumps of up to 400 days")
    tomorrow = time.time() + 86400
    for path in sorted((project.root / "results").rglob("*")):
        if moments.random() < 0.5 and path.is_file():
            os.utime(path, (tomorrow, tomorrow))
    case.completes(project)


def memory(case: Case, name: str) -> None:
    """A cgroup's memory is used up while the stage works: the kernel kills it, and the next command goes on."""
    stage, project, draw = STAGES[name], Project(case.reference), case.random
    reference, out, killed = case.reference / stage.folder, case.scratch / "out", 0
    for _ in range(3):
        with cgroup() as (limit, procs):
            command = Command(
                project, *stage.command(out), before=lambda procs=procs: procs.write_text(str(os.getpid()))
            )
            at_work = command.until(lambda: any(path for glob in BEGUN for path in out.glob(glob)))
            time.sleep(draw.uniform(0.0, 0.5))
            if at_work:
                _tighten(limit)
            ended = command.wait()
            killed += ended.code == -signal.SIGKILL
            if ended.code in (0, -signal.SIGKILL):
                continue
            assert "an error in the program" not in ended.output, ended.output[-1500:]
    assert killed, "the limit was never reached"
    ended = Command(project, *stage.command(out)).wait()
    assert ended.code == 0, ended.output[-2000:]
    assert (out / "manifest.json").read_bytes() == (reference / "manifest.json").read_bytes(), "other bits"
    case.log.append(f"killed {killed} times")


def memory_under_snakemake(case: Case) -> None:
    """What a user reads when the kernel has killed a job."""
    project = case.unfinished()
    with cgroup() as (limit, procs):
        command = Command(project, "snakemake", "--cores", "1", before=lambda: procs.write_text(str(os.getpid())))
        folder = project.root / STUDY / "search" / METHOD / "train"
        command.until(lambda: any(path for glob in BEGUN for path in folder.glob(glob)))
        _tighten(limit)
        with kept(project.root / "results"):
            ended = command.wait()
    settle()
    assert ended.code != 0, "the limit was never reached"
    assert ended.code == -signal.SIGKILL or "because memory ran out" in ended.output, ended.output[-1500:]
    case.log.append("Snakemake itself was killed" if ended.code == -signal.SIGKILL else "a job was killed")
    case.completes(project)


@contextmanager
def cgroup() -> Iterator[tuple[Path, Path]]:
    """A memory cgroup of its own: the file of its limit and the file that takes processes."""
    for root, (limit, procs) in CGROUPS.items():  # noqa: B007 - used below
        folder = root / f"empg-campaign-{os.getpid()}"
        with suppress(OSError):
            folder.mkdir()
            if (folder / limit).exists():
                break
            folder.rmdir()
    else:
        raise NotRunError("needs the right to make a memory cgroup")
    try:
        yield folder / limit, folder / procs
    finally:
        for _ in range(100):
            with suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.1)


def _tighten(limit: Path) -> None:
    """Set the limit to what is used now and a little more; the kernel refuses less."""
    usage = limit.with_name("memory.usage_in_bytes" if "limit" in limit.name else "memory.current")
    for _ in range(1000):
        with suppress(OSError):
            limit.write_text(str(int(usage.read_text()) // 4096 * 4096))
            return
