"""The verdict in sentences: what the primary contrast shows, and the numbers of all others without a claim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from empg.analysis.contrasts import ALL, ALPHA
from empg.config import Study

Row = dict[str, Any]


def verdict(study: Study, table: pl.DataFrame, results: pl.DataFrame) -> list[str]:
    """The sentences, one paragraph each, from the tables of :mod:`empg.analysis.contrasts` and of results.

    First the claims of the primary contrast and how sure they are, then its numbers, sampled and greedy, then the other
    contrasts, which are exploratory. A study of one method has none and gets its success.
    """
    rows = table.filter(pl.col("primary")).rows(named=True)
    if not rows:
        return [_alone(name, results) for name in study.methods]
    sentences = [conclusion(rows), *_numbers(rows)]
    for (method, against), part in table.filter(~pl.col("primary")).group_by("method", "against", maintain_order=True):
        head = f"Exploratory, without a claim: {method} against {against}."
        sentences.append(" ".join([head, *_numbers(part.rows(named=True))]))
    return sentences


def conclusion(rows: Sequence[Row]) -> str:
    """What the rows of the primary contrast show, and how likely any false claim among them is."""
    first = rows[0]
    method, against, margin = first["method"], first["against"], points(first["margin"]).lstrip("+")
    claims = [
        f"{words} on {_places(part)}"
        for words, part in (
            (f"is better than {against}", [row for row in rows if row["claim"] == "better"]),
            (f"is worse than {against}", [row for row in rows if row["claim"] == "worse"]),
            (f"differs from {against} by less than {margin} points", [row for row in rows if row["equivalent"]]),
        )
        if part
    ]
    rest = sum(row["claim"] is None and not row["equivalent"] for row in rows)
    others = "the other one" if rest == 1 else f"the other {rest}"
    open_rows = others if claims else ("the one panel" if len(rows) == 1 else f"any of {len(rows)} rows")
    open_text = f"is not shown to differ from {against}, nor to be within {margin} points of it, on {open_rows}"
    text = f"{method} {'; '.join([*claims, *([open_text] if rest else [])])}."
    sure = f"The probability of any false claim among these is at most {ALPHA:.0%}.".replace("%", f"{NBSP}%")
    if first["over"] == "tasks":
        runs = "this one run" if first["seeds"] == 1 else f"these {first['seeds']} runs"
        return (
            f"For {runs} of each method only: {text} {sure} It holds for other tasks, not for other seeds: "
            "at least three seeds are needed to speak of the methods."
        )
    return f"{text} {sure} It holds for other seeds and other tasks; {first['seeds']} seeds."


def trained_text(table: pl.DataFrame, environment: str, split: str) -> str:
    """How many of a panel's tasks reinforcement learning knows in another form, from ``trained_tasks``; empty: none."""
    rows = table.filter(pl.col("trained") > 0, environment=environment, split=split)
    return "".join(
        f"{row['trained']} of {row['tasks']} tasks of {split} share room, product or page and goal "
        "with a task of reinforcement learning; demonstrations draw further ones."
        for row in rows.iter_rows(named=True)
    )


def _numbers(rows: Sequence[Row]) -> list[str]:
    """A sentence for each mode: every panel's difference with its interval."""
    sentences = []
    for mode in ("sampled", "greedy"):
        part = [row for row in rows if row["mode"] == mode]
        if part:
            over = f"95{NBSP}% interval for other {part[0]['over'].replace(' and ', ' and other ')}"
            values = "; ".join(f"{_panel(row)} {_difference(row)}" for row in part)
            sentences.append(f"Difference in points of success, {mode} ({over}): {values}.")
    return sentences


def _difference(row: Row) -> str:
    interval = "all alike" if row["low"] is None else f"{points(row['low'])} to {points(row['high'])}"
    return f"{points(row['difference'])} ({interval})"


def _places(rows: Sequence[Row]) -> str:
    return ", ".join(f"{_panel(row)} ({row['mode']})" for row in rows)


def _panel(row: Row) -> str:
    return "all panels together" if row["environment"] == ALL else f"{row['environment']} {row['split']}"


def _alone(method: str, results: pl.DataFrame) -> str:
    rows = results.filter(method=method, mode="sampled").rows(named=True)
    solved = (
        f"{percent(row['success'])} of {row['environment']} {row['split']} (warm start {percent(row['warm_start'])})"
        for row in rows
    )
    seeds = f"{rows[0]['seeds']} seed" + ("" if rows[0]["seeds"] == 1 else "s")
    return f"{method}, sampled, {seeds}, solves {'; '.join(solved)}."


NBSP = "\N{NO-BREAK SPACE}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}{NBSP}%"


def points(share: float) -> str:
    """A signed difference in percentage points."""
    return f"{100 * share:+.1f}".replace("-", "−")
