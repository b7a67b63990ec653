"""`make fuzz`: damages the files of every reader of foreign bytes, talks to the environments, and writes docs/fuzz.md.

Two fuzzers take turns: Hypothesis damages good files (`damage.py`), atheris is guided by the code that an input reaches
(`coverage_guided.py`). Each reader has a process of its own, so that its memory is its own. What has ended stays in
build/fuzz until all has, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from empg.config import ENVIRONMENTS
from empg.timing import processor

from .readers import READERS

HEAD = """# Bad input

`make fuzz` writes this page. It gives every reader of foreign bytes inputs that it was not made for: files, answers of
servers, texts of agents. A reader understands an input, or refuses it with its documented error in less than 5,000
characters, within 20 seconds. Anything else ends the run with a failure.
"""
TAIL = """
- *damaged*: Hypothesis deletes, doubles or overwrites a slice of a good file, or replaces a value of its JSON.
- *guided*: atheris (libFuzzer) invents the content of a file, guided by the Python code that it reaches.
- *slowest*: the slowest damaged input. *memory*: the peak of the process, most of which is imported libraries.
- *agent*: texts that an agent says to an environment, which answers all of them.
"""


class Counts(NamedTuple):
    """A line of the page."""

    name: str
    damaged: int
    refused: int
    guided: int
    slowest: float  # seconds
    megabytes: int

    def line(self) -> str:
        """A row of the table in Markdown."""
        return (
            f"| {self.name} | {self.damaged:,} | {self.refused / self.damaged:.0%} | {self.guided:,} "
            f"| {self.slowest:.1f} s | {self.megabytes:,} MB |"
        )


class FuzzerError(Exception):
    """A fuzzer's process ended with an input that no reader refuses; the message holds what it printed."""


def child(module: str, *arguments: str) -> tuple[str, str]:
    """What a process prints to its two streams. Raises :class:`FuzzerError` with its output when it fails."""
    command = [sys.executable, "-m", f"tests.fault.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise FuzzerError(
            f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-8000:]}"
        )
    return done.stdout, done.stderr


def fuzz(name: str, inputs: int, texts: int) -> Counts:
    """Fuzz a reader with so many inputs, or an environment with so many texts."""
    is_agent, ended = name in ENVIRONMENTS, Path("build", "fuzz", f"{name.replace(' ', '_')}.json")
    if ended.exists():
        return Counts(**json.loads(ended.read_text()))
    tally: dict[str, Any] = json.loads(
        child("damage", name, str(texts if is_agent else inputs // 2))[0].splitlines()[-1]
    )
    guided, megabytes = 0, tally["megabytes"]
    if not is_agent:
        statistics = child("coverage_guided", name, f"-runs={inputs // 2}")[1]
        found = dict(re.findall(r"stat::(\w+): *(\d+)", statistics))
        guided, megabytes = int(found["number_of_executed_units"]), max(megabytes, int(found["peak_rss_mb"]))
    called = f"agent: {name}" if is_agent else name
    counts = Counts(called, tally["inputs"], tally["refused"], guided, tally["slowest"], megabytes)
    print(counts.line(), flush=True)
    ended.parent.mkdir(parents=True, exist_ok=True)
    ended.write_text(json.dumps(counts._asdict()))
    return counts


def main() -> None:
    """Fuzz everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=8000, help="for each reader (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=20_000, help="for each environment (default: %(default)s)")
    parser.add_argument("--page", type=Path, required=True)
    arguments = parser.parse_args()
    names = [*READERS, *("alfworld", "webshop", "deepsearch")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(fuzz, name, arguments.inputs, arguments.texts) for name in names]
        failures = [error for job in jobs if (error := job.exception())]  # after all have ended
    if failures:
        parser.exit(1, "\n\n".join(map(str, failures)) + f"\n{len(failures)} of {len(jobs)} failed\n")
    rows = [job.result() for job in jobs]
    files = sum(row.damaged + row.guided for row in rows if row.guided)
    texts = sum(row.damaged for row in rows if not row.guided)
    when = f"{datetime.now(UTC):%Y-%m-%d}, {processor()}."
    outcome = f"{files:,} inputs of files and answers and {texts:,} texts of agents: none failed."
    table = ["| reader | damaged | refused | guided | slowest | memory |", "|---|---|---|---|---|---|"]
    arguments.page.write_text("\n".join([HEAD, when, outcome, "", *table, *(row.line() for row in rows)]) + "\n" + TAIL)
    for ended in Path("build", "fuzz").glob("*.json"):
        ended.unlink()


if __name__ == "__main__":
    main()
