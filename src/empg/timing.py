"""What a stage costs in time and memory, over all processes that worked on it.

A process writes what it has used every few seconds, so one that is killed leaves what it used until then. The process
that ends the stage adds up the seconds and takes the highest peak of memory. The files lie in a hidden folder of the
stage's output and vanish with its end.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from empg.errors import DataError
from empg.files import read_json, write_json

FOLDER = ".timing"
SECONDS = 5.0  # between two writes: what a kill can hide
USED = ("startup_seconds", "wall_seconds", "cpu_seconds")
PEAK = "peak_memory_bytes"


class Clock:
    """The clock of a stage in this process, and those of earlier processes with the same ``digest``.

    Args:
        out: the stage's folder.
        digest: identifies what the results depend on; processes with another one worked on other results.
    """

    def __init__(self, out: Path, digest: str) -> None:
        self._folder, self._digest = out / FOLDER, digest
        self._startup = _process_age()
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()
        self._file = self._folder / f"{uuid.uuid4().hex}.json"
        self._earlier = [used for used in map(_read, sorted(self._folder.glob("*.json"))) if used]
        self._earlier = [used for used in self._earlier if used["digest"] == digest]
        if not self._earlier:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_often, daemon=True)
        self._thread.start()

    def total(self) -> dict[str, Any]:
        """Seconds of all processes (``startup_seconds`` passed before the stage began), their number, highest peak."""
        parts = [*self._earlier, self._used()]
        seconds = {name: sum(part[name] for part in parts) for name in USED}
        return seconds | {PEAK: max(part.get(PEAK, 0) for part in parts), "processes": len(parts)}

    def write(self) -> None:
        """Record what this process has used until now."""
        with contextlib.suppress(OSError):  # a full disk costs the record of time, and no result
            write_json(self._file, self._used() | {"digest": self._digest})

    def stop(self) -> None:
        """Record for the last time."""
        self._ended.set()
        self._thread.join()
        self.write()

    def forget(self) -> None:
        """Delete the files, once the total is kept elsewhere."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _used(self) -> dict[str, float]:
        wall, cpu = time.perf_counter() - self._wall, _cpu_seconds() - self._cpu
        return {"startup_seconds": self._startup, "wall_seconds": wall, "cpu_seconds": cpu, PEAK: peak_memory()}

    def _write_often(self) -> None:
        self.write()
        while not self._ended.wait(SECONDS):
            self.write()


@contextmanager
def timed(stage: str, folder: Path, digest: str, file: Path) -> Iterator[None]:
    """Count what a job uses that has no manifest of its own, and write it to ``file`` when the job ends well.

    ``folder`` keeps what earlier processes with the same ``digest`` have used (:class:`Clock`).
    """
    clock = Clock(folder, digest)
    try:
        yield
    finally:
        clock.stop()
    write_json(file, {"stage": stage, **clock.total()})
    clock.forget()


def peak_memory() -> int:
    """Bytes: the most resident memory that this process ever had, or one of those that it started and waited for."""
    unit = 1 if sys.platform == "darwin" else 1024
    own, of_children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    status = Path("/proc/self/status")
    if status.exists():  # Linux keeps in ru_maxrss what a process had before it became this program
        _, found, rest = status.read_text(encoding="utf-8").partition("VmHWM:")
        own = int(rest.split()[0]) if found else own
    return unit * max(own, of_children)


@cache
def processor() -> str:
    """This machine's processor, and the vector instructions that torch uses on it: both decide how sums round."""
    import torch

    return f"{_cpuinfo().get('model name', platform.machine())}, {torch.backends.cpu.get_cpu_capability()}"


def processor_model() -> str:
    """This machine's processor with its family and model, which tell virtual ones of one name apart."""
    found = _cpuinfo()
    name = found.get("model name", platform.machine())
    return f"{name} (family {found['cpu family']}, model {found['model']})" if "cpu family" in found else name


def _cpuinfo() -> dict[str, str]:
    """What Linux says about the first processor; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    first = path.read_text(encoding="utf-8").partition("\n\n")[0] if path.exists() else ""
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        used = read_json(path)
    except DataError:
        return None
    return used if isinstance(used, dict) and {*USED, "digest"} <= used.keys() else None


def _cpu_seconds() -> float:
    """CPU seconds of this process, and of those that it started and that have ended."""
    used = os.times()
    return time.process_time() + used.children_user + used.children_system


def _process_age() -> float:
    """Seconds since this process was started: what imports cost before a stage begins."""
    return time.time() - float(psutil.Process().create_time())
