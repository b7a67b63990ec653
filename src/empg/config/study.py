"""A study: environments × methods × seeds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from empg.config.base import Model, Name, Positive
from empg.config.engine import Arithmetic, EngineName, check_engine
from empg.config.methods import UNMODULATED, Method
from empg.config.policy import Policy, PretrainedPolicy, Sampling, TinyPolicy
from empg.config.pretrained import check_precision, with_defaults
from empg.config.stages import Decisiveness, Evaluate, Rollouts, Train, WarmStart
from empg.config.testbed import Testbed, World
from empg.config.tuning import Tune
from empg.registry import did_you_mean

DEFAULT_STUDY = "quick"


class EnvironmentStudy(Model):
    """All settings of one environment in a study.

    ``data`` names its data set and defaults to the environment's name. ``base`` names the entry of
    ``config/environments.yaml`` that the other keys are laid over. ``interface`` holds settings of the data set's type;
    :func:`empg.config.load_study` validates and completes them. A pretrained policy has defaults of its own
    (:mod:`empg.config.pretrained`). ``engine`` fine-tunes, collects and trains in this process, or by TRL
    in ``processes`` of them, which ``accelerate`` starts as its file says.
    """

    base: Name | None = None
    data: Name | None = None
    max_steps: Positive = 12
    system: str = ""
    interface: dict[str, Any] = Field(default_factory=dict)
    zeta: Annotated[float, Field(ge=0)] = 0.05
    policy: Policy = TinyPolicy()
    engine: EngineName = "native"
    processes: Positive = 1
    accelerate: str | None = None
    sampling: Sampling = Sampling()
    warmstart: WarmStart = WarmStart()
    rollouts: Rollouts = Rollouts()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_policy(cls, value: Any) -> Any:
        return with_defaults(value)

    @model_validator(mode="after")
    def _fits_the_policy(self) -> EnvironmentStudy:
        if isinstance(self.policy, PretrainedPolicy):
            check_precision(self.policy, warmstart=self.warmstart.optimiser, train=self.train.optimiser)
            if self.sampling.max_response >= self.sampling.max_context:
                raise ValueError(
                    f"sampling.max_response: expected less than max_context, {self.sampling.max_context}, "
                    f"found {self.sampling.max_response}"
                )
        elif self.sampling.engine != "native":
            raise ValueError(f"sampling.engine: expected native with policy.type {self.policy.type}, found vllm")
        return self

    @model_validator(mode="after")
    def _fits_the_engine(self) -> EnvironmentStudy:
        check_engine(
            self.engine,
            self.processes,
            self.accelerate,
            policy=self.policy,
            sampling=self.sampling,
            warmstart=self.warmstart,
            train=self.train,
        )
        return self


class Primary(Model):
    """The one question that the verdict answers: does ``method`` differ from ``against``, by ``margin`` or more?

    By default the method is the baseline with EMPG, or the first other method where the study has none, and is compared
    with the baseline. ``margin`` is a share: differences within it count as none in practice.
    """

    method: Name | None = None
    against: Name | None = None
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.02


class Study(Model):
    """A grid: environments × methods × seeds; or, with ``testbed``, methods in a world whose gradient is known.

    ``pools`` names environments that differ in their warm start alone, each in one pool, as many in each. The verdict
    counts a pool's runs as seeds of one environment, which has the pool's name. ``arithmetic`` says how the
    environments' stages round: ``portable`` gives the same bits on every x86-64 processor with AVX2, for tiny policies
    on a CPU.
    """

    study: Name = DEFAULT_STUDY
    description: str = ""
    environments: dict[Name, EnvironmentStudy] = Field(default_factory=dict)
    methods: dict[Name, Method]
    baseline: Name = "grpo"
    primary: Primary = Primary()
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    pools: dict[Name, tuple[Name, ...]] = Field(default_factory=dict)
    arithmetic: Arithmetic = "native"
    testbed: Testbed | None = None
    decisiveness: Decisiveness | None = None
    tune: Tune | None = None

    @property
    def measured(self) -> tuple[str, ...]:
        """The methods whose trained policies are measured for decisiveness; none without the section."""
        if self.decisiveness is None:
            return ()
        return (self.baseline,) if self.decisiveness.methods is None else self.decisiveness.methods

    def measured_halfway(self, environment: str) -> tuple[str, ...]:
        """Those of ``measured`` whose policy of half-way is measured too. Runs of pretrained ones keep none."""
        return self.measured if isinstance(self.environments[environment].policy, TinyPolicy) else ()

    def data_set(self, environment: str) -> str:
        """The name of the environment's data set."""
        return self.environments[environment].data or environment

    def compared_with(self, method: str) -> str | None:
        """The method that this one is compared with: the same method without modulation, if the study has it.

        Every other method is compared with the baseline, and the baseline with none.
        """
        own = self.methods[method]
        if own.modulation != UNMODULATED:
            for name, other in self.methods.items():
                if other.modulation == UNMODULATED and other.unmodulated() == own.unmodulated():
                    return name
        return None if method == self.baseline else self.baseline

    def contrast(self) -> tuple[str, str] | None:
        """The primary contrast, (method, what it is compared with); None for a study of one method."""
        against = self.primary.against or self.baseline
        method = self.primary.method
        if method is None:
            own = self.methods[against].unmodulated()
            others = [name for name in self.methods if name != against]
            with_empg = (
                name
                for name in others
                if self.methods[name].modulation == "empg" and self.methods[name].unmodulated() == own
            )
            method = next(with_empg, others[0] if others else None)
        return None if method is None else (method, against)

    @model_validator(mode="after")
    def _complete(self) -> Study:
        for name in ("methods",) if self.testbed and not self.environments else ("environments", "methods", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected at least one, found none")
        if self.baseline not in self.methods:
            raise ValueError(f"baseline: expected one of {', '.join(self.methods)}, found {self.baseline!r}")
        for key, chosen in (("method", self.primary.method), ("against", self.primary.against)):
            if chosen is not None and chosen not in self.methods:
                raise ValueError(f"primary.{key}: expected one of {', '.join(self.methods)}, found {chosen!r}")
        if self.primary.method is not None and self.primary.method == (self.primary.against or self.baseline):
            raise ValueError(f"primary.method: expected another method than {self.primary.method!r}, found the same")
        if taken := {*self.environments, *self.pools} & {"all"}:
            raise ValueError(f"environments, pools: expected another name, since {taken.pop()!r} means all of them")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: expected distinct seeds, found {list(self.seeds)}")
        return self

    @model_validator(mode="after")
    def _pools_fit(self) -> Study:
        pooled: list[str] = []
        for pool, members in self.pools.items():
            if pool in self.environments:
                raise ValueError(f"pools: expected names that no environment has, found {pool!r}")
            if not members or not {*members} <= {*self.environments}:
                known = ", ".join(self.environments)
                raise ValueError(f"pools.{pool}: expected some of {known}, found {', '.join(members) or 'none'}")
            settings = [self.environments[name].model_dump(exclude={"base", "data", "warmstart"}) for name in members]
            if any(own != settings[0] for own in settings) or len({self.data_set(name) for name in members}) > 1:
                raise ValueError(f"pools.{pool}: expected environments that differ in warmstart alone, found others")
            pooled += members
        if twice := [name for name in pooled if pooled.count(name) > 1]:
            raise ValueError(f"pools: expected each environment in one, found {twice[0]!r} again")
        if pooled and (alone := [name for name in self.environments if name not in pooled]):
            raise ValueError(f"pools: expected every environment in one, found {alone[0]!r} in none")
        if len({len(members) for members in self.pools.values()}) > 1:
            sizes = ", ".join(f"{len(members)} in {pool}" for pool, members in self.pools.items())
            raise ValueError(f"pools: expected as many environments in each, found {sizes}")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Study:
        if self.decisiveness and not self.environments:
            raise ValueError("decisiveness: expected environments whose policies are measured, found none")
        if self.decisiveness and (served := [n for n, e in self.environments.items() if e.sampling.engine != "native"]):
            raise ValueError(
                f"decisiveness: expected environments.{served[0]}.sampling.engine native, since a server cannot go on "
                f"in the middle of an episode, found {self.environments[served[0]].sampling.engine}"
            )
        for key, names in (
            ("decisiveness.methods", self.measured),
            ("testbed.compared", self.testbed.compared if self.testbed else ()),
        ):
            if unknown := [name for name in names if name not in self.methods]:
                raise ValueError(f"{key}: expected some of {', '.join(self.methods)}, found {unknown[0]!r}")
        settings = {*World.model_fields, "group_size"}.union(*(type(own).model_fields for own in self.methods.values()))
        for name in self.testbed.sweeps if self.testbed else ():
            if name not in settings:
                hint = did_you_mean(name, sorted(settings))
                raise ValueError(f"testbed.sweeps: expected settings of the world or of a method, found {name!r}{hint}")
        for name, environment in self.environments.items() if self.arithmetic == "portable" else ():
            if not isinstance(environment.policy, TinyPolicy):
                raise ValueError(
                    f"arithmetic: expected native with environments.{name}.policy.type {environment.policy.type}, "
                    "found portable"
                )
        return self
