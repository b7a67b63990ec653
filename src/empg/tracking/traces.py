"""A declared sample of a run's last training episodes as MLflow traces: one span per step, with its credit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from empg.schema import CREDIT, CREDITED_STEPS, read_table
from empg.seeding import derive_seed
from empg.tracking.database import uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EACH = 3  # solved episodes per run, and as many unsolved ones; logging one costs 0.1 s
MILLISECOND = 1_000_000  # a step's length in the timeline, in nanoseconds; steps have no times of their own


def log_sample(client: MlflowClient, experiment: str, root: Path, run: Run, train: Path) -> dict[str, float]:
    """Log :data:`EACH` solved and as many unsolved episodes of the last iteration. The run's name seeds the draw.

    MLflow writes them in the background. Returns the reward of each trace, for :func:`log_rewards`.
    """
    import mlflow

    files = sorted((train / "rollouts").glob("iteration_*.parquet"))
    if not files:
        return {}
    delete_traces(client, experiment, run)  # an attempt that was killed may have left some
    mlflow.set_tracking_uri(uri(root))
    rollouts = read_table(files[-1], CREDITED_STEPS)
    start = time.time_ns()  # now, since MLflow's page shows the last seven days only, however old the results are
    random = np.random.default_rng(derive_seed("traces", run.info.run_name))
    rewards: dict[str, float] = {}
    for solved in (True, False):
        numbers = (
            rollouts.filter((pl.col("reward") == 1.0) == solved)["trajectory"].unique(maintain_order=True).to_numpy()
        )
        for number in random.permutation(numbers)[:EACH]:
            rewards[_log(experiment, run, rollouts.filter(trajectory=number), start)] = float(solved)
    return rewards


def log_rewards(rewards: dict[str, float]) -> None:
    """Wait until all traces are written (about a second for any number of them), then attach their rewards."""
    import mlflow

    mlflow.flush_trace_async_logging()
    for trace, reward in rewards.items():
        mlflow.log_feedback(trace_id=trace, name="reward", value=reward)


def trace_ids(client: MlflowClient, experiment: str, run: Run) -> list[str]:
    """The traces of a run."""
    query = f"metadata.`mlflow.sourceRun` = '{run.info.run_id}'"
    found = client.search_traces(locations=[experiment], filter_string=query, max_results=500, include_spans=False)
    return [trace.info.trace_id for trace in found]


def delete_traces(client: MlflowClient, experiment: str, run: Run) -> None:
    """Delete a run's traces."""
    if traces := trace_ids(client, experiment, run):
        client.delete_traces(experiment, trace_ids=traces)


def delete_strays(client: MlflowClient, experiment: str, runs: set[str]) -> None:
    """Delete traces of none of ``runs``: a trace has no run yet if its process is killed while writing it."""
    strays, token = [], None
    while True:
        page = client.search_traces(locations=[experiment], max_results=500, include_spans=False, page_token=token)
        strays += [t.info.trace_id for t in page if t.info.trace_metadata.get("mlflow.sourceRun") not in runs]
        token = page.token
        if not token:
            break
    for first in range(0, len(strays), 100):  # MLflow deletes no more than 100 at once
        client.delete_traces(experiment, trace_ids=strays[first : first + 100])


def _log(experiment: str, run: Run, steps: pl.DataFrame, start: int) -> str:
    """Log one episode and return the id of its trace."""
    from mlflow.entities import SpanType
    from mlflow.tracing.fluent import start_span_no_context

    first: dict[str, Any] = steps.row(0, named=True)
    about = {key: first[key] for key in ("iteration", "group", "trajectory", "split", "task", "task_type", "seed")}
    root = start_span_no_context(
        f"{first['task_type']} {'solved' if first['reward'] == 1.0 else first['stop_reason']}",
        span_type=SpanType.AGENT,
        inputs={"task": f"{first['task_type']}, {first['split']} {first['task']}", "observation": first["observation"]},
        attributes=about,
        tags={key: run.data.tags[key] for key in ("env", "method", "seed")},
        metadata={"mlflow.sourceRun": run.info.run_id},
        experiment_id=experiment,
        start_time_ns=start,
    )
    for number, step in enumerate(steps.iter_rows(named=True)):
        span = start_span_no_context(
            f"{number}: {step['action']}",
            span_type=SpanType.LLM,
            parent_span=root,
            inputs={"observation": step["observation"]},
            attributes={key: step[key] for key in (*CREDIT, "invalid", "truncated")},
            start_time_ns=start + number * MILLISECOND,
        )
        span.set_outputs({"text": step["text"], "action": step["action"]})
        span.end(end_time_ns=start + (number + 1) * MILLISECOND)
    root.set_outputs({"reward": first["reward"], "stop_reason": first["stop_reason"]})
    root.end(end_time_ns=start + len(steps) * MILLISECOND)
    return str(root.trace_id)
