"""Disks that are full, may not be written, or know no locks: small file systems of their own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..workflow.conftest import Project
from .case import NEEDS_ROOT, Case, NotRunError, clear, kept, run
from .processes import settle, snakemake
from .stages import STAGES

FULL = ("found a full disk", "No space left on device")
READ_ONLY = ("found a read-only file system", "Read-only file system")
MOMENTS = 2  # at which each stage's disk is full
WHOLE_MB = 200
LOCKLESS = Path(__file__).with_name("lockless.py")


@contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """A file system in memory at ``folder``; yields a function that remounts it with other options."""
    folder.mkdir(parents=True, exist_ok=True)

    def mount(*options: str) -> int:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    if mount(f"size={kilobytes}k"):
        raise NotRunError(NEEDS_ROOT)
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def used_kilobytes(folder: Path) -> int:
    """What the files of a folder take on a disk."""
    return sum(path.stat().st_size + 4095 for path in folder.rglob("*") if path.is_file()) // 1024


def full_in_a_stage(case: Case, name: str) -> None:
    """The disk fills up at random moments while a stage writes; once there is room, the same command ends it."""
    stage, project, draw = STAGES[name], Project(case.reference), case.random
    reference = case.reference / stage.folder
    size, failed = used_kilobytes(reference), 0
    folder = case.scratch / "disk"
    with disk(folder, 4) as remount:
        out = folder / "out"
        for share in sorted(draw.random() for _ in range(MOMENTS)):
            remount(f"size={max(4, int(size * share))}k")
            ended = run(project, stage.command(out))
            failed += ended.code != 0
            if ended.code:
                assert ended.code == 1, ended.output[-1000:]
                clear(ended, *FULL)
        remount(f"size={WHOLE_MB}m")
        ended = run(project, stage.command(out))
        assert ended.code == 0, ended.output[-2000:]
        same(out, reference)
    assert failed, "the disk was never full"
    case.log.append(f"full {failed} times")


def same(out: Path, reference: Path) -> None:
    """The manifests agree, and so the hashes of all files. The report's has hashes of times."""
    if out.parent.name != "report" and reference.name != "report":
        assert (out / "manifest.json").read_bytes() == (reference / "manifest.json").read_bytes(), "other bits"


def full_under_snakemake(case: Case) -> None:
    """The whole project lies on a disk that is full and then grows by a random amount, again and again."""
    draw, failed = case.random, 0
    root = case.scratch / "disk" / "project"
    with disk(root.parent, WHOLE_MB << 10) as remount:
        project = case.unfinished(root)
        room = used_kilobytes(root)
        while failed < 12:
            room += draw.randint(0, 1500)
            remount(f"size={room}k")
            with kept(root / "results"):
                ended = snakemake(project).wait()
                settle()
            if not ended.code:
                break
            assert any(word in ended.output for word in FULL), f"no clear message: {ended.output[-1500:]}"
            assert "an error in the program" not in ended.output, ended.output[-1500:]
            failed += 1
        remount(f"size={WHOLE_MB}m")
        case.completes(project)
    assert failed, "the disk was never full"
    case.log.append(f"full {failed} times")


def read_only(case: Case) -> None:
    """A read-only folder: of each stage, and of the whole project."""
    folder = case.scratch / "disk"
    with disk(folder, WHOLE_MB << 10) as remount:
        project = case.unfinished(folder / "project")
        remount("ro")
        for name, stage in STAGES.items():
            if name != "training by TRL":  # the same code writes
                clear(run(Project(case.reference), stage.command(folder / "out")), *READ_ONLY)
        ended = snakemake(project).wait()
        settle()
        assert ended.code != 0
        assert any(word in ended.output for word in READ_ONLY), f"no clear message: {ended.output[-1500:]}"
        assert "Traceback" not in ended.output, f"a traceback: {ended.output[-1500:]}"
        remount("rw")
        case.completes(project)


def without_locks(case: Case) -> None:
    """A file system that refuses locks, as network file systems do without a lock service."""
    source, mountpoint = case.scratch / "source", case.scratch / "lockless"
    case.unfinished(source / "project")
    for name in ("ENOLCK", "ENOSYS"):
        with served(source, mountpoint, getattr(errno, name)):
            project = Project(mountpoint / "project")
            with kept(mountpoint / "project/results"):
                ended = snakemake(project).wait()
            clear(ended, "expected a file system with locks (flock), found one without")
            case.log.append(name)
    case.completes(Project(source / "project"))


@contextmanager
def served(source: Path, mountpoint: Path, refusal: int) -> Iterator[None]:
    """Mount the file system of ``lockless.py``."""
    mountpoint.mkdir(exist_ok=True)
    command = [sys.executable, str(LOCKLESS), str(source), str(mountpoint), str(refusal)]
    with (source.parent / "lockless.out").open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        while not os.path.ismount(mountpoint):
            if server.poll() is not None:
                told = (source.parent / "lockless.out").read_text()
                raise NotRunError(f"needs FUSE and the package mfusepy: {told[-200:]}")
            time.sleep(0.05)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(mountpoint)], capture_output=True, check=False)
        server.wait()
