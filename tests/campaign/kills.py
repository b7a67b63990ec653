"""SIGKILL to the whole process tree at random moments of random stages; the same plain command goes on each time."""

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
from .results import NAME, difference, recorded, timing
from .stages import METHOD
from .study import STUDY

MOST_SECONDS = 14.0  # CPU seconds of the tree before a kill
AT_WORK = re.compile(r"-m (?:empg|empg\.training|dvc)[ .]([a-z_-]+)")
# An environment's stages in their order; all that follow one which is undone are undone too.
ORDER = ("data", "warmstart", "warmstart_evaluate", "rollouts", f"{METHOD}/train", f"{METHOD}/evaluate", "report")


class Series:
    """A finished study that is undone from a random stage of a random environment on, and killed while it goes on."""

    def __init__(self, project: Project, seed: int) -> None:
        self.project, self.seed, self.moments = project, seed, random.Random(seed)
        self.hit = Counter[str]()
        self.open: dict[str, dict[str, float]] = {}  # unfinished stage → its processes' CPU seconds
        self.told: list[int] = []  # processes in the timing of each stage that was killed and has ended
        self.wrong: list[str] = []

    def undo(self, environment: str, first: int) -> None:
        """Undo the study from the environment's stage ``ORDER[first]`` on."""
        results = self.project.root / "results" / NAME
        for part in ORDER[max(first, 1) : -1]:
            shutil.rmtree(results / environment / part)
        shutil.rmtree(results / "report")
        (results / "mlflow.done").unlink()
        if first == 0:
            shutil.rmtree(self.project.root / "data" / environment)
            shutil.rmtree(self.project.root / ".dvc/cache")

    def run(self, most: int, expected: dict[str, str]) -> dict[str, object]:
        """Undo a part and let it run, for the time that it takes; then do so again, with kills, and compare."""
        part = self.moments.choice(sorted(STUDY["environments"])), self.moments.randrange(len(ORDER))
        self.undo(*part)
        before = cpu_seconds()
        assert self._ended(last=True)
        settle()
        undisturbed = cpu_seconds() - before
        self.undo(*part)
        before = cpu_seconds()
        while not self._ended(last=self.hit.total() >= most):
            self.hit[_at_work()] += 1
            kill_all()
            self._note(recorded(self.project.root))
        settle()
        self._note({})
        return {
            "seed": self.seed,
            "from": f"{ORDER[part[1]]} of {part[0]}",
            "kills": self.hit.total(),
            "hit": dict(self.hit),
            "cpu_seconds": cpu_seconds() - before,
            "undisturbed": undisturbed,
            "different": difference(self.project.root, expected),
            "resumed": len(self.told),
            "processes": sum(self.told),
            "wrong_timings": self.wrong,
        }

    def _ended(self, *, last: bool) -> bool:
        """Start the study; False at a random moment, True at its end."""
        start, after = cpu_seconds(), float("inf") if last else self.moments.uniform(0, MOST_SECONDS)
        command = snakemake(self.project)
        if command.until(lambda: cpu_seconds() - start >= after):
            return False
        ended = command.wait()
        assert ended.code == 0, ended.output[-3000:]
        return True

    def _note(self, now: dict[str, dict[str, float]]) -> None:
        """Keep what unfinished stages have noted down, and check the timing of those that have ended."""
        for folder in self.open.keys() - now.keys():
            parts = self.open.pop(folder)
            processes, seconds = timing(self.project.root, folder)
            self.told.append(processes)
            if processes != len(parts) + 1 or seconds < sum(parts.values()):
                self.wrong.append(f"{folder}: {processes} processes and {seconds} s, not {parts} and one more")
        for folder, processes in now.items():
            self.open.setdefault(folder, {}).update(processes)


def _at_work() -> str:
    """The stages at work, by the commands of their processes."""
    found = set()
    for process in descendants():
        with suppress(psutil.Error):
            found |= set(AT_WORK.findall(" ".join(process.cmdline())))
    return " and ".join(sorted(found - {"repro", "training"})) or "Snakemake alone"


def fresh(template: Path, root: Path) -> Project:
    """A copy of the project."""
    shutil.rmtree(root, ignore_errors=True)
    return Project(Path(shutil.copytree(template, root, symlinks=True)))
