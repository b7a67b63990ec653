"""The runs of a study in MLflow, in an SQLite database beside the results.

The database never holds the only copy of a result: :func:`~empg.tracking.rebuild.rebuild` makes every run from the
results folder, or completes the runs that :func:`~empg.tracking.live.live` began. Rebuilding twice changes nothing.
Tags identify a run by study, stage, environment, method and seed, so a stage that resumes or repeats finds its run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empg.files import read_json
from empg.locks import locked
from empg.pipeline.commands import command, data_set
from empg.provenance import json_digest
from empg.report.addresses import run_name
from empg.tracking.database import DATABASE, connect, create
from empg.tracking.experiment import experiment_tags
from empg.tracking.traces import delete_traces

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run

ARTIFACTS = "mlartifacts"
MILLISECONDS_A_STEP = 1000  # a metric's time is its run's start plus this per step, whenever it is logged

Metrics = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Identity:
    """What identifies a run in its study. Stages that all methods share have no ``method`` and no ``seed``."""

    stage: str
    environment: str = ""
    method: str = ""
    seed: int | None = None

    @classmethod
    def of(cls, stage: str, config: Mapping[str, Any]) -> Identity:
        """The identity of a stage with this resolved configuration."""
        if stage == "train":
            return cls(stage, config["environment"], config["method_name"], config["seed"])
        return cls(stage, config.get("environment", ""))

    @property
    def tags(self) -> dict[str, str]:
        seed = "" if self.seed is None else str(self.seed)
        return {"stage": self.stage, "env": self.environment, "method": self.method, "seed": seed}

    @property
    def folder(self) -> str:
        """The folder of its stage's results, relative to the study's folder."""
        place = f"{self.method}/seed{self.seed}/train" if self.stage == "train" else self.stage
        return f"{self.environment}/{place}" if self.environment else place

    @property
    def name(self) -> str:
        """The name of its run and of its model: ``alfworld-grpo_empg-seed1``, ``alfworld-warmstart``, ``report``."""
        if self.stage == "train":
            return f"{self.environment}-{run_name(self.method, self.seed)}"
        return f"{self.environment}-{self.stage}" if self.environment else self.stage


class Tracker:
    """The runs of one study. ``study`` is its folder, results/STUDY."""

    def __init__(self, study: Path) -> None:
        self.study, self.root = study, study.parent
        create(self.root)
        self.client = connect(self.root)
        with locked(self.root / f".{DATABASE}.lock"):
            self.experiment = self._experiment()
        self.describe_study()

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.study.name)
        if found is not None:
            if found.lifecycle_stage == "deleted":  # on MLflow's page; the results are still there
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        location = (self.root / ARTIFACTS / self.study.name).resolve().as_uri()
        return str(self.client.create_experiment(self.study.name, location))

    def describe_study(self) -> None:
        """Give the experiment its description and its saved views."""
        report = self.find(Identity("report"))
        wanted = experiment_tags(self.study, self.experiment, report.info.run_id if report else None)
        there = self.client.get_experiment(self.experiment).tags
        for key, value in wanted.items():
            if there.get(key) != value:
                self.client.set_experiment_tag(self.experiment, key, value)

    def find(self, identity: Identity) -> Run | None:
        """The run of this identity; None where there is none."""
        query = " and ".join(f"tags.{key} = '{value}'" for key, value in identity.tags.items())
        runs = self.client.search_runs([self.experiment], query, max_results=1)
        return runs[0] if runs else None

    def begin(self, identity: Identity, config: Mapping[str, Any], *, start: int | None = None) -> Run:
        """Create a run with its parameters, description and data set. ``start`` is in milliseconds, now if omitted."""
        tags = {**identity.tags, "study": self.study.name, "config": json_digest(config)}
        start = int(time.time() * 1000) if start is None else start
        run = self.client.create_run(self.experiment, start_time=start, tags=tags, run_name=identity.name)
        self.describe(run, identity, config)
        return run

    def describe(self, run: Run, identity: Identity, config: Mapping[str, Any], commit: str | None = None) -> None:
        """Log what is known before a run begins: parameters, description, data set. Repeating it changes nothing."""
        from mlflow.entities import Param, RunTag

        folder, run_id = f"{self.study}/{identity.folder}", run.info.run_id
        place = folder.removesuffix("/train")
        data = data_set(self.study, identity.environment) if identity.environment else ""
        note = (
            f"{DESCRIPTIONS[identity.stage]}\n\nMade by `{command(self.study, identity.folder, data)}`\n\n"
            f"Checked by `empg audit {place}`"
        )
        tags = {
            "mlflow.note.content": note,
            "mlflow.source.name": f"empg {identity.stage}",
            "mlflow.source.type": "LOCAL",
            "folder": folder,
        }
        if commit:
            tags["mlflow.source.git.commit"] = commit
        params = [Param(key, value[:6000]) for key, value in flatten(config).items()]
        self.client.log_batch(run_id, params=params, tags=[RunTag(key, value) for key, value in tags.items()])
        if data:
            self._log_dataset(run, data)

    def resume(self, identity: Identity, config: Mapping[str, Any]) -> Run:
        """The run to continue. A run that is finished or has other settings is replaced; MLflow keeps it as deleted."""
        run = self.find(identity)
        if run is not None and (run.info.status == "FINISHED" or run.data.tags["config"] != json_digest(config)):
            self.delete(run)
            run = None
        if run is None:
            return self.begin(identity, config)
        self.client.update_run(run.info.run_id, status="RUNNING")
        return run

    def system_file(self, identity: Identity) -> Path:
        """The file of a stage's system metrics: beside its log, because no result depends on them."""
        return self.study / "logs" / f"{identity.folder}.system.parquet"

    def delete(self, run: Run) -> None:
        """Delete a run with its traces and models."""
        delete_traces(self.client, self.experiment, run)
        for model in self.models(run):
            self.client.delete_logged_model(model.model_id)
        self.client.delete_run(run.info.run_id)

    def models(self, run: Run) -> list[LoggedModel]:
        """The models that a run logged, including unfinished ones."""
        found = self.client.search_logged_models([self.experiment], f"source_run_id = '{run.info.run_id}'")
        return list(found)

    def _log_dataset(self, run: Run, name: str) -> None:
        """Log the task data under DVC's hash."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        path = self.root / "data" / f"{name}.json"
        if not path.exists():
            return
        identity = read_json(path)
        profile = {key: identity[key] for key in ("size", "nfiles") if key in identity}
        source = json.dumps({"uri": identity["path"]})
        dataset = Dataset(name, identity["md5"], "local", source, profile=json.dumps(profile))
        tag = InputTag("mlflow.data.context", "tasks")
        self.client.log_inputs(run.info.run_id, [DatasetInput(dataset, [tag])])


DESCRIPTIONS = {
    "warmstart": "A policy that imitates expert demonstrations; every training run starts from it.",
    "rollouts": "Groups of episodes sampled from the warm start: the difficulty of tasks and the first batch.",
    "train": "A policy trained with reinforcement learning from the warm start, and its evaluation.",
    "report": "The study's report, its tables and its figures.",
}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Every setting as text, by its dotted name."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat
