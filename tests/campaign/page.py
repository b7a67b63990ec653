"""The table of the campaign and its page."""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empg.timing import processor

TEXT = """# Faults

`make campaign` writes this page. It breaks a small study of all stages and starts it again with the same plain
`snakemake --cores all`. TRL trains a pretrained model on ALFWorld; the native engine trains on WebShop and Deep Search.

{date}, {processor}, {cores} cores with a load of {load:.0f}; {minutes:.0f} CPU minutes.

## Killed at random moments

{kills}

## Other faults

| fault | what happens | outcome | seen | CPU s |
|---|---|---|---|---|
{rows}

- *held*: each failed run ends with a clear message or waits, no finished result changes, and the next plain command
  completes with the bits of the uninterrupted run.
- {files} files are compared: weights, metrics, rollouts, tables, pages, manifests and data. Left out is what differs
  between two runs that nothing happened to: timings, logs, MLflow's database, and the report's table and figure of cost
  with the page that shows them.
- The CPU seconds of a case hold its undisturbed runs too. An uninterrupted study takes {reference:.0f} s, most of them
  the start of processes.
{missing}"""


@dataclass
class Campaign:
    """All that has been found."""

    reference: dict[str, Any]
    cases: list[dict[str, Any]]
    kills: list[dict[str, Any]]
    missing: list[str]  # cases that have not been run

    @classmethod
    def read(cls, state: Path, names: list[str]) -> Campaign:
        """The results in the folder, cases in the order of ``names``."""
        found = [json.loads(path.read_text()) for path in sorted(state.glob("*.json"))]
        cases = sorted((one for one in found if "case" in one), key=lambda one: names.index(one["case"]))
        (reference,) = (one for one in found if "expected" in one)
        missing = [name for name in names if name not in {one["case"] for one in cases}]
        return cls(reference, cases, [one for one in found if "kills" in one], missing)

    @property
    def broken(self) -> list[str]:
        """What did not hold."""
        series = [f"SIGKILL, seed {one['seed']}" for one in self.kills if one["different"] or one["wrong_timings"]]
        return [one["case"] for one in self.cases if one["outcome"] == "broken"] + series


def row(case: dict[str, Any]) -> str:
    """A line of the table."""
    detail = case["detail"].strip().splitlines()[-1][:200] if case["detail"] else ""
    about = case["about"].partition("\n")[0]
    return f"| {case['case']} | {about} | {case['outcome']} | {detail} | {case['cpu_seconds']:.0f} |"


def table(found: Campaign) -> str:
    """All lines, and the kills."""
    return "\n".join([*map(row, found.cases), "", kills(found)])


def kills(found: Campaign) -> str:
    """What the kills cost and left."""
    count = sum(one["kills"] for one in found.kills)
    if not count:
        return "Not run."
    lost = sum(one["cpu_seconds"] - one["undisturbed"] for one in found.kills)
    hit = Counter[str]()
    for one in found.kills:
        hit.update(one["hit"])
    different = sum(len(one["different"]) for one in found.kills)
    wrong = sum(len(one["wrong_timings"]) for one in found.kills)
    lines = [
        f"| SIGKILLs of the whole process tree | {count}, in {len(found.kills)} studies |",
        f"| files that differ from an uninterrupted run | {different} of {len(found.reference['expected'])} a study |",
        f"| time lost a kill | {lost / count:.1f} CPU seconds, most of them the start of Snakemake and of jobs |",
        f"| resumed jobs | {sum(one['resumed'] for one in found.kills)}, marked so in their timing |",
        f"| timings that lack a process or its seconds | {wrong} |",
        "| at work when killed | " + ", ".join(f"{name} {number}" for name, number in hit.most_common()) + " |",
    ]
    return "\n".join(["| | |", "|---|---|", *lines])


def text(found: Campaign) -> str:
    """The page."""
    parts = [*found.cases, *found.kills, found.reference, found.reference]
    return TEXT.format(
        date=datetime.date.today(),
        processor=processor(),
        cores=os.cpu_count(),
        load=os.getloadavg()[2],
        minutes=sum(one["cpu_seconds"] for one in parts) / 60,
        kills=kills(found),
        rows="\n".join(map(row, found.cases)),
        missing=f"- Not run this time: {', '.join(found.missing)}.\n" if found.missing else "",
        files=len(found.reference["expected"]),
        reference=found.reference["cpu_seconds"],
    )
