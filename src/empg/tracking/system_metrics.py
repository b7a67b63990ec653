"""System metrics of a stage: MLflow's monitor samples them while the stage runs, and a file beside its log keeps them.

No result holds these numbers, so a rebuilt database takes them from that file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from empg.files import atomic_path
from empg.schema import read_parquet

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

PREFIX = "system/"
SECONDS = 10  # between samples, which are about the whole machine and not one job
COLUMNS = {"key": pl.String, "step": pl.Int64, "timestamp": pl.Int64, "value": pl.Float64}  # timestamp: milliseconds


def start_monitor(run: Run, uri: str) -> Callable[[], None]:
    """Start sampling; a resumed run goes on after its last sample. Returns what stops it and waits for the end."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor: Any = SystemMetricsMonitor
    running = monitor(run.info.run_id, sampling_interval=SECONDS, resume_logging=True, tracking_uri=uri)
    running.start()
    return cast(Callable[[], None], running.finish)


def system_history(client: MlflowClient, run_id: str) -> list[Metric]:
    """Every sample that MLflow has of a run."""
    keys = [key for key in client.get_run(run_id).data.metrics if key.startswith(PREFIX)]
    return [metric for key in keys for metric in client.get_metric_history(run_id, key)]


def save(metrics: list[Metric], path: Path) -> None:
    """Write samples to a Parquet file, one row each."""
    rows = [(metric.key, metric.step, metric.timestamp, metric.value) for metric in metrics]
    with atomic_path(path) as temporary:
        pl.DataFrame(rows, schema=COLUMNS, orient="row").write_parquet(temporary, compression="zstd")


def load(path: Path) -> list[Metric]:
    """The samples that :func:`save` wrote; none where there is no file."""
    from mlflow.entities import Metric

    if not path.exists():
        return []
    rows = read_parquet(path).select(*COLUMNS).iter_rows()
    return [Metric(key, value, timestamp, step) for key, step, timestamp, value in rows]
