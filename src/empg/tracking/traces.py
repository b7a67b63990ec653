"""A declared sample of each policy's evaluation episodes as MLflow traces: one span per step.

The sample is the same for all policies of a study: tasks of each panel, drawn by the panel's name and never by an
outcome. So the mean reward of a panel's traces estimates its success, and policies can be compared task by task.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from empg.report.addresses import episode_anchor, episodes_page, run_name
from empg.schema import EPISODES, EVALUATED_STEPS, read_table
from empg.seeding import derive_seed
from empg.tracking.database import uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EACH = 3  # episodes of each panel and policy; logging one costs 0.1 s
MILLISECOND = 1_000_000  # a step's length in the timeline, in nanoseconds; steps have no times of their own
SECOND = 1000 * MILLISECOND
SOURCE_RUN = "mlflow.sourceRun"  # the metadata that ties a trace to its run


def log_sample(client: MlflowClient, experiment: str, root: Path, run: Run, evaluation: Path) -> dict[str, float]:
    """Log :data:`EACH` evaluation episodes of each panel. MLflow writes them in the background.

    Returns the reward of each trace, for :func:`log_rewards`.
    """
    import mlflow

    delete_traces(client, experiment, run)  # an attempt that was killed may have left some
    mlflow.set_tracking_uri(uri(root))
    # Now, since MLflow's page shows the last seven days only, however old the results are. It lists the latest first.
    start = time.time_ns()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about its code; a warning that is an error would lose the trace
        return {
            _log(experiment, run, episode, steps, start - place * SECOND): float(episode["success"])
            for place, (episode, steps) in enumerate(sample(evaluation, run.data.tags["env"]))
        }


def sample(evaluation: Path, environment: str) -> Iterator[tuple[dict[str, Any], pl.DataFrame]]:
    """Each drawn episode, a row of :data:`~empg.schema.EPISODES`, and its rows of EVALUATED_STEPS, panel by panel."""
    episodes = read_table(evaluation / "episodes.parquet", EPISODES)
    steps = read_table(evaluation / "steps.parquet", EVALUATED_STEPS)
    for (split, mode), panel in episodes.filter(episode=0).group_by("split", "mode", maintain_order=True):
        # Without the mode: both play the same tasks.
        random = np.random.default_rng(derive_seed("traces", environment, split))
        for task in random.permutation(np.sort(panel["task"].unique().to_numpy()))[:EACH]:
            key = {"split": split, "mode": mode, "task": int(task), "episode": 0}
            yield panel.filter(**key).row(0, named=True), steps.filter(**key)


def log_rewards(rewards: dict[str, float]) -> None:
    """Wait until all traces are written (about a second for any number of them), then attach their rewards."""
    import mlflow

    mlflow.flush_trace_async_logging()
    for trace, reward in rewards.items():
        mlflow.log_feedback(trace_id=trace, name="reward", value=reward)


def trace_ids(client: MlflowClient, experiment: str, run: Run) -> list[str]:
    """The traces of a run."""
    query = f"metadata.`{SOURCE_RUN}` = '{run.info.run_id}'"
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
        strays += [t.info.trace_id for t in page if t.info.trace_metadata.get(SOURCE_RUN) not in runs]
        token = page.token
        if not token:
            break
    for first in range(0, len(strays), 100):  # MLflow deletes no more than 100 at once
        client.delete_traces(experiment, trace_ids=strays[first : first + 100])


def _log(experiment: str, run: Run, episode: dict[str, Any], steps: pl.DataFrame, start: int) -> str:
    """Log one episode and return the id of its trace."""
    import mlflow
    from mlflow.entities import SpanType

    tags, split, mode, task = run.data.tags, episode["split"], episode["mode"], episode["task"]
    name = f"{split} {mode} task {task}"
    seed = int(tags["seed"]) if tags["seed"] else None
    page = episodes_page(tags["env"], run_name(tags["method"] or "warmstart", seed), split, mode)
    about: dict[str, Any] = {key: value for key, value in episode.items() if key not in ("metrics", "success")}
    numbers = {metric["name"]: metric["value"] for metric in episode["metrics"]}
    root = mlflow.start_span_no_context(
        name,
        span_type=SpanType.AGENT,
        inputs=f"{name}: {episode['task_type']}",
        attributes=about | numbers | {"report": f"{page}#{episode_anchor(task, episode['episode'])}"},
        tags={"panel": f"{split} {mode}", "task": str(task)} | {key: tags[key] for key in ("env", "method", "seed")},
        metadata={SOURCE_RUN: run.info.run_id},
        experiment_id=experiment,
        start_time_ns=start,
    )
    for number, step in enumerate(steps.iter_rows(named=True)):
        entropies = step["entropies"]
        about = {
            "mean_entropy": sum(entropies) / len(entropies) if entropies else None,
            "entropies": [round(value, 3) for value in entropies],
            "invalid": step["invalid"],
            "truncated": step["truncated"],
        }
        span = mlflow.start_span_no_context(
            f"{number}: {step['action'] or 'no action'}",
            span_type=SpanType.LLM,
            parent_span=root,
            inputs={"observation": step["observation"]},
            attributes=about,
            start_time_ns=start + number * MILLISECOND,
        )
        span.set_outputs({"text": step["text"], "action": step["action"]})
        span.end(end_time_ns=start + (number + 1) * MILLISECOND)
    ended = "solved" if episode["success"] else episode["stop_reason"]
    root.set_outputs(f"{ended}, {episode['steps']} steps, score {episode['score']:g}")
    root.end(end_time_ns=start + max(1, len(steps)) * MILLISECOND)
    return str(root.trace_id)
