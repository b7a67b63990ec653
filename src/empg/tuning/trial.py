"""One trial of a search: a training with some settings replaced, and its evaluation on the panel ``tune``."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from empg.config import EvaluateRun, Model, TrainRun, parse
from empg.config.tuning import Range
from empg.errors import ConfigError
from empg.files import read_json
from empg.provenance import json_digest
from empg.rollouts import evaluate
from empg.training import rl

Values = Mapping[str, float | int]


@dataclass(frozen=True, slots=True)
class Arm:
    """A method in an environment, with the folders of its inputs. All of its trials differ in ``space`` alone."""

    train: TrainRun
    evaluate: EvaluateRun
    data: Path
    warmstart: Path
    rollouts: Path
    folder: Path
    space: Mapping[str, Range]
    window: int

    @property
    def name(self) -> str:
        """``ENVIRONMENT/METHOD``."""
        return f"{self.train.environment}/{self.train.method_name}"

    def own(self) -> Values:
        """The study's values of what is searched, those within their ranges."""
        found = {path: read(self.train, path) for path in self.space}
        return {path: value for path, value in found.items() if self.space[path].low <= value <= self.space[path].high}


def read(model: Model, path: str) -> Any:
    """The value at a dotted path. Raises ``AttributeError`` for an unknown key."""
    for key in path.split("."):
        model = getattr(model, key)
    return model


def replaced(train: TrainRun, values: Values) -> TrainRun:
    """The same settings with other values at dotted paths. Raises :class:`ConfigError` where they do not fit."""
    content = train.model_dump(mode="json")
    for path, value in values.items():
        *outer, last = path.split(".")
        place = content
        for key in outer:
            place = place[key]
        place[last] = value
    return parse(TrainRun, content, f"tune.space: {', '.join(f'{path}={value:g}' for path, value in values.items())}")


def searched(train: TrainRun, space: Mapping[str, Range]) -> dict[str, Range]:
    """The part of a space that a method has.

    Raises :class:`ConfigError` for a setting that is no number, and for an end of a range that the settings refuse.
    """
    found = {}
    for path, limits in space.items():
        try:
            value = read(train, path)
        except AttributeError:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"tune.space.{path}: expected a number's setting, found {value!r}")
        for end in (limits.low, limits.high):
            replaced(train, {path: type(value)(end)})
        found[path] = limits
    return found


def play(arm: Arm, values: Values, report: Callable[[int, float], None]) -> dict[str, float]:
    """Train and evaluate; success on ``tune``, sampled and greedy. Only the evaluation stays on disk.

    ``report(iteration, success)`` gets the mean training success of the last iterations and may raise to end the trial.
    An interrupted trial with the same values continues from its checkpoint.
    """
    folder = arm.folder / json_digest(dict(values))[:12]
    recent: deque[float] = deque(maxlen=arm.window)

    def watch(iteration: int, metrics: Mapping[str, float | None]) -> None:
        recent.append(float(metrics["success"] or 0.0))
        report(iteration, fmean(recent))

    if not (folder / "evaluate" / "manifest.json").exists():
        try:
            rl.run(
                replaced(arm.train, values),
                arm.data,
                arm.warmstart,
                arm.rollouts,
                folder / "train",
                on_metrics=watch,
                progress=lambda *_: None,
            )
            model = folder / "train" / "model"
            evaluate.run(arm.evaluate, arm.data, model, folder / "evaluate", progress=lambda *_: None)
        except Exception:  # pruned or diverged; an interrupted trial keeps its checkpoint
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder / "train")
    panel = read_json(folder / "evaluate" / "summary.json")["panels"]["tune"]
    return {mode: float(panel[mode]["success"]) for mode in ("sampled", "greedy")}
