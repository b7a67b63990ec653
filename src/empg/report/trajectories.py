"""Trajectory pages: a declared sample of a run's last training episodes, step by step, with their credit."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import numpy as np
import polars as pl
from jinja2 import Environment
from markupsafe import Markup

from empg.analysis.results import Results, Run
from empg.seeding import derive_seed

EPISODES = 40  # at most, per page
SIZE = 600_000  # characters per page at most, roughly
MARKUP = 700  # characters of markup around a step, roughly

_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)


def page_name(environment: str, method: str, seed: int | None) -> str:
    """The file name of a run's page. It is unique, because names contain no hyphen."""
    return f"{environment}-{method}-seed{seed}.html"


def sample(rollouts: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The steps of a sample of episodes: whole groups in random order up to :data:`EPISODES` and :data:`SIZE`.

    The last group may be cut. Rows are sorted by group, trajectory and step.
    """
    size = pl.col("observation").str.len_chars() + pl.col("text").str.len_chars() + MARKUP
    episodes = rollouts.group_by("group", "trajectory", maintain_order=True).agg(size.sum().alias("size"))
    groups = episodes["group"].unique(maintain_order=True)
    order = np.random.default_rng(seed).permutation(len(groups))
    drawn = pl.DataFrame({"group": groups[order]}).join(episodes, on="group", maintain_order="left_right")
    taken = drawn.head(EPISODES).filter(pl.col("size").cum_sum() <= SIZE)["trajectory"]
    return rollouts.filter(pl.col("trajectory").is_in(taken.implode())).sort("group", "trajectory", "step")


def render(results: Results, run: Run, templates: Environment) -> str:
    """The page of a run as HTML."""
    rollouts = results.last_rollouts(run)
    steps = sample(rollouts, derive_seed("trajectories", run.name))
    largest, highest = _largest(steps["advantage"]), _largest(steps["step_entropy"])
    groups = [
        {
            "task": part["task"][0],
            "type": part["task_type"][0],
            "episodes": [
                _episode(rows, largest, highest) for _, rows in part.group_by("trajectory", maintain_order=True)
            ],
        }
        for _, part in steps.group_by("group", maintain_order=True)
    ]
    script = str(templates.get_template("trajectories.js").render())
    return templates.get_template("trajectories.html.j2").render(
        study=results.study,
        run=run,
        method=results.study.methods[run.method],
        groups=groups,
        iteration=rollouts["iteration"][0],
        source="../" + results.relative(results.rollout_files(run)[-1]),
        shown=steps["trajectory"].n_unique(),
        played=rollouts["trajectory"].n_unique(),
        types=sorted(steps["task_type"].unique()),
        script=Markup(script),  # noqa: S704 - a file of ours, without values
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _largest(column: pl.Series) -> float:
    """The largest absolute value, or 1 if all are 0 or missing."""
    return max((abs(value) for value in column.drop_nulls()), default=0.0) or 1.0


def _episode(rows: pl.DataFrame, largest: float, highest: float) -> dict[str, Any]:
    """One episode for the template.

    ``shade`` shows the advantage and ``height`` the entropy, in percent of the page's largest value. ``height`` takes
    the square root, so that one outlier does not flatten the rest.
    """
    first = rows.row(0, named=True)
    return {
        "trajectory": first["trajectory"],
        "type": first["task_type"],
        "solved": first["reward"] == 1.0,
        "stop_reason": first["stop_reason"].replace("_", " "),
        "trained": first["trained"],
        "outcome_advantage": first["outcome_advantage"],
        "invalid": int(rows["invalid"].sum()),
        "steps": [_step(step, largest, highest) for step in rows.iter_rows(named=True)],
    }


def _step(step: dict[str, Any], largest: float, highest: float) -> dict[str, Any]:
    thought = _THOUGHT.search(step["text"])
    kept = ("step", "observation", "action", "invalid", "truncated", "step_entropy", "gradient_scale", "clarity_bonus")
    return {name: step[name] for name in (*kept, "advantage")} | {
        "thought": thought[1] if thought else step["text"],
        "shade": round(100 * abs(step["advantage"] or 0.0) / largest),
        "sign": "none" if step["advantage"] is None else "minus" if step["advantage"] < 0 else "plus",
        "height": round(100 * ((step["step_entropy"] or 0.0) / highest) ** 0.5),
    }
