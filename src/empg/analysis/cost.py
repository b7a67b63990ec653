"""What a study cost, from the timing files of its stages."""

from __future__ import annotations

from typing import Any

import polars as pl

from empg.analysis.results import WARM_START, Results
from empg.files import read_json


def cost(results: Results) -> pl.DataFrame:
    """Jobs, CPU seconds and wall seconds of each stage. One row per stage, in the order of the pipeline."""
    rows = [
        {"stage": stage, "cpu_seconds": float(t["cpu_seconds"]), "wall_seconds": float(t["wall_seconds"])}
        for stage, folder in results.jobs()
        if (path := folder / "timing.json").exists() and (t := read_json(path))
    ]
    frame = pl.DataFrame(rows, schema={"stage": pl.String, "cpu_seconds": pl.Float64, "wall_seconds": pl.Float64})
    summed = frame.group_by("stage").agg(
        pl.len().alias("jobs"), pl.col("cpu_seconds").sum(), pl.col("wall_seconds").sum()
    )
    order = [WARM_START, "rollouts", "train", "evaluate"]
    return summed.sort(pl.col("stage").replace_strict(order, range(len(order)), default=len(order)))


def cost_by_part(results: Results) -> pl.DataFrame:
    """CPU seconds of each trained run by part: collect, update, write, rest, evaluate. One row per run and part.

    The parts of a training are null where nobody recorded an iteration: the others would read as a cheap run.
    """
    rows: list[dict[str, Any]] = []
    for run in results.trained():
        train, evaluate = (read_json(folder / "timing.json") for folder in (run.train, run.evaluate))
        parts: dict[str, float | None] = dict.fromkeys(("collect", "update", "write", "rest"))
        if None not in results.iteration_seconds(run):
            recorded = {part: sum(i[part] for i in train["iterations"]) for part in ("collect", "update", "write")}
            parts = recorded | {"rest": max(0.0, train["cpu_seconds"] - sum(recorded.values()))}
        parts["evaluate"] = float(evaluate["cpu_seconds"])
        rows += ({**run.key, "part": part, "cpu_seconds": seconds} for part, seconds in parts.items())
    return pl.DataFrame(rows, schema_overrides={"cpu_seconds": pl.Float64})
