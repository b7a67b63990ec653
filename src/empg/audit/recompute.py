"""Recomputes the numbers in each stage's files from the rows behind them, with the functions that made them.

Losses, gradient norms and the KL estimate are left out: they need the weights of their iteration, not only rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from empg.config import Study, TrainRun, parse
from empg.errors import DataError
from empg.files import read_json
from empg.schema import CREDIT, CREDITED_STEPS, DIFFICULTY, EPISODES, EVALUATED_STEPS, STEPS, read_parquet, read_table


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers by name, as ``file`` records them and as ``rows`` give them. ``recomputed`` is None if rows cannot."""

    what: str
    file: Path
    rows: str
    recorded: Mapping[str, Any]
    recomputed: Mapping[str, Any] | None
    tolerance: float = 0.0  # absolute or relative; 0: equal to the last bit


def evaluation(folder: Path, manifest: dict[str, Any]) -> Iterator[Numbers]:
    """Every episode's row from the steps that were kept of it, and every number of each panel from these rows."""
    from empg.rollouts.evaluate import GIVING, episodes_of, summarise

    path, summary = folder / "episodes.parquet", folder / "summary.json"
    episodes = read_table(path, EPISODES)
    steps = read_table(folder / "steps.parquet", EVALUATED_STEPS, GIVING)
    played, kept = (_episode_cells(rows) for rows in (episodes.filter(pl.col("steps") > 0), episodes_of(steps)))
    what = f"success, steps, entropy and ending of {len(episodes)} episodes"
    yield Numbers(what, path, f"{len(steps)} rows of steps.parquet", played, kept)
    panels, again = read_json(summary)["panels"], summarise(episodes)
    for split in dict.fromkeys([*panels, *again]):
        for mode in dict.fromkeys([*panels.get(split, {}), *again.get(split, {})]):
            recorded, recomputed = (_flat(source.get(split, {}).get(mode, {})) for source in (panels, again))
            count = len(episodes.filter(split=split, mode=mode))
            rows = f"{count} rows of {path.name} where split = {split}, mode = {mode}"
            what = f"{split}/{mode}: success {recorded.get('success')} and {len(recorded) - 1} more numbers"
            yield Numbers(what, summary, rows, recorded, recomputed)


def training(folder: Path, manifest: dict[str, Any]) -> Iterator[Numbers]:
    """The last iteration's advantages from its rewards and token entropies, and its metrics from both."""
    from empg.rollouts.table import from_table
    from empg.training.credit import credit_batch
    from empg.training.metrics import batch_metrics

    config = parse(TrainRun, manifest["config"], str(folder / "manifest.json"))
    files = sorted((folder / "rollouts").glob("iteration_*.parquet"))
    if not files:
        raise DataError(f"{folder / 'rollouts'}: expected iteration_*.parquet, found none")
    path, steps = files[-1], read_table(files[-1], CREDITED_STEPS)
    trained = steps.filter("trained")
    if config.method.entropy != "shannon":
        what = f"advantages and metrics: the rows hold Shannon entropies, the method has {config.method.entropy}"
        yield Numbers(what, path, f"{len(trained)} rows of rollouts/{path.name}", {}, None)
        return
    kept, dropped = (from_table(part, config.environment) for part in (trained, steps.filter(~pl.col("trained"))))
    credited = credit_batch(kept, config.method, config.sampling.max_response, config.train.reward)
    columns, rows = credited.columns(), f"{len(trained)} rows of rollouts/{path.name} where trained"
    tolerance = 0.0 if config.train.reward == "success" else FLOAT32  # outcomes are 0 and 1
    for name in (name for name in CREDIT if name != "trained"):
        recorded, again = ({f"row {i}": value for i, value in enumerate(frame[name])} for frame in (trained, columns))
        yield Numbers(f"{name} of every step", path, rows, recorded, again, tolerance)
    history = read_parquet(folder / "metrics.parquet").row(-1, named=True)
    metrics = {name: value for name, value in batch_metrics(kept, dropped, credited).items() if name in history}
    score, rows = {"score_mean": metrics.pop("score_mean", None)}, f"{len(steps)} rows of rollouts/{path.name}"
    recorded = {name: history[name] for name in metrics}
    what = f"iteration {history['iteration']}: success {history['success']} and {len(metrics) - 1} more metrics"
    yield Numbers(what, folder / "metrics.parquet", rows, recorded, metrics, tolerance)
    recorded = {"score_mean": history.get("score_mean")}
    yield Numbers("its mean score", folder / "metrics.parquet", rows, recorded, score, FLOAT32)


def collection(folder: Path, manifest: dict[str, Any]) -> Iterator[Numbers]:
    """The difficulty of tasks from the episodes of the collection."""
    from empg.rollouts.collect import difficulty_table
    from empg.rollouts.table import from_table

    path, file = folder / "rollouts.parquet", folder / "difficulty.parquet"
    steps = read_table(path, STEPS)
    recorded = read_table(file, DIFFICULTY)
    again = difficulty_table(from_table(steps, manifest["config"]["environment"]))
    old, new = ({f"task {row['task']}": row for row in table.iter_rows(named=True)} for table in (recorded, again))
    yield Numbers(f"difficulty of {len(recorded)} tasks", file, f"{len(steps)} rows of {path.name}", old, new)


def tables(folder: Path, manifest: dict[str, Any]) -> Iterator[Numbers]:
    """The report's numbers: success of each policy from its summary, and of each method as the mean over its seeds.

    Every number of the tables ``results``, ``verdict`` and ``aggregates``, with intervals, comes from the episodes.
    """
    from empg.analysis.aggregates import aggregate_table
    from empg.analysis.contrasts import verdict_table
    from empg.analysis.results import Results
    from empg.analysis.success import result_table

    study = parse(Study, manifest["config"], str(folder / "manifest.json"))
    results = Results(study, folder.parent)
    path, panels = folder / "tables" / "panels.parquet", results.panels()
    rows = f"the summary.json files of {panels['source'].n_unique()} policies"
    recorded, again = (
        {" ".join(map(str, key)): success for *key, success in frame.select(*POLICY, "success").iter_rows()}
        for frame in (read_parquet(path), panels)
    )
    yield Numbers(f"success of {len(panels)} panels", path, rows, recorded, again)
    means = panels.drop_nulls("seed").group_by(*METHOD, maintain_order=True).agg(pl.col("success").mean())
    written = _flat(read_json(folder / "metrics.json"))
    again = {".".join(key) + ".success": success for *key, success in means.iter_rows()}
    recorded = {name: written.get(name) for name in again}
    what = f"success of {len(means)} methods' panels, each the mean over its seeds"
    yield Numbers(what, folder / "metrics.json", rows, recorded, again, 1e-12)
    tasks = results.task_means()
    rows = f"{len(tasks)} tasks of the episodes.parquet files"
    for name, table in (
        ("verdict", verdict_table(study, tasks)),
        ("results", result_table(study, panels, tasks)),
        ("aggregates", aggregate_table(study, tasks)),
    ):
        path = folder / "tables" / f"{name}.parquet"
        recorded, again = map(_cells, (read_parquet(path), table))
        yield Numbers(f"{len(again)} numbers of the table {name}", path, rows, recorded, again, 1e-9)


POLICY = ("environment", "method", "seed", "split", "mode")
METHOD = ("environment", "split", "mode", "method")
FLOAT32 = 1e-6  # scores are stored as float32, with about seven digits
RECOMPUTED: dict[str, Callable[[Path, dict[str, Any]], Iterator[Numbers]]] = {
    "evaluate": evaluation,
    "train": training,
    "rollouts": collection,
    "report": tables,
}


def _episode_cells(episodes: pl.DataFrame) -> dict[str, Any]:
    """Every value of a table of episodes that their steps give, named by its episode and column."""
    return {
        f"{row['split']}/{row['mode']} task {row['task']} episode {row['episode']}: {column}": value
        for row in episodes.drop("cluster", "trained", "metrics", strict=False).iter_rows(named=True)
        for column, value in row.items()
        if column not in ("split", "mode", "task", "episode")
    }


def _cells(table: pl.DataFrame) -> dict[str, Any]:
    """Every number of a table of methods, named by its row and column."""
    return {
        f"{' '.join(row[key] for key in METHOD)} {column}": value
        for row in table.iter_rows(named=True)
        for column, value in row.items()
        if column not in METHOD
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
    return flat
