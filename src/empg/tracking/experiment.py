"""The page of a study's experiment in MLflow: its description and a saved view of its table of runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

from empg.files import read_json

TABLE = "table"  # the saved view's name in addresses
SUCCESS = "success"  # the metric that every policy has
COLUMNS = (f"metrics.`{SUCCESS}`", *(f"tags.`{name}`" for name in ("stage", "env", "method", "seed")))


def experiment_tags(study: Path, experiment: str) -> dict[str, str]:
    """The tags of ``study``'s experiment: its description in Markdown, and the view "Study" of its table of runs."""
    about = read_json(path).get("description", "") if (path := study / "config" / "study.json").exists() else ""
    own = (study.parent.parent / "config" / "study" / f"{study.name}.yaml").exists()
    made = "snakemake --cores all" + (f" --config study={study.name}" if own else "")
    # MLflow shows only the first line of a long description until it is unfolded.
    note = (
        f"Study “{study.name}”: [all runs](#/experiments/{experiment}/runs?viewStateShareKey={TABLE}) with stage, "
        "environment, method, seed and success as columns; "
        f"[episodes](#/experiments/{experiment}/traces?startTimeLabel=ALL) step by step\n\n{about}\n\n"
        "A run for each warm start, each collection of rollouts and each trained policy (with its evaluation), and one "
        f"for the report. Made by `{made}`, logged again by `empg track --results {study}`, checked by "
        f"`empg audit {study}`."
    )
    return {"mlflow.note.content": note, f"mlflow.sharedViewState.{TABLE}": saved_view("Study")}


def saved_view(name: str) -> str:
    """A view of the table with :data:`COLUMNS`, in the format of the tag that MLflow's "Save as new view" stores."""
    now = int(time.time() * 1000)
    state = json.dumps({"selectedColumns": COLUMNS})
    return json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": state})
