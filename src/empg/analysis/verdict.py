"""The verdict on each method in sentences, which claim no more than the intervals show."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import polars as pl

from empg.config import Study


def verdict(study: Study, results: pl.DataFrame) -> list[str]:
    """One sentence per method: what its intervals show about sampled success, and the numbers of every panel.

    Methods that are shown to be better come last.
    """
    sampled = results.filter(mode="sampled")
    sentences: list[tuple[int, str]] = []
    for method in study.methods:
        rows = sampled.filter(method=method).rows(named=True)
        if (against := study.compared_with(method)) is not None:
            panels = "; ".join(f"{row['environment']} {row['split']} {_difference(row)}" for row in rows)
            numbers = f"{_seeds(rows)}, difference in points of success, sampled: {panels}."
            sentences.append((len(_shown_better(rows)), f"{conclusion(rows, method, against)} {numbers}"))
        elif len(study.methods) == 1:
            solved = (
                f"{percent(row['success'])} of {row['environment']} {row['split']} (warm start "
                f"{percent(row['warm_start'])})"
                for row in rows
            )
            sentences.append((0, f"{method}, sampled, {_seeds(rows)}, solves {'; '.join(solved)}."))
    return [text for _, text in sorted(sentences, key=itemgetter(0))]


def _shown_better(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The panels where both intervals are above 0."""
    return [
        row
        for row in rows
        if row["difference_seeds_low"] is not None and min(row["difference_seeds_low"], row["difference_tasks_low"]) > 0
    ]


def _difference(row: dict[str, Any]) -> str:
    tasks = f"{points(row['difference_tasks_low'])} to {points(row['difference_tasks_high'])} for other tasks"
    if row["difference_seeds_low"] is None:
        return f"{points(row['difference'])} (95\N{NO-BREAK SPACE}% interval {tasks})"
    seeds = f"{points(row['difference_seeds_low'])} to {points(row['difference_seeds_high'])} for other seeds"
    return f"{points(row['difference'])} (95\N{NO-BREAK SPACE}% interval {seeds}, {tasks})"


def conclusion(rows: Sequence[dict[str, Any]], method: str, against: str) -> str:
    """The claim that the intervals allow. A difference counts as shown if both intervals, seeds and tasks, exclude 0.

    ``rows`` are the rows of ``method`` in the table of results, one per panel.
    """
    if any(row["difference_seeds_low"] is None for row in rows):
        seeds = f"only {_seeds(rows)}" if rows[0]["seeds"] > 1 else "one seed"
        return f"With {seeds} a method, no difference between {method} and {against} can be shown."
    better = _shown_better(rows)
    worse = [row for row in rows if max(row["difference_seeds_high"], row["difference_tasks_high"]) < 0]
    shown = [f"{word} {against} on {_panels(part)}" for word, part in (("beats", better), ("loses to", worse)) if part]
    if not shown:
        return f"{method} is not shown to be better or worse than {against} on {_any_of(len(rows))}."
    rest = len(rows) - len(better) - len(worse)
    undecided = f"; on the other {rest} an interval includes 0" if rest else ""
    return f"{method} {' and '.join(shown)}{undecided}."


def _panels(rows: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{row['environment']} {row['split']}" for row in rows)


def _seeds(rows: Sequence[dict[str, Any]]) -> str:
    return _plural(rows[0]["seeds"], "seed")


def percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def points(share: float) -> str:
    """A signed difference in percentage points."""
    return f"{100 * share:+.1f}".replace("-", "−")


def _any_of(panels: int) -> str:
    return "the one panel" if panels == 1 else f"any of {panels} panels"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
