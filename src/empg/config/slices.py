"""Settings of each job: the slice of the study that its stage depends on, passed as a JSON file."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from empg.config.base import Model, Name, Positive
from empg.config.environments import ENVIRONMENTS, Data, DataSet, read_interface
from empg.config.methods import Method
from empg.config.policy import Policy, Sampling
from empg.config.stages import Evaluate, Rollouts, Train, WarmStart
from empg.config.study import Study


class _Run(Model):
    """Settings of every stage of an environment. The type of the data set validates ``interface``."""

    environment: Name
    data: Data
    system: str
    interface: dict[str, Any]

    @model_validator(mode="after")
    def _interface_fits(self) -> Self:
        read_interface(self.data, self.interface)
        return self


class WarmStartRun(_Run):
    """Settings of the warm-start stage."""

    policy: Policy
    warmstart: WarmStart


class RolloutsRun(_Run):
    """Settings of the rollout stage, which also takes the warm-start model."""

    max_steps: Positive
    sampling: Sampling
    rollouts: Rollouts
    group_size: Positive


class TrainRun(_Run):
    """Settings of one training run, which also takes the warm-start model and its rollouts.

    ``method_sources`` holds the hashes of the source files of a method that another package registered.
    """

    max_steps: Positive
    policy: Policy
    sampling: Sampling
    train: Train
    method_name: Name
    method: Method
    method_sources: dict[str, str] = Field(default_factory=dict)
    seed: int


class EvaluateRun(_Run):
    """Settings of one evaluation, which also takes a model. ``method_name`` of the warm start is ``warmstart``."""

    max_steps: Positive
    sampling: Sampling
    evaluate: Evaluate
    method_name: Name
    seed: int


def _common(study: Study, data: dict[str, DataSet], environment: str) -> dict[str, Any]:
    e = study.environments[environment]
    return {
        "environment": environment,
        "data": data[study.data_set(environment)],
        "system": e.system,
        "interface": e.interface,
    }


def warmstart_run(study: Study, data: dict[str, DataSet], environment: str) -> WarmStartRun:
    e = study.environments[environment]
    return WarmStartRun(**_common(study, data, environment), policy=e.policy, warmstart=e.warmstart)


def rollouts_run(study: Study, data: dict[str, DataSet], environment: str) -> RolloutsRun:
    e = study.environments[environment]
    return RolloutsRun(
        **_common(study, data, environment),
        max_steps=e.max_steps,
        sampling=e.sampling,
        rollouts=e.rollouts,
        group_size=e.train.group_size,
    )


def train_run(study: Study, data: dict[str, DataSet], environment: str, method: str, seed: int) -> TrainRun:
    e, m = study.environments[environment], study.methods[method]
    return TrainRun(
        **_common(study, data, environment),
        max_steps=e.max_steps,
        policy=e.policy,
        sampling=e.sampling,
        train=e.train,
        method_name=method,
        method=m.in_environment(e.zeta),
        seed=seed,
    )


def evaluate_run(study: Study, data: dict[str, DataSet], environment: str, method: str, seed: int) -> EvaluateRun:
    e = study.environments[environment]
    panels = e.evaluate.splits or ENVIRONMENTS[data[study.data_set(environment)].type].panels
    evaluate = e.evaluate.model_copy(update={"splits": panels})
    return EvaluateRun(
        **_common(study, data, environment),
        max_steps=e.max_steps,
        sampling=e.sampling,
        evaluate=evaluate,
        method_name=method,
        seed=seed,
    )
