"""Trials of a search as runs in MLflow: an experiment ``tune_STUDY`` with a run for each trial."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from empg.tracking.database import connect, create

KEY = ("environment", "method", "trial")


def log_trials(results: Path, study: str, trials: pl.DataFrame) -> None:
    """Log the trials that MLflow lacks. Params are the searched settings, metrics the success on ``tune``.

    ``trials`` has the columns environment, method, trial, state, sampled, greedy, seconds and one for each setting.
    """
    from mlflow.entities import Metric, Param

    create(results)
    client, name = connect(results), f"tune_{study}"
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    runs = client.search_runs([experiment], max_results=10_000)
    there = {tuple(run.data.tags[key] for key in KEY) for run in runs}
    for row in trials.iter_rows(named=True):
        tags = {key: str(row[key]) for key in KEY}
        if tuple(tags.values()) in there:
            continue
        run = client.create_run(
            experiment,
            tags=tags | {"state": row["state"]},
            run_name=f"{row['environment']}-{row['method']}-{row['trial']}",
        )
        settings = [Param(key, str(value)) for key, value in row.items() if "." in key and value is not None]
        numbers = [Metric(key, row[key], 0, 0) for key in ("sampled", "greedy", "seconds") if row[key] is not None]
        client.log_batch(run.info.run_id, params=settings, metrics=numbers)
        client.set_terminated(run.info.run_id, "FINISHED")
