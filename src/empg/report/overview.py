"""The first screen: every difference on one axis, what the study could have shown, and every success."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from empg.analysis.statistics import FEWEST_SEEDS
from empg.analysis.success import PANEL_KEY
from empg.analysis.verdict import points
from empg.config import Study
from empg.report.addresses import episodes_page, run_name

Tables = dict[str, pl.DataFrame]

MOST = 0.5  # the axis ends here at the latest; longer intervals are cut
ROOM = 2.0  # the axis is at most this many times as long as the intervals over tasks
STEPS = (0.01, 0.02, 0.05, 0.1, 0.25)  # between two ticks


def comparisons(study: Study, tables: Tables) -> pl.DataFrame:
    """One row for each mark of the forest plot: panel, ``series`` (decoding, method, seed) and its intervals.

    With few seeds a row is a run and ``low`` to ``high`` its interval over tasks. Otherwise it is the mean over seeds,
    with the interval for other seeds and tasks in ``outer_low`` and ``outer_high``. Values are shares. Pools stand in
    the place of their members, and their rows are means over all their runs.
    """
    single = len(study.seeds) < FEWEST_SEEDS and not study.pools
    means = tables["pools" if study.pools else "results"].drop_nulls("against")
    table = tables["paired_runs"] if single else means
    seed, none = pl.col("seed") if single else pl.lit(None, pl.Int64), pl.lit(None, pl.Float64)
    over = [none if single else pl.col(f"difference_{end}") for end in ("low", "high")]
    low, high = ("low", "high") if single else ("difference_tasks_low", "difference_tasks_high")
    several = table["method"].n_unique() > 1
    parts = [pl.col("mode"), *([pl.col("method")] if several else [])]
    parts += [pl.format("seed {}", "seed")] if single and len(study.seeds) > 1 else []
    order = pl.col("mode").replace_strict({"sampled": 0, "greedy": 1}, default=2, return_dtype=pl.Int64)
    panel = pl.int_range(pl.len()).min().over("environment", "split")
    return table.sort(panel, order, maintain_order=True).select(
        *PANEL_KEY,
        "method",
        "against",
        seed.alias("seed"),
        pl.concat_str(parts, separator=", ").alias("series"),
        "difference",
        pl.col(low).alias("low"),
        pl.col(high).alias("high"),
        over[0].alias("outer_low"),
        over[1].alias("outer_high"),
    )


def axis_limit(shown: pl.DataFrame) -> float:
    """Where the common axis of all comparisons ends, as a share."""
    inner = _largest(shown, "difference", "low", "high")
    longest = max(inner, _largest(shown, "outer_low", "outer_high"))
    return min(MOST, 1.05 * max(0.01, min(longest, ROOM * inner)))


def _largest(shown: pl.DataFrame, *columns: str) -> float:
    return max((abs(float(value)) for name in columns for value in shown[name].drop_nulls()), default=0.0)


def ticks(limit: float) -> list[float]:
    """Round values from ``-limit`` to ``limit``, at most nine."""
    step = next((step for step in STEPS if limit / step < 5), STEPS[-1])
    count = math.floor(limit / step)
    return [i * step for i in range(-count, count + 1)]


def forest(study: Study, tables: Tables) -> dict[str, Any] | None:
    """The forest plot for the template: ticks and, for each environment, its panels with their lines. Places are in
    percent of the axis. None where nothing is compared."""
    shown = comparisons(study, tables)
    if shown.is_empty():
        return None
    limit = axis_limit(shown)
    methods = list(study.methods)
    environments: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in shown.iter_rows(named=True):
        line = _line(row, limit, row["environment"] in study.pools) | {"colour": methods.index(row["method"]) % 8}
        environments.setdefault(row["environment"], {}).setdefault(row["split"], []).append(line)
    return {
        "environments": environments,
        "ticks": [
            {"at": _place(value, limit), "text": f"{100 * value:+.0f}".replace("-", "−").replace("+0", "0")}
            for value in ticks(limit)
        ],
        "against": " or ".join(shown["against"].unique(maintain_order=True)),
        "methods": {name: methods.index(name) % 8 for name in shown["method"].unique(maintain_order=True)},
        "over_seeds": bool(shown["outer_low"].count()),
        "cut": any(line["cut"] for panels in environments.values() for lines in panels.values() for line in lines),
    }


def _line(row: dict[str, Any], limit: float, pooled: bool) -> dict[str, Any]:
    tasks, both = (row["low"], row["high"]), (row["outer_low"], row["outer_high"])
    text = f"{row['environment']} {row['split']}, {row['series']}: {row['method']} minus {row['against']} "
    text += f"{points(row['difference'])} points"
    for (low, high), over in ((tasks, "tasks"), (both, "seeds and tasks")):
        text += "" if low is None else f", {points(low)} to {points(high)} for other {over}"
    low, high = tasks if both[0] is None else both
    return {
        "label": row["series"].partition(", ")[2],  # the dot shows the decoding
        "hollow": row["mode"] == "greedy",
        "difference": points(row["difference"]),
        "interval": "" if low is None else f"{points(low)} to {points(high)}",
        "text": text,
        "at": _place(row["difference"], limit),
        "inner": _ends(tasks, limit),
        "outer": _ends(both, limit),
        "cut": []
        if both[0] is None
        else [end for end, cut in zip(("low", "high"), (both[0] < -limit, both[1] > limit), strict=True) if cut],
        "href": "tables/pools.csv" if pooled else episodes_page(row["environment"], None, row["split"], row["mode"]),
    }


def _ends(interval: tuple[float | None, float | None], limit: float) -> list[float] | None:
    return (
        None
        if interval[0] is None
        else [_place(max(-limit, min(limit, end)), limit) for end in interval if end is not None]
    )


def _place(value: float, limit: float) -> float:
    return round(50 + 50 * value / limit, 2)


def could_detect(table: pl.DataFrame) -> str:
    """One sentence on the smallest difference that the study could have shown, from the table ``detectable``."""
    if table.is_empty():
        return ""
    (over,) = table["over"].unique()
    parts = []
    for mode in ("sampled", "greedy"):
        values = [100 * value for value in table.filter(mode=mode)["detectable"]]
        if values:
            low, high = f"{min(values):.1f}", f"{max(values):.1f}"
            parts.append(f"{low if low == high else f'{low} to {high}'} points {mode}")
    least = (
        "at best, for these policies on other tasks: the spread between seeds is not in it" if over == "tasks" else ""
    )
    return f"{' and '.join(parts)}{', ' if least else ''}{least}"


def numbers(study: Study, names: dict[str, str], tables: Tables) -> list[dict[str, Any]]:
    """The table of success: one row for each panel, one cell for each policy, each number with its episodes' page.

    ``names`` maps the title of a method to its name in addresses. With few seeds a cell lists the runs with their
    intervals over tasks, otherwise it has the mean with its interval over seeds.
    """
    rows = []
    panels = tables["panels"]
    for key, results in tables["results"].group_by(PANEL_KEY, maintain_order=True):
        environment, split, mode = map(str, key)
        own = panels.filter(environment=environment, split=split, mode=mode)
        cells = []
        for method in ["warmstart", *study.methods]:
            runs = own.filter(method=method).to_dicts()
            pages = [
                episodes_page(environment, run_name(names.get(method, method), run["seed"]), split, mode)
                for run in runs
            ]
            if method != "warmstart" and len(runs) >= FEWEST_SEEDS:
                (row,) = results.filter(method=method).to_dicts()
                page = episodes_page(environment, None, split, mode)
                entries = [(row["success"], row["low"], row["high"], page, "")]
            else:
                entries = [
                    (run["success"], run["success_low"], run["success_high"], page, _seed(run, len(runs)))
                    for run, page in zip(runs, pages, strict=True)
                ]
            cells.append(
                [dict(zip(("success", "low", "high", "page", "label"), entry, strict=True)) for entry in entries]
            )
        rows.append(
            {"environment": environment, "split": split, "mode": mode, "cells": cells, "tasks": results["tasks"][0]}
        )
    return rows


def _seed(run: dict[str, Any], runs: int) -> str:
    return f"seed {run['seed']}" if runs > 1 else ""
