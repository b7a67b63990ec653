"""What each stage depends on: a slice of the study, which reaches the stage as a JSON file."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from empg.config.base import Model, Name, Positive
from empg.config.data import Data
from empg.config.methods import Method
from empg.config.policy import Interface, Policy, Sampling
from empg.config.stages import Evaluate, Rollouts, Train, WarmStart
from empg.config.study import Study


class WarmStartRun(Model):
    """What the warm-start stage depends on."""

    environment: Name
    data: Data
    system: str
    interface: Interface
    policy: Policy
    warmstart: WarmStart


class RolloutsRun(Model):
    """What the rollout stage depends on, besides the warm-start model."""

    environment: Name
    data: Data
    max_steps: Positive
    system: str
    interface: Interface
    sampling: Sampling
    rollouts: Rollouts
    group_size: Positive


class TrainRun(Model):
    """What one training run depends on, besides the warm-start model and its rollouts.

    ``functions`` are those of the method: :meth:`empg.config.Method.functions`.
    """

    environment: Name
    data: Data
    max_steps: Positive
    system: str
    interface: Interface
    policy: Policy
    sampling: Sampling
    train: Train
    method_name: Name
    method: Method
    functions: dict[str, str | None] = Field(default_factory=dict)
    seed: int


class EvaluateRun(Model):
    """What one evaluation depends on, besides the model. ``method_name`` is ``warmstart`` for the warm start itself."""

    environment: Name
    data: Data
    max_steps: Positive
    system: str
    interface: Interface
    sampling: Sampling
    evaluate: Evaluate
    method_name: Name
    seed: int


def _common(study: Study, data: dict[str, Data], environment: str) -> dict[str, Any]:
    e = study.environments[environment]
    return {
        "environment": environment,
        "data": data[study.data_set(environment)],
        "system": e.system,
        "interface": e.interface,
    }


def warmstart_run(study: Study, data: dict[str, Data], environment: str) -> WarmStartRun:
    e = study.environments[environment]
    return WarmStartRun(**_common(study, data, environment), policy=e.policy, warmstart=e.warmstart)


def rollouts_run(study: Study, data: dict[str, Data], environment: str) -> RolloutsRun:
    e = study.environments[environment]
    return RolloutsRun(**_common(study, data, environment), max_steps=e.max_steps, sampling=e.sampling,
                       rollouts=e.rollouts, group_size=e.train.group_size)  # fmt: skip


def train_run(study: Study, data: dict[str, Data], environment: str, method: str, seed: int) -> TrainRun:
    e, m = study.environments[environment], study.methods[method]
    return TrainRun(**_common(study, data, environment), max_steps=e.max_steps, policy=e.policy, sampling=e.sampling,
                    train=e.train, method_name=method, method=m.in_environment(e.zeta),
                    functions=m.functions(), seed=seed)  # fmt: skip


def evaluate_run(study: Study, data: dict[str, Data], environment: str, method: str, seed: int) -> EvaluateRun:
    e = study.environments[environment]
    return EvaluateRun(**_common(study, data, environment), max_steps=e.max_steps, sampling=e.sampling,
                       evaluate=e.evaluate, method_name=method, seed=seed)  # fmt: skip
