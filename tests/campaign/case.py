"""What all cases of the campaign share: the finished study, a folder to work in, and how a case ends."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..workflow.conftest import Project
from .processes import Command, Ended, settle, snakemake
from .results import NAME, difference
from .stages import METHOD

NEEDS_ROOT = "needs the right to mount a file system"


class NotRunError(Exception):
    """This machine lacks what the case needs."""


@dataclass
class Case:
    """A fault to try. ``log`` collects what happened, for the table."""

    scratch: Path  # an empty folder of the case's own
    template: Path  # the unpacked project, nothing run
    reference: Path  # the project after an uninterrupted run: read only
    expected: dict[str, str]  # its bits
    seed: int
    log: list[str] = field(default_factory=list)

    @property
    def random(self) -> random.Random:
        """The case's random moments."""
        return random.Random(self.seed)

    def finished(self, root: Path | None = None) -> Project:
        """A copy of the finished project."""
        root = root or self.scratch / "project"
        return Project(Path(shutil.copytree(self.reference, root, symlinks=True)))

    def unfinished(self, root: Path | None = None) -> Project:
        """A copy of the project in which Deep Search has not been trained and evaluated, and nothing reported."""
        project = self.finished(root)
        for part in (f"search/{METHOD}", "report", "mlflow.done"):
            path = project.root / "results" / NAME / part
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return project

    def completes(self, project: Project) -> None:
        """The next plain command completes, with the bits of the uninterrupted run, and leaves nothing to do."""
        ended = snakemake(project).wait()
        settle()
        assert ended.code == 0, f"the next plain command failed: {ended.output[-2000:]}"
        different = difference(project.root, self.expected)
        assert not different, f"other bits than the uninterrupted run: {', '.join(different[:5])}"
        again = snakemake(project, "-n").wait()
        assert "Nothing to be done" in again.output, f"something left to do: {again.output[-1000:]}"


def run(project: Project, arguments: list[str], **options: object) -> Ended:
    """Run one stage's command to its end."""
    return Command(project, *arguments, **options).wait()  # type: ignore[arg-type]


def clear(ended: Ended, *words: str) -> str:
    """The message of a command that failed; checks that it is one: of empg, without a traceback, with these words."""
    assert ended.code not in (0, None), "it should have failed"
    assert "Traceback" not in ended.output, f"a traceback: {ended.output[-1500:]}"
    lines = [line.strip() for line in ended.output.splitlines() if "empg: error: " in line]
    assert lines, f"no message: {ended.output[-1500:]}"
    assert any(word in line for line in lines for word in words), f"expected {words} in {lines}"
    return lines[0]


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Checks that no finished result in the folder is lost or changed inside the block."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name == "manifest.json"}
    yield
    lost = [str(path) for path, content in before.items() if not path.exists() or path.read_bytes() != content]
    assert not lost, f"finished results are lost: {lost}"
