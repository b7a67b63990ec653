"""The stages, and what each depends on: a slice of the study, which reaches the stage as a JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from empg.config.base import Model, Name, Positive
from empg.config.engine import Arithmetic, EngineName
from empg.config.environments import ENVIRONMENTS, Data, DataSet, read_interface
from empg.config.methods import Method
from empg.config.policy import Policy, PretrainedPolicy, Sampling
from empg.config.stages import Decisiveness, Evaluate, Rollouts, Train, WarmStart
from empg.config.study import Study
from empg.config.testbed import PARTS, Part, TestbedRun

WARM_START = "warmstart"  # the name of the policy that no method has trained
ZETA = 0.05  # of methods in the testbed that set none
M = TypeVar("M", bound=Model)


class _Run(Model):
    """Settings of every stage of an environment. The type of the data set validates ``interface``."""

    environment: Name
    data: Data
    system: str
    interface: dict[str, Any]
    arithmetic: Arithmetic = "native"

    @model_validator(mode="after")
    def _interface_fits(self) -> Self:
        read_interface(self.data, self.interface)
        return self


class _ProcessesRun(_Run):
    """Settings of a stage that ``engine: trl`` runs in several processes."""

    engine: EngineName = "native"
    processes: Positive = 1
    accelerate: str | None = None


class WarmStartRun(_ProcessesRun):
    """Settings of the warm-start stage."""

    policy: Policy
    warmstart: WarmStart
    max_response: Positive | None = None  # what sampling allows a pretrained policy, and so its demonstrations
    max_context: Positive | None = None


class RolloutsRun(_ProcessesRun):
    """Settings of the rollout stage, which also takes the warm-start model."""

    max_steps: Positive
    sampling: Sampling
    rollouts: Rollouts
    group_size: Positive


class TrainRun(_ProcessesRun):
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


class DecisivenessRun(_Run):
    """Settings of one measurement of decisiveness, which also takes a model. ``reward`` is the return of training.

    ``halfway``: the model is that of half of the training run, not of its end. Where gradients are measured,
    ``estimators`` holds the methods of the study with what a batch depends on, and ``compared`` the method that each is
    compared with.
    """

    max_steps: Positive
    sampling: Sampling
    decisiveness: Decisiveness
    reward: Literal["success", "score"]
    method_name: Name
    seed: int
    halfway: bool = False
    estimators: dict[Name, TrainRun] = Field(default_factory=dict)
    compared: dict[Name, Name] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stage:
    """``module`` holds the stage; ``settings`` is the model of all that it depends on beside its input files.

    A :class:`Study` or a :class:`DataSet` is a whole one. Any other model is filled from one environment of a study
    (:func:`cut`), and stands for one method and seed of it where it has the field ``seed``.
    """

    module: str
    settings: type[Model]

    @property
    def of_the_study(self) -> bool:
        return self.settings is Study

    @property
    def of_the_testbed(self) -> bool:
        return self.settings is TestbedRun

    @property
    def of_an_environment(self) -> bool:
        return issubclass(self.settings, _Run) and not self.of_a_run

    @property
    def of_a_run(self) -> bool:
        return "seed" in self.settings.model_fields and issubclass(self.settings, _Run)

    def runs_for(self, study: Study, method: str) -> bool:
        """Whether a stage of a run is wanted for this method: decisiveness only where the study asks for it."""
        return self.settings is not DecisivenessRun or method in study.measured


#: Every stage by the name of its command and of its rule.
STAGES = {
    "data": Stage("empg.environments.data", DataSet),
    "warmstart": Stage("empg.training.warmstart", WarmStartRun),
    "rollouts": Stage("empg.rollouts.collect", RolloutsRun),
    "train": Stage("empg.training.rl", TrainRun),
    "evaluate": Stage("empg.rollouts.evaluate", EvaluateRun),
    "decisiveness": Stage("empg.analysis.decisiveness", DecisivenessRun),
    "decisiveness_report": Stage("empg.report.decisiveness", Study),
    "report": Stage("empg.report.page", Study),
    "testbed": Stage("empg.testbed.run", TestbedRun),
    "testbed_report": Stage("empg.report.testbed", Study),
    "track": Stage("empg.tracking.rebuild", Study),
}


def cut(
    model: type[M],
    study: Study,
    data: dict[str, DataSet],
    environment: str,
    *,
    method: str = WARM_START,
    seed: int = 0,
) -> M:
    """A stage's settings: each field of ``model`` has the value that the study gives to this name."""
    settings, data_set = study.environments[environment], data[study.data_set(environment)]
    splits = settings.evaluate.splits or ENVIRONMENTS[data_set.type].panels
    evaluate = {"splits": splits} | ({} if method == WARM_START else {"temperatures": ()})
    values = dict(settings) | {
        "environment": environment,
        "data": data_set,
        "group_size": settings.train.group_size,
        "reward": settings.train.reward,
        "evaluate": settings.evaluate.model_copy(update=evaluate),
        "method_name": method,
        "seed": seed,
        "arithmetic": study.arithmetic,
    }
    if isinstance(settings.policy, PretrainedPolicy):
        values |= settings.sampling.model_dump(include={"max_response", "max_context"})
    if study.decisiveness is not None:  # the choice of methods changes no measurement
        values["decisiveness"] = study.decisiveness.model_copy(update={"methods": ()})
        if study.decisiveness.gradients is not None and model is DecisivenessRun:
            values["estimators"] = {name: _estimator(study, data, environment, name) for name in study.methods}
            against = {name: study.compared_with(name) for name in study.methods}
            values["compared"] = {name: other for name, other in against.items() if other is not None}
    if method in study.methods:
        values["method"] = study.methods[method].in_environment(settings.zeta)
    return model(**{name: value for name, value in values.items() if name in model.model_fields})


def _estimator(study: Study, data: dict[str, DataSet], environment: str, method: str) -> TrainRun:
    """The settings of a training run that its batches and their gradients depend on; the rest are defaults."""
    run = cut(TrainRun, study, data, environment, method=method)
    train = Train(**run.train.model_dump(include={"groups", "group_size", "reward", "micro_batch_tokens"}))
    return run.model_copy(update={"train": train})


def warmstart_run(study: Study, data: dict[str, DataSet], environment: str) -> WarmStartRun:
    return cut(WarmStartRun, study, data, environment)


def rollouts_run(study: Study, data: dict[str, DataSet], environment: str) -> RolloutsRun:
    return cut(RolloutsRun, study, data, environment)


def train_run(study: Study, data: dict[str, DataSet], environment: str, method: str, seed: int) -> TrainRun:
    return cut(TrainRun, study, data, environment, method=method, seed=seed)


def evaluate_run(study: Study, data: dict[str, DataSet], environment: str, method: str, seed: int) -> EvaluateRun:
    return cut(EvaluateRun, study, data, environment, method=method, seed=seed)


def decisiveness_run(
    study: Study, data: dict[str, DataSet], environment: str, method: str, seed: int, *, halfway: bool = False
) -> DecisivenessRun:
    run = cut(DecisivenessRun, study, data, environment, method=method, seed=seed)
    return run.model_copy(update={"halfway": halfway})


def testbed_runs(study: Study) -> dict[Part, TestbedRun]:
    """The settings of each part of the study's testbed; none without one."""
    if study.testbed is None:
        return {}
    methods = {name: method.in_environment(ZETA) for name, method in study.methods.items()}
    return {
        part: TestbedRun(part=part, methods=methods, baseline=study.baseline, testbed=study.testbed) for part in PARTS
    }
