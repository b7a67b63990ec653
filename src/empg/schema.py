"""The tables on disk: one declared schema each, validated on write and on read. Parquet through Polars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from empg.errors import DataError
from empg.files import atomic_path

Schema = dict[str, pl.DataType | type[pl.DataType]]

# One row is one step of a trajectory.
STEPS: Schema = {
    "iteration": pl.Int32,
    "group": pl.Int32,
    "trajectory": pl.Int32,
    "step": pl.Int32,
    "split": pl.String,
    "task": pl.Int64,
    "task_type": pl.String,
    "seed": pl.Int64,  # of the trajectory's own random numbers
    "policy_version": pl.Int32,  # updates that the sampling policy had seen
    "observation": pl.String,
    "text": pl.String,
    "action": pl.String,  # null: the text holds no action
    "invalid": pl.Boolean,
    "truncated": pl.Boolean,
    "prompt_ids": pl.List(pl.Int32),  # what the conversation gained before the response
    "response_ids": pl.List(pl.Int32),
    "logprobs": pl.List(pl.Float32),
    "entropies": pl.List(pl.Float32),  # nats
    "reward": pl.Float32,  # of the whole trajectory
    "score": pl.Float32,  # of the whole trajectory: the environment's dense score
    "stop_reason": pl.String,
}

# Columns that a table has only where there is something to say.
OPTIONAL: Schema = {
    "sampler_logprobs": pl.List(pl.Float32),  # as the engine reported them that sampled in the policy's place
}

# A step after crediting; null where nothing was computed. Of token-level modulation: the means over the step's tokens.
CREDIT: Schema = {
    "trained": pl.Boolean,  # false: dropped by dynamic sampling
    "step_entropy": pl.Float32,  # nats; of the kind that the method modulates with
    "outcome_advantage": pl.Float32,
    "normalised_entropy": pl.Float32,
    "gradient_scale": pl.Float32,
    "clarity_bonus": pl.Float32,
    "advantage": pl.Float32,  # what every token of the step is trained with
}

CREDITED_STEPS: Schema = STEPS | CREDIT

# One row is one task of the rollout stage's collection.
DIFFICULTY: Schema = {
    "split": pl.String,
    "task": pl.Int64,
    "task_type": pl.String,
    "attempts": pl.Int32,
    "successes": pl.Int32,
}

# One row is one evaluation episode.
EPISODES: Schema = {
    "split": pl.String,
    "mode": pl.String,  # greedy or sampled
    "task": pl.Int64,
    "episode": pl.Int32,  # 0, 1, …: which play of this task; greedy plays each task once
    "task_type": pl.String,
    "cluster": pl.String,  # tasks of one cluster share a room, a product, …; empty: nothing known
    "trained": pl.Boolean,  # a training task shares cluster and goal; null: neither is known
    "success": pl.Boolean,
    "score": pl.Float32,
    "metrics": pl.List(pl.Struct({"name": pl.String, "value": pl.Float64})),  # the environment's own, by name
    "steps": pl.Int32,
    "invalid_steps": pl.Int32,
    "agent_tokens": pl.Int32,
    "mean_entropy": pl.Float32,  # nats, over the episode's agent tokens
    "stop_reason": pl.String,
}

# A step of an evaluation episode. ``group`` is the task's place in its panel, ``trajectory`` the episode's row in the
# table of episodes; ``iteration`` and ``policy_version`` are 0.
EVALUATED_STEPS: Schema = {"mode": pl.String, "episode": pl.Int32, **STEPS}


def write_table(frame: pl.DataFrame, schema: Schema, path: Path) -> None:
    """Write a table atomically. Raises :class:`DataError` when the frame is not of the schema."""
    _check(frame.schema, schema, path)
    with atomic_path(path) as temporary:
        frame.write_parquet(temporary, compression="zstd", statistics=False)


def read_table(path: Path, schema: Schema, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a table, or only some of its columns.

    Raises :class:`DataError` when the file is missing, damaged or of another schema.
    """
    with _whole(path):
        found = pl.read_parquet_schema(path)
    _check(found, schema, path)
    return read_parquet(path, columns)


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a table whose schema the caller knows otherwise, or only some of its columns.

    Raises :class:`DataError` when the file is missing or damaged or lacks a column.
    """
    with _whole(path):
        return pl.read_parquet(path, columns=None if columns is None else list(columns), hive_partitioning=False)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Polars panics, with an exception that is no ``Exception``, on some damaged files (seen with 2.1)."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: expected a Parquet file, found none") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{path}: expected a whole Parquet file, found {error}") from None


def _check(found: Mapping[str, pl.DataType], schema: Schema, path: Path) -> None:
    expected = pl.Schema(schema)
    for name, dtype in expected.items():
        if found.get(name) != dtype:
            raise DataError(f"{path}: column {name}: expected {dtype}, found {found.get(name, 'none')}")
    if extra := [name for name in found if name not in expected and OPTIONAL.get(name) != found[name]]:
        raise DataError(f"{path}: expected columns {', '.join(expected)}, found also {', '.join(extra)}")
