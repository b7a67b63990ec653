"""The page of a study's experiment in MLflow: its description, its saved views of the table of runs, its addresses.

MLflow's page reads three things that no document of MLflow describes: the tag ``mlflow.experimentKind``, tags
``mlflow.sharedViewState.NAME``, which "Save as new view" writes, and the parts of its addresses. Only this module knows
them. If a release of MLflow changes one, a link opens the plain table of all runs; ``tests/browser/test_mlflow.py``
opens every link in a browser.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from empg.files import read_json

MODEL_TRAINING = "custom_model_development"  # the kind that opens the table of runs, and not a page about GenAI
WORKFLOW = "workflowType=machine_learning"
POLICIES, PREPARATION = "policies", "preparation"  # names of views, in their addresses
SAVED = 1_700_000_000_000  # milliseconds; a view's age means nothing here, and a fixed one changes no tag


class View(NamedTuple):
    """A saved view of the table of runs: its name in addresses, its title, which runs and which columns it has."""

    name: str
    title: str
    runs: str
    columns: tuple[str, ...]

    @property
    def state(self) -> str:
        """What MLflow stores of a view."""
        order = {"orderByKey": "attributes.`Run Name`", "orderByAsc": True}
        state = json.dumps({"searchFilter": self.runs, **order, "selectedColumns": self.columns})
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
            _metrics(panel_metric(split, mode) for mode in ("sampled", "greedy") for split in splits),
        )
        for environment, splits in panels.items()
    ]
    sampled = _metrics(panel_metric(split, "sampled") for splits in panels.values() for split in splits)
    return [
        *own,
        View(POLICIES, "Trained policies", "tags.stage = 'train'", sampled),
        View(PREPARATION, "Warm starts and rollouts", "tags.stage != 'train'", ("tags.`stage`", *sampled)),
    ]


def experiment_tags(study: Path, experiment: str, report: str | None) -> dict[str, str]:
    """The tags of ``study``'s experiment: its kind, its description in Markdown, its views. ``report``: a run's id."""
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
    tags = {"mlflow.note.content": note, "mlflow.experimentKind": MODEL_TRAINING}
    return tags | {f"mlflow.sharedViewState.{view.name}": view.state for view in saved}


def address(experiment: str, view: View) -> str:
    """The table of runs in a view, as a link within MLflow."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={view.name}&{WORKFLOW}&searchFilter={quote(view.runs)}"


def episodes(experiment: str) -> str:
    """All sampled episodes, of any age."""
    return f"#/experiments/{experiment}/traces?startTimeLabel=ALL&{WORKFLOW}"


def page(experiment: str, run: str, artifact: str) -> str:
    """An artifact of a run, shown inside MLflow."""
    return f"#/experiments/{experiment}/runs/{run}/artifacts/{artifact}?{WORKFLOW}"


def _short(view: View) -> str:
    return {POLICIES: "all", PREPARATION: "warm starts"}.get(view.name, view.name)


def _metrics(names: Any) -> tuple[str, ...]:
    return tuple(f"metrics.`{name}`" for name in dict.fromkeys(names))


def _panels(study: Path) -> Iterator[tuple[str, list[str]]]:
    """Each environment that a policy was evaluated in, in the study's order, and its splits."""
    config = study / "config" / "study.json"
    names = read_json(config).get("environments", {}) if config.exists() else {}
    for name in names:
        found = sorted((study / name).rglob("summary.json"))
        yield name, [*read_json(found[0])["panels"]] if found else []
