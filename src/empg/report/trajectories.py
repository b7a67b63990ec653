"""Trajectory pages: the episodes of a run's last training iteration, step by step, with their credit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
from jinja2 import Environment
from markupsafe import Markup

from empg.analysis.results import Results, Run
from empg.report.addresses import episode_anchor
from empg.report.listing import drawn_first, page_parts
from empg.report.panels import marked_text, step_views
from empg.report.tokens import MarkedText

NOTHING = 1e-9  # an advantage below this moves nothing


def render(results: Results, run: Run, templates: Environment) -> str:
    """The page of a run as HTML."""
    rollouts = results.last_rollouts(run).sort("group", "trajectory", "step")
    settings = results.study.methods[run.method].in_environment(results.study.environments[run.environment].zeta)
    groups = list(_groups(rollouts, marked_text(results, run)))
    episodes = [episode for group in groups for episode in group["episodes"]]
    body = templates.get_template("steps.html.j2")
    bodies = [body.render(steps=episode.pop("steps"), credited=True).strip() for episode in episodes]
    plain = drawn_first([episode["group"] for episode in episodes], run.name)
    for i, episode in enumerate(episodes):
        episode["body"] = Markup(bodies[i]) if i in plain else ""  # escaped by its own template
    return templates.get_template("trajectories.html.j2").render(
        study=results.study,
        run=run,
        method=settings,
        terms=settings.modulation_settings(),
        groups=groups,
        iteration=rollouts["iteration"][0],
        source="../" + results.relative(results.rollout_files(run)[-1]),
        played=len(episodes),
        plain=len(plain),
        types=sorted(rollouts["task_type"].unique()),
        endings=sorted({episode["ended"] for episode in episodes}),
        **page_parts(templates, bodies),
    )


def _groups(rollouts: pl.DataFrame, mark: MarkedText) -> Iterator[dict[str, Any]]:
    """Each group for the template: its task, its episodes, and ``moved``, what training does with it.

    ``moved`` is ``left out`` (dynamic sampling), ``unequal`` (the rewards differ) or, where no episode did better than
    another, ``nothing``, ``alike`` (every step has the same advantage) or ``bonus`` (only the modulation tells steps
    apart).
    """
    largest, highest = _largest(rollouts["advantage"]), _largest(rollouts["step_entropy"])
    for _, part in rollouts.group_by("group", maintain_order=True):
        first, advantages = part.row(0, named=True), part["advantage"].drop_nulls()
        if not first["trained"]:
            moved = "left out"
        elif _largest(part["outcome_advantage"], 0.0) > NOTHING:
            moved = "unequal"
        elif _largest(advantages, 0.0) <= NOTHING:
            moved = "nothing"
        else:
            moved = "bonus" if float(advantages.max() - advantages.min()) > NOTHING else "alike"  # type: ignore[operator, arg-type]
        episodes = [
            _episode(rows, place, mark, (largest, highest))
            for place, (_, rows) in enumerate(part.group_by("trajectory", maintain_order=True))
        ]
        yield {"task": first["task"], "type": first["task_type"], "moved": moved, "episodes": episodes}


def _largest(column: pl.Series, otherwise: float = 1.0) -> float:
    """The largest absolute value, or ``otherwise`` if all are 0 or missing."""
    return max((abs(value) for value in column.drop_nulls()), default=0.0) or otherwise


def _episode(rows: pl.DataFrame, place: int, mark: MarkedText, scales: tuple[float, float]) -> dict[str, Any]:
    """One episode for the template; ``place`` is that in its group.

    ``shade`` shows a step's advantage and ``height`` its entropy, in percent of the page's largest value (``scales``).
    ``height`` takes the square root, so that one outlier does not flatten the rest.
    """
    first = rows.row(0, named=True)
    largest, highest = scales
    steps = [
        step
        | {
            "shade": round(100 * abs(step["advantage"] or 0.0) / largest),
            "sign": "none" if step["advantage"] is None else "minus" if step["advantage"] < 0 else "plus",
            "height": round(100 * ((step["step_entropy"] or 0.0) / highest) ** 0.5),
        }
        for step in step_views(rows, mark)
    ]
    return {
        "anchor": episode_anchor(first["task"], place),
        "group": first["group"],
        "type": first["task_type"],
        "solved": first["reward"] == 1.0,
        "ended": first["stop_reason"].replace("_", " "),
        "trained": first["trained"],
        "outcome_advantage": first["outcome_advantage"],
        "invalid": int(rows["invalid"].sum()),
        "strip": [(step["sign"], step["shade"], step["height"]) for step in steps],
        "steps": steps,
    }
