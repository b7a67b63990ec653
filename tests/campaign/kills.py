"""SIGKILL to the whole process tree at random moments, until the study is done; then another study."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from ..workflow.conftest import Project
from .processes import cpu_seconds, descendants, kill_all, settle, snakemake
from .results import difference, recorded, timing

MOST_SECONDS = 16.0  # CPU seconds of the tree before a kill
STAGE = re.compile(r" -m (?:empg|dvc) ([a-z-]+)")


def series(project: Project, expected: dict[str, str], seed: int, most: int) -> dict:
    """Kill a study at most ``most`` times and let it end. Every start is the same plain command.

    The result has the kills by what they hit, CPU seconds, files that differ, and the stages whose timing is wrong.
    """
    moments, hit, used = random.Random(seed), Counter(), {}
    before, kills = cpu_seconds(), 0
    while True:
        start, after = cpu_seconds(), moments.uniform(0, MOST_SECONDS) if kills < most else float("inf")
        command = snakemake(project)
        if not command.until(lambda start=start, after=after: cpu_seconds() - start >= after):
            ended = command.wait()
            assert ended.code == 0, ended.output[-3000:]
            break
        hit.update(_stages() or {"snakemake alone": 1})
        kill_all()
        kills += 1
        for folder, processes in recorded(project.root).items():
            used.setdefault(folder, {}).update(processes)
    settle()
    told = {folder: timing(project.root, folder) for folder in used}
    wrong = [folder for folder, parts in used.items() if not _counts_all(parts, told[folder])]
    return {
        "seed": seed,
        "kills": kills,
        "hit": dict(hit),
        "cpu_seconds": cpu_seconds() - before,
        "different": difference(project.root, expected),
        "resumed": sum(processes > 1 for processes, _ in told.values()),
        "processes": sum(processes for processes, _ in told.values()),
        "wrong_timings": wrong,
    }


def _stages() -> dict[str, int]:
    """The stages at work, by the commands of their processes."""
    found = set()
    for process in descendants():
        with suppress(psutil.Error):
            found |= set(STAGE.findall(" ".join(process.cmdline())))
    return dict.fromkeys(found - {"repro"}, 1)


def _counts_all(parts: dict[str, float], told: tuple[int, float]) -> bool:
    """Whether a stage's timing has each killed process that left a note, and the last one, and all their seconds."""
    processes, seconds = told
    return processes == len(parts) + 1 and seconds >= sum(parts.values())


def fresh(template: Path, root: Path) -> Project:
    """A copy of the unpacked project."""
    shutil.rmtree(root, ignore_errors=True)
    return Project(Path(shutil.copytree(template, root, symlinks=True)))
