"""What a reader must know before reading the results: one function for each rule, with its threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from empg.analysis.contrasts import ALL
from empg.analysis.results import WARM_START, Results, Run
from empg.analysis.statistics import FEWEST_SEEDS
from empg.analysis.success import PANEL_KEY
from empg.analysis.verdict import percent, points
from empg.config import Study
from empg.files import read_json

ENOUGH_SEEDS = 5  # with fewer, an interval over seeds hangs on one or two of them
OUTLIER_POINTS = 0.10  # a run this far from the others of its method ...
OUTLIER_ERRORS = 3.0  # ... and this many standard errors of tasks alone
RUN_SCHEMA = {
    "run": pl.String,
    "stage": pl.String,
    "processes": pl.Int64,
    "processor": pl.String,
    "known": pl.Boolean,
}


class Notice(NamedTuple):
    """``kind`` names the rule, ``title`` says it in a few words, ``details`` where it applies."""

    kind: str
    title: str
    details: tuple[str, ...] = ()


def find_warnings(results: Results, study: Study, tables: dict[str, pl.DataFrame]) -> list[Notice]:
    """All warnings of a study. ``study`` and ``tables`` may name methods as people call them."""
    made = jobs(results, dict(zip(results.study.methods, study.methods, strict=True)))
    found = [
        few_seeds(min(tables["verdict"].filter("primary")["seeds"].to_list(), default=len(study.seeds))),
        outliers(tables["panels"].join(tables["results"].select(*PANEL_KEY, "tasks").unique(), on=PANEL_KEY)),
        greedy(tables["verdict"], tables["paired_runs"]),
        resumed(made),
        processors(made),
    ]
    return [warning for warning in found if warning is not None]


def jobs(results: Results, names: dict[str, str]) -> pl.DataFrame:
    """Every job of the study: run, stage, processes that worked on it, processor, and whether its cost is ``known``.

    ``names`` says what each method is called.
    """
    rows = []
    for run in results.runs():
        for stage, folder in (("training", run.train), ("evaluation", run.evaluate)):
            timing = read_json(folder / "timing.json")
            known = stage == "evaluation" or run.seed is None or None not in results.iteration_seconds(run)
            rows.append({"run": run_title(run, names), "stage": stage, **timing, "known": known})
    return pl.DataFrame([{name: row.get(name) for name in RUN_SCHEMA} for row in rows], schema=RUN_SCHEMA)


def run_title(run: Run, names: dict[str, str]) -> str:
    """A run as people call it: ``alfworld GRPO + EMPG, seed 1``."""
    if run.method == WARM_START:
        return f"{run.environment} warm start"
    return f"{run.environment} {names.get(run.method, run.method)}, seed {run.seed}"


def few_seeds(seeds: int) -> Notice | None:
    """Fewer than :data:`ENOUGH_SEEDS` seeds a method."""
    if seeds >= ENOUGH_SEEDS:
        return None
    if seeds >= FEWEST_SEEDS:
        return Notice("seeds", f"{seeds} seeds a method: intervals over seeds are wide and depend on single runs.")
    count = "One seed" if seeds == 1 else f"{seeds} seeds"
    return Notice(
        "seeds",
        f"{count} a method: runs are shown one by one. An interval is for other tasks and these policies; "
        "another seed may give another sign.",
    )


def outliers(panels: pl.DataFrame) -> Notice | None:
    """Runs that differ from the other seeds of their method by at least :data:`OUTLIER_POINTS` and more than tasks
    explain: by :data:`OUTLIER_ERRORS` standard errors of both shares."""
    details = []
    for key, part in panels.drop_nulls("seed").group_by(*PANEL_KEY, "method", maintain_order=True):
        rows = part.sort("seed").to_dicts()
        far = [row for row in rows if _is_far(row, [other for other in rows if other is not row])]
        if far:
            values = ", ".join(f"seed {row['seed']} {percent(row['success'])}" for row in rows)
            environment, split, mode, method = key
            details.append(f"{environment} {split}, {mode}, {method}: {values}")
    if not details:
        return None
    return Notice("outliers", "Runs of one method differ by more than their tasks explain.", tuple(details))


def _is_far(row: dict[str, Any], others: Sequence[dict[str, Any]]) -> bool:
    if not others:
        return False
    mean = sum(other["success"] for other in others) / len(others)
    variance = _variance(row) + sum(map(_variance, others)) / len(others) ** 2
    apart = abs(row["success"] - mean)
    return bool(apart >= OUTLIER_POINTS and apart > OUTLIER_ERRORS * variance**0.5)


def _variance(row: dict[str, Any]) -> float:
    """Variance of a share of tasks, with one success and one failure added so that it is never 0. Plays of one task
    depend on each other, so a task counts once."""
    share = (row["success"] * row["tasks"] + 1) / (row["tasks"] + 2)
    return float(share * (1 - share) / row["tasks"])


def greedy(verdict: pl.DataFrame, paired_runs: pl.DataFrame) -> Notice | None:
    """Greedy differences whose own interval excludes 0; with few seeds those of single runs, for other tasks."""
    rows = paired_runs
    if (verdict["seeds"] >= FEWEST_SEEDS).any():
        rows = verdict.filter(pl.col("environment") != ALL).with_columns(seed=pl.lit(None))
    excluding = rows.filter(pl.col("mode") == "greedy", (pl.col("low") > 0) | (pl.col("high") < 0))
    details = []
    for row in excluding.iter_rows(named=True):
        run = "" if row["seed"] is None else f", seed {row['seed']}"
        place = f"{row['environment']} {row['split']}, {row['method']} minus {row['against']}{run}"
        interval = f"{points(row['low'])} to {points(row['high'])}"
        details.append(f"{place}: {points(row['difference'])} points ({interval})")
    if not details:
        return None
    over = "other tasks" if rows is paired_runs else "other seeds and tasks"
    title = f"Greedy success differs where an interval for {over} excludes 0, taken alone among many."
    return Notice("greedy", title, tuple(details))


def resumed(made: pl.DataFrame) -> Notice | None:
    """Jobs that more than one process worked on, and jobs whose cost nobody recorded in full."""
    several = made.filter(pl.col("processes") > 1)
    details = [f"{row['run']}, {row['stage']}: {row['processes']} processes" for row in several.to_dicts()]
    details += [
        f"{row['run']}, {row['stage']}: cost partly unknown" for row in made.filter(~pl.col("known")).to_dicts()
    ]
    if not details:
        return None
    return Notice("resumed", "Jobs were stopped and resumed. Their costs are sums over processes.", tuple(details))


def processors(made: pl.DataFrame) -> Notice:
    """The processors of the jobs. Always given: rounding, and with it every weight, depends on them."""
    found = made["processor"].fill_null("unknown").unique().sort().to_list()
    if len(found) > 1:
        title = "Jobs ran on different processors, so runs differ by rounding as well."
        return Notice("processor", title, tuple(found))
    return Notice(
        "processor",
        f"Processor: {found[0]}. Other kinds round differently: there, the same study was seen to give other "
        "weights and success that differs by several points.",
    )
