"""Settings of a search, the section ``tune`` of a study."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from empg.config.base import Model, Positive

Option = str | int | float | bool | None
Path = Annotated[str, Field(pattern=r"^(method|sampling|train)(\.[a-z][a-z0-9_]*)+$")]


class Range(Model):
    """The values that a number may take: uniform from ``low`` to ``high``, or in its logarithm.

    A setting that is an integer takes integers.
    """

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"high: expected more than low, {self.low:g}, found {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low: expected more than 0 with log, found {self.low:g}")
        return self


class Chosen(Model):
    """A class of Optuna's, by name, and its keyword arguments."""

    name: str
    options: dict[str, Option] = Field(default_factory=dict)


class Tune(Model):
    """What ``empg tune`` searches: the same number of trials for each method of each environment.

    ``space`` has dotted paths into the settings of a training: ``method.zeta``, ``train.optimiser.lr``,
    ``sampling.temperature``. A method that lacks a setting is searched without it, and one without any is not searched.
    The first trial has the study's own values. ``seed`` trains every trial and should not be among the study's seeds.
    ``sampler`` and ``pruner`` are names from ``optuna.samplers`` and ``optuna.pruners``; the pruner sees the mean
    training success of ``window`` iterations.
    """

    trials: Positive = 30
    seed: Annotated[int, Field(ge=0)] = 1000
    sampler: Chosen = Chosen(name="TPESampler")
    pruner: Chosen = Chosen(name="MedianPruner", options={"n_startup_trials": 8, "n_warmup_steps": 20})
    window: Positive = 10
    space: Annotated[dict[Path, Range], Field(min_length=1)]
