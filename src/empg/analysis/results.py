"""A study's results folder as tables in long format, one row per fact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from empg.config import Study
from empg.errors import DataError
from empg.files import read_json
from empg.schema import CREDITED_STEPS, EPISODES, read_parquet, read_table

WARM_START = "warmstart"


@dataclass(frozen=True, slots=True)
class Run:
    """One trained policy, or the warm start of an environment (``method`` :data:`WARM_START`, no seed)."""

    environment: str
    method: str
    seed: int | None
    train: Path
    evaluate: Path

    @property
    def name(self) -> str:
        return f"{self.environment} {self.method}" + ("" if self.seed is None else f" seed {self.seed}")

    @property
    def key(self) -> dict[str, Any]:
        return {"environment": self.environment, "method": self.method, "seed": self.seed}


@dataclass(frozen=True, slots=True)
class Results:
    """The folder ``results/STUDY``, and the study whose grid made it."""

    study: Study
    root: Path

    def warm_start(self, environment: str) -> Run:
        folder = self.root / environment
        return Run(environment, WARM_START, None, folder / "warmstart", folder / "warmstart_evaluate")

    def trained(self) -> list[Run]:
        """Every trained policy, in the order of the study's grid."""
        return [
            Run(environment, method, seed, folder / "train", folder / "evaluate")
            for environment in self.study.environments
            for method in self.study.methods
            for seed in self.study.seeds
            for folder in [self.root / environment / method / f"seed{seed}"]
        ]

    def runs(self) -> list[Run]:
        """Each environment's warm start, then every trained policy."""
        return [*(self.warm_start(name) for name in self.study.environments), *self.trained()]

    def episodes(self) -> pl.DataFrame:
        """Every evaluation episode, with its run's environment, method and seed."""
        return pl.concat(_tagged(read_table(run.evaluate / "episodes.parquet", EPISODES), run) for run in self.runs())

    def task_means(self) -> pl.DataFrame:
        """Every evaluated task: one row for each run, panel and task, with the mean ``success`` of its episodes.

        Episodes of one task depend on each other, so whatever draws or counts tasks starts from these rows.
        """
        key = ["environment", "method", "seed", "split", "mode", "task", "task_type", "cluster", "trained"]
        return self.episodes().group_by(key, maintain_order=True).agg(pl.col("success").mean())

    def panels(self) -> pl.DataFrame:
        """The numbers of every ``summary.json``: one row for each run, split and mode."""
        return pl.DataFrame(list(self._panels()), schema=PANEL)

    def cooled(self) -> pl.DataFrame:
        """The warm starts at the temperature that was best on ``tune`` (:func:`empg.rollouts.evaluate.cool`): one row
        for each environment and split, sampled. Environments without temperatures to choose from have none."""
        rows = []
        for environment in self.study.environments:
            found = read_json(self.warm_start(environment).evaluate / "summary.json").get("cooled")
            for split, numbers in found["panels"].items() if found else ():
                where = {"environment": environment, "split": split, "mode": "sampled"}
                rows.append(where | {"temperature": found["temperature"], **numbers})
        return pl.DataFrame(rows, schema=COOLED)

    def _panels(self) -> Iterator[dict[str, Any]]:
        for run in self.runs():
            path = run.evaluate / "summary.json"
            for split, modes in read_json(path)["panels"].items():
                for mode, numbers in modes.items():
                    yield {
                        **run.key,
                        "split": split,
                        "mode": mode,
                        **{name: numbers[name] for name in PANEL if name in numbers},
                        "source": self.relative(path),
                    }

    def training(self) -> pl.DataFrame:
        """Every training run's metrics: one row for each run and iteration."""
        frames = []
        for run in self.trained():
            path = run.train / "metrics.parquet"
            frame = read_parquet(path)
            frames.append(_tagged(frame, run).with_columns(pl.lit(self.relative(path)).alias("source")))
        return pl.concat(frames, how="diagonal_relaxed")

    def credited(self, run: Run, columns: Sequence[str]) -> pl.DataFrame:
        """These columns of all credited steps of one run, in the order of iterations. Reads no other column.

        Raises :class:`DataError` for a file that is damaged or lacks a column.
        """
        return _tagged(pl.concat(read_parquet(path, columns) for path in self.rollout_files(run)), run)

    def last_rollouts(self, run: Run) -> pl.DataFrame:
        """All credited steps of the last iteration."""
        return read_table(self.rollout_files(run)[-1], CREDITED_STEPS)

    def rollout_files(self, run: Run) -> list[Path]:
        """A run's rollouts, one file per iteration, in order. Raises :class:`DataError` when there is none."""
        files = sorted((run.train / "rollouts").glob("iteration_*.parquet"))
        if not files:
            raise DataError(f"{run.train / 'rollouts'}: expected iteration_*.parquet, found none")
        return files

    def iteration_seconds(self, run: Run) -> list[float | None]:
        """CPU seconds of each iteration of one run; None for those that nobody recorded."""
        seconds: list[float | None] = [sum(i.values()) for i in read_json(run.train / "timing.json")["iterations"]]
        return [None] * (len(self.rollout_files(run)) - len(seconds)) + seconds

    def jobs(self) -> Iterator[tuple[str, Path]]:
        """(stage, folder) of every job that the report rests on. What an earlier grid left behind is none."""
        for name in self.study.environments:
            yield "rollouts", self.root / name / "rollouts"
        for run in self.runs():
            yield (WARM_START if run.seed is None else "train"), run.train
            yield "evaluate", run.evaluate

    def relative(self, path: Path) -> str:
        """A link to ``path`` from the report, which lies in ``report/``."""
        return "../" + path.relative_to(self.root).as_posix()


COOLED: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys(("environment", "split", "mode"), pl.String),
    "temperature": pl.Float64,
    "n": pl.Int64,
    **dict.fromkeys(("success", "success_low", "success_high"), pl.Float64),
}
PANEL: dict[str, pl.DataType | type[pl.DataType]] = {
    "environment": pl.String,
    "method": pl.String,
    "seed": pl.Int64,
    "split": pl.String,
    "mode": pl.String,
    "n": pl.Int64,
    "successes": pl.Int64,
    "success": pl.Float64,
    "success_low": pl.Float64,
    "success_high": pl.Float64,
    "steps_mean": pl.Float64,
    "invalid_rate": pl.Float64,
    "token_entropy_mean": pl.Float64,
    "agent_tokens": pl.Int64,
    "source": pl.String,
}


def _tagged(frame: pl.DataFrame, run: Run) -> pl.DataFrame:
    key = [pl.lit(run.environment).alias("environment"), pl.lit(run.method).alias("method")]
    return frame.select(*key, pl.lit(run.seed, dtype=pl.Int64).alias("seed"), pl.all().exclude("environment", "method"))
