"""The configuration: frozen models that refuse unknown keys, with the vetted settings as defaults. Never runs anything
and never imports torch.

``config/data.yaml`` names data sets, which DVC owns. ``config/environments.yaml`` holds settings that studies share.
``config/config.yaml`` and ``config/study/*.yaml`` describe studies. Every stage gets the slice that it needs as a JSON
file, so changing a setting reruns only the stages that depend on it.
"""

from __future__ import annotations

from empg.config.base import Model, Name, Positive
from empg.config.environments import ENVIRONMENTS, Data, DataSet, EnvironmentRegistration, Interface
from empg.config.methods import Method, method_model
from empg.config.policy import Lora, Policy, PretrainedPolicy, Sampling, TinyPolicy
from empg.config.reading import DataFile, load_data, load_environments, load_study, parse, read_yaml
from empg.config.registrations import (
    ADVANTAGES,
    MODULATIONS,
    AdvantageRegistration,
    Aggregation,
    ModulationRegistration,
    NoSettings,
    SharedSettings,
    own_settings,
)
from empg.config.slices import (
    STAGES,
    DecisivenessRun,
    EvaluateRun,
    RolloutsRun,
    Stage,
    TrainRun,
    WarmStartRun,
    cut,
    decisiveness_run,
    evaluate_run,
    rollouts_run,
    testbed_runs,
    train_run,
    warmstart_run,
)
from empg.config.stages import Decisiveness, Evaluate, Gradients, Optimiser, Rollouts, Train, WarmStart
from empg.config.study import EnvironmentStudy, Primary, Study
from empg.config.tuning import Tune

__all__ = [
    "ADVANTAGES",
    "ENVIRONMENTS",
    "MODULATIONS",
    "STAGES",
    "AdvantageRegistration",
    "Aggregation",
    "Data",
    "DataFile",
    "DataSet",
    "Decisiveness",
    "DecisivenessRun",
    "EnvironmentRegistration",
    "EnvironmentStudy",
    "Evaluate",
    "EvaluateRun",
    "Gradients",
    "Interface",
    "Lora",
    "Method",
    "Model",
    "ModulationRegistration",
    "Name",
    "NoSettings",
    "Optimiser",
    "Policy",
    "Positive",
    "PretrainedPolicy",
    "Primary",
    "Rollouts",
    "RolloutsRun",
    "Sampling",
    "SharedSettings",
    "Stage",
    "Study",
    "TinyPolicy",
    "Train",
    "TrainRun",
    "Tune",
    "WarmStart",
    "WarmStartRun",
    "cut",
    "decisiveness_run",
    "evaluate_run",
    "load_data",
    "load_environments",
    "load_study",
    "method_model",
    "own_settings",
    "parse",
    "read_yaml",
    "rollouts_run",
    "testbed_runs",
    "train_run",
    "warmstart_run",
]
