"""Rebuilds a study in MLflow from its results folder: every run with its curves, evaluation, model and files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from empg.config import STAGES
from empg.errors import DataError
from empg.files import file_digest, read_json
from empg.pipeline.origin import commit
from empg.provenance import json_digest
from empg.report.addresses import trajectories_page
from empg.schema import read_parquet
from empg.sources import source_hashes
from empg.timing import timed
from empg.tracking.database import clear_errors, set_aside_if_damaged
from empg.tracking.embedded import write_embedded
from empg.tracking.experiment import panel_metric
from empg.tracking.models import log_policy
from empg.tracking.system_metrics import PREFIX, load, system_history
from empg.tracking.traces import delete_strays, log_rewards, log_sample
from empg.tracking.tracker import MILLISECONDS_A_STEP, Identity, Tracker

if TYPE_CHECKING:
    from mlflow.entities import Run

Points = dict[tuple[str, int], float]  # (metric, step) → value


class Written(NamedTuple):
    """A run that is logged but not closed: its end (milliseconds), its files' digest, the reward of each trace."""

    run: str
    end: int
    stamp: str
    rewards: dict[str, float]


class Logbook:
    """Writes a study's results folder into the study's experiment."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.client, self.study = tracker, tracker.client, tracker.study
        self.sources = json_digest(source_hashes(STAGES["track"].module))  # new code logs all again

    def write(self, progress: Callable[[int, int], None]) -> None:
        """Log what is missing and drop what is outdated. Calls ``progress(runs done, runs in all)``.

        Raises :class:`DataError` when no stage has finished.
        """
        stages = [*self._stages()]
        if not stages:
            raise DataError(f"{self.study}: expected the results of a study, found no finished stage")
        written = []
        for i, (identity, folders) in enumerate(stages):
            progress(i, len(stages))
            if done := self._write_run(identity, folders):
                written.append(done)
        if rewards := {trace: reward for done in written for trace, reward in done.rewards.items()}:
            log_rewards(rewards)
        for done in written:
            self.client.set_terminated(done.run, "FINISHED", done.end)
            self.client.set_tag(done.run, "manifest", done.stamp)  # last, as the sign that the run is complete
        self._drop_others({identity for identity, _ in stages})

    def _stages(self) -> Iterator[tuple[Identity, list[Path]]]:
        """Each run's identity and folders: the stage's, then that of the policy's evaluation once it is finished."""
        for path in sorted(self.study.rglob("manifest.json")):
            manifest, folder = read_json(path), path.parent
            if manifest["stage"] in ("warmstart", "rollouts", "train", "report"):
                evaluation = folder.parent / {"train": "evaluate"}.get(manifest["stage"], f"{folder.name}_evaluate")
                found = [evaluation] if (evaluation / "manifest.json").exists() else []
                yield Identity.of(manifest["stage"], manifest["config"]), [folder, *found]

    def _write_run(self, identity: Identity, folders: list[Path]) -> Written | None:
        """Log everything of a run that is missing; None when nothing is missing."""
        manifest = read_json(folders[0] / "manifest.json")
        pages = self._pages(identity, folders[0])
        manifests = [read_json(folder / "manifest.json") for folder in folders]
        stamp = json_digest([self.sources, manifests, {page.name: file_digest(page) for page in pages}])
        points = self._points(identity, folders)
        run = self.tracker.find(identity)
        if run is not None and run.data.tags.get("manifest") == stamp:
            return None
        if run is not None and not (
            run.data.tags["config"] == json_digest(manifest["config"]) and self._agrees(run, points)
        ):
            self.tracker.delete(run)
            run = None
        end = int((folders[0] / "manifest.json").stat().st_mtime * 1000)
        timing = read_json(folders[0] / "timing.json")
        if run is None:
            start = end - int(timing["wall_seconds"] * 1000)
            run = self.tracker.begin(identity, manifest["config"], start=start)
        self.client.set_tag(run.info.run_id, "processes", timing.get("processes", 1))
        self.tracker.describe(run, identity, manifest["config"], commit(folders[0]))
        self._log_missing(run, points)
        self._log_system(run, identity)
        self._log_files(run, identity, folders, pages)
        rewards: dict[str, float] = {}
        for evaluation in folders[1:]:
            log_policy(self.tracker, run, folders[0], evaluation)
            rewards |= log_sample(self.client, self.tracker.experiment, self.tracker.root, run, evaluation)
        return Written(run.info.run_id, max(end, run.info.start_time), stamp, rewards)

    def _points(self, identity: Identity, folders: list[Path]) -> Points:
        """Every metric in the run's files: the curves and summary of the stage, and its policy's evaluation."""
        points: Points = {}
        curves = folders[0] / "metrics.parquet"
        if curves.exists():
            for row in read_parquet(curves).iter_rows(named=True):
                step = int(row.pop("iteration", row.get("step", 0)))
                row.pop("step", None)
                points |= {(f"{identity.stage}/{key}", step): float(v) for key, v in row.items() if v is not None}
        if identity.stage == "rollouts":
            summary = read_json(folders[0] / "manifest.json")["summary"]
            points |= {(f"rollouts/{key}", 0): float(value) for key, value in summary.items()}
        for folder in folders[1:]:
            warm = folder.parent if identity.stage == "warmstart" else folder.parents[2]
            points |= evaluation_points(folder, warm / "warmstart_evaluate")
        return points

    def _agrees(self, run: Run, points: Points) -> bool:
        """Whether the files contain every metric that MLflow holds of this run, with the same value."""
        return all(points.get(key) == value for key, value in self._stored(run).items())

    def _stored(self, run: Run) -> Points:
        keys = [key for key in run.data.metrics if not key.startswith(PREFIX)]
        history = (metric for key in keys for metric in self.client.get_metric_history(run.info.run_id, key))
        return {(metric.key, metric.step): metric.value for metric in history}

    def _log_missing(self, run: Run, points: Points) -> None:
        from mlflow.entities import Metric

        stored, start = self._stored(run), run.info.start_time
        missing = [
            Metric(key, value, start + MILLISECONDS_A_STEP * step, step)
            for (key, step), value in points.items()
            if (key, step) not in stored
        ]
        for first in range(0, len(missing), 1000):
            self.client.log_batch(run.info.run_id, metrics=missing[first : first + 1000])

    def _log_system(self, run: Run, identity: Identity) -> None:
        """Log the system metrics that were sampled while the stage ran, if MLflow has lost them."""
        metrics = load(self.tracker.system_file(identity))
        if metrics and not system_history(self.client, run.info.run_id):
            for first in range(0, len(metrics), 1000):
                self.client.log_batch(run.info.run_id, metrics=metrics[first : first + 1000])

    def _pages(self, identity: Identity, folder: Path) -> list[Path]:
        """The stage's HTML pages and the trained policy's last training episodes, which MLflow shows inline."""
        page = self.study / "report" / trajectories_page(identity.environment, identity.method, identity.seed)
        return [*sorted(folder.glob("*.html")), *([page] if page.exists() else [])]

    def _log_files(self, run: Run, identity: Identity, folders: list[Path], pages: list[Path]) -> None:
        """Log the run's pages and the small files that describe it; for the report, all its files."""
        names = ("manifest.json", "timing.json", "summary.json", "metrics.parquet", "metrics.json")
        for folder, place in zip(folders, (None, "evaluation"), strict=False):
            for path in (folder / name for name in names):
                if path.exists():
                    self.client.log_artifact(run.info.run_id, str(path), place)
        with tempfile.TemporaryDirectory() as temporary:
            for page in pages:
                self.client.log_artifact(run.info.run_id, str(write_embedded(page, Path(temporary))))
        if identity.stage == "report":
            for name in ("tables", "figures"):
                self.client.log_artifacts(run.info.run_id, str(folders[0] / name), name)

    def _drop_others(self, identities: set[Identity]) -> None:
        """Delete finished runs without results: those of methods and seeds that the study no longer has."""
        names, kept = {identity.name for identity in identities}, set()
        for run in self.client.search_runs([self.tracker.experiment], max_results=10_000):
            if run.info.status == "FINISHED" and run.info.run_name not in names:
                self.tracker.delete(run)
            else:
                kept.add(run.info.run_id)
        delete_strays(self.client, self.tracker.experiment, kept)


def evaluation_points(folder: Path, warm_start: Path) -> Points:
    """The numbers of an evaluation as ``SPLIT/MODE/NUMBER``, and each panel's success under its own short name.

    ``lift`` is the success minus the warm start's.
    """
    numbers = ("success_low", "success_high", "steps_mean", "invalid_rate", "token_entropy_mean")
    base: Any = read_json(warm_start / "summary.json")["panels"] if (warm_start / "summary.json").exists() else {}
    points: Points = {}
    for split, modes in read_json(folder / "summary.json")["panels"].items():
        for mode, panel in modes.items():
            values = {name: panel[name] for name in numbers}
            if folder != warm_start and split in base:
                values["lift"] = panel["success"] - base[split][mode]["success"]
            points[panel_metric(split, mode), 0] = float(panel["success"])
            points |= {(f"{split}/{mode}/{name}", 0): float(v) for name, v in values.items() if v is not None}
    return points


def rebuild(study: Path, *, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Make MLflow show what lies in ``study`` (results/STUDY), and nothing else of that study.

    Calls ``progress(runs done, runs in all)``. Raises :class:`DataError` when no stage has finished.
    """
    report = study / "report" / "manifest.json"
    digest = file_digest(report) if report.exists() else ""
    set_aside_if_damaged(study.parent)
    with timed("track", study / ".track", digest, study / "track.timing.json"), clear_errors(study.parent):
        tracker = Tracker(study)
        Logbook(tracker).write(progress)
        tracker.describe_study()  # again, now that the report has a run
