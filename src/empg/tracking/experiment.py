"""The page of a study's experiment in MLflow: its description, its saved views of the table of runs, its addresses.

MLflow's page reads two things that no document of MLflow describes: tags ``mlflow.sharedViewState.NAME``, which "Save
as new view" writes, and the parts of its addresses. Only this module knows them. If a release of MLflow changes one, a
link opens the plain table of all runs; ``tests/browser/test_mlflow.py`` opens the links in a browser.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from empg.files import read_json

WORKFLOW = "workflowType=machine_learning"  # without it MLflow opens a page about GenAI
POLICIES, PREPARATION = "policies", "preparation"  # names of views, in their addresses
TAGS = ("method", "seed")  # the end of a long run's name is cut
SAVED = 1_700_000_000_000  # milliseconds; a view's age means nothing here, and a fixed one changes no tag


class View(NamedTuple):
    """A saved view of the table of runs: its name in addresses, its title, which runs and which metrics it has."""

    name: str
    title: str
    runs: str
    metrics: tuple[str, ...]

    @property
    def state(self) -> str:
        """What MLflow stores of a view."""
        order = {"orderByKey": "tags.`mlflow.runName`", "orderByAsc": True}
        columns = [f"metrics.`{name}`" for name in self.metrics] + [f"tags.`{name}`" for name in TAGS]
        state = json.dumps({"searchFilter": self.runs, **order, "selectedColumns": columns})
        return json.dumps({"name": self.title, "createdAt": SAVED, "updatedAt": SAVED, "state": state})


def panel_metric(split: str, mode: str) -> str:
    """The metric that holds the success of a panel. The sampled mode's is the split's name, to fit a column's head."""
    return split if mode == "sampled" else f"{split}_{mode}"


def views(study: Path) -> list[View]:
    """The trained policies of each environment, those of all together, and what they start from."""
    panels = dict(_panels(study))
    own = [
        View(
            environment,
            f"{environment}: trained policies",
            f"tags.stage = 'train' AND tags.env = '{environment}'",
            tuple(panel_metric(split, mode) for mode in ("sampled", "greedy") for split in splits),
        )
        for environment, splits in panels.items()
    ]
    sampled = tuple(dict.fromkeys(panel_metric(split, "sampled") for splits in panels.values() for split in splits))
    return [
        *own,
        View(POLICIES, "Trained policies", "tags.stage = 'train'", sampled),
        View(PREPARATION, "Warm starts and rollouts", "tags.stage != 'train'", sampled),
    ]


def experiment_tags(study: Path, experiment: str, report: str | None) -> dict[str, str]:
    """The tags of ``study``'s experiment: its description in Markdown and its views. ``report`` is a run's id."""
    about = read_json(path).get("description", "") if (path := study / "config" / "study.json").exists() else ""
    own = (study.parent.parent / "config" / "study" / f"{study.name}.yaml").exists()
    made = "snakemake --cores all" + (f" --config study={study.name}" if own else "")
    saved = views(study)
    *environments, policies, preparation = [f"[{_short(view)}]({address(experiment, view)})" for view in saved]
    links = [" · ".join(["Policies", *environments, policies]), preparation, f"[episodes]({episodes(experiment)})"]
    if report:
        links.append(f"[report]({page(experiment, report, 'report.html')})")
    # MLflow shows only the first line of a long description until it is unfolded.
    note = (
        f"{' | '.join(links)}\n\n{about}\n\n"
        "A run for each warm start, each collection of rollouts and each trained policy (with its evaluation), and one "
        f"for the report. Made by `{made}`, logged again by `empg track --results {study}`, checked by "
        f"`empg audit {study}`."
    )
    return {"mlflow.note.content": note} | {f"mlflow.sharedViewState.{view.name}": view.state for view in saved}


def address(experiment: str, view: View) -> str:
    """The table of runs in a view, as a link within MLflow."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={view.name}&{WORKFLOW}"


def episodes(experiment: str) -> str:
    """All sampled episodes, of any age."""
    return f"#/experiments/{experiment}/traces?startTimeLabel=ALL&{WORKFLOW}"


def page(experiment: str, run: str, artifact: str) -> str:
    """An artifact of a run, shown inside MLflow."""
    return f"#/experiments/{experiment}/runs/{run}/artifacts/{artifact}?{WORKFLOW}"


def _short(view: View) -> str:
    return {POLICIES: "all", PREPARATION: "warm starts"}.get(view.name, view.name)


def _panels(study: Path) -> Iterator[tuple[str, list[str]]]:
    """Each environment that a policy was evaluated in, in the study's order, and its splits."""
    config = study / "config" / "study.json"
    names = read_json(config).get("environments", {}) if config.exists() else {}
    for name in names:
        found = sorted((study / name).rglob("*evaluate/summary.json"))
        yield name, [*read_json(found[0])["panels"]] if found else []
