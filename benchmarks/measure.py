"""How the benchmarks measure: CPU seconds of this process, one thread, the compared sides in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from empg.config import DataSet, Study
from empg.pipeline.job_files import read_study
from empg.rollouts.episodes import Trajectory
from empg.rollouts.table import from_table

Seconds = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table: what was measured, ours, what it is compared with, and the ratio.

    ``target`` bounds the ratio: from below, or from above where ``at_most``.
    """

    what: str
    ours: str
    other: str
    ratio: float
    target: float | None = None
    at_most: bool = False

    @property
    def holds(self) -> bool:
        """Whether the ratio meets its target; true without one."""
        return self.target is None or (self.ratio <= self.target if self.at_most else self.ratio >= self.target)


@dataclass(frozen=True, slots=True)
class DefaultStudy:
    """The default study and its finished results, which give policies and recorded conversations."""

    study: Study
    data_sets: Mapping[str, DataSet]
    results: Path
    data: Path

    @classmethod
    def read(cls, results: Path, data: Path) -> DefaultStudy:
        """Read ``config/``. Raises ``SystemExit`` where a run is not finished."""
        study, data_sets = read_study(Path("config"), None)
        found = cls(study, data_sets, results, data)
        for environment in study.environments:
            manifest = found.run(environment) / "manifest.json"
            if not manifest.exists():
                raise SystemExit(f"{manifest}: expected the finished default study, found none: `make run` makes it")
        return found

    def model(self, environment: str) -> Path:
        """The folder of the warm start."""
        return self.results / environment / "warmstart" / "model"

    def run(self, environment: str) -> Path:
        """The training of the baseline with the first seed."""
        return self.results / environment / self.study.baseline / f"seed{self.study.seeds[0]}" / "train"

    def batches(self, environment: str) -> dict[str, list[Trajectory]]:
        """The recorded batches of three iterations of :meth:`run`: the first, the middle and the last one."""
        paths = sorted((self.run(environment) / "rollouts").glob("iteration_*.parquet"))
        chosen = {"first": paths[0], "middle": paths[len(paths) // 2], "last": paths[-1]}
        return {name: from_table(pl.read_parquet(path), environment) for name, path in chosen.items()}


def in_turns(sides: Mapping[str, Callable[[], Any]], repeats: int) -> Seconds:
    """CPU seconds of each side, ``[repeats]``. Each is called once beforehand; then they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(1 + repeats):
        for name, call in sides.items():
            start = time.process_time()
            call()
            taken[name].append(time.process_time() - start)
    return {name: np.array(values[1:]) for name, values in taken.items()}


def times(slow: np.ndarray, fast: np.ndarray) -> float:
    """How many times as long one side takes: the median of the turns' ratios."""
    return float(np.median(slow / fast))
