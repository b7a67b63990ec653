"""Settings of the testbed, the section ``testbed`` of a study."""

from __future__ import annotations

import math
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from empg.config.base import Model, Name, Positive
from empg.config.methods import Method

Entropy = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Part = Literal["gradients", "learning"]
Rule = Literal["sgd", "adamw", "muon"]
PARTS: tuple[Part, ...] = ("gradients", "learning")


class World(Model):
    """A world with a known policy gradient (:mod:`empg.testbed.world`).

    Entropies are in nats and below log ``actions``: the centre of the class of decisive steps, that of the others, and
    the ``spread`` of steps about it. ``norm_ratio`` is the feature norm of a decisive step over that of another.
    ``window`` is how many of the last actions an observation shows.
    """

    tasks: Positive = 16
    steps: Positive = 10
    actions: Annotated[int, Field(ge=2)] = 5
    decisive: Positive = 2
    width: Positive = 32
    decisive_entropy: Entropy = 0.9
    other_entropy: Entropy = 0.9
    spread: Annotated[float, Field(ge=0)] = 0.2
    norm_ratio: Annotated[float, Field(gt=0)] = 1.0
    window: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _possible(self) -> World:
        if self.decisive > self.steps:
            raise ValueError(f"decisive: expected at most the {self.steps} steps, found {self.decisive}")
        for name in ("decisive_entropy", "other_entropy"):
            if getattr(self, name) >= math.log(self.actions):
                most = f"{math.log(self.actions):.3f}, log of {self.actions} actions"
                raise ValueError(f"{name}: expected less than {most}, found {getattr(self, name)}")
        return self


def _rates() -> dict[Rule, float]:
    return {"sgd": 30.0, "adamw": 0.1, "muon": 0.2}


class Learning(Model):
    """Training in the world: ``rates`` are learning rates of the optimisers, one for all methods."""

    seeds: Annotated[int, Field(ge=3)] = 6
    iterations: Positive = 20
    updates: Positive = 2
    rates: dict[Rule, Rate] = Field(default_factory=_rates)


class Testbed(Model):
    """Which worlds the testbed visits.

    The map has every pair of ``entropies`` (nats) of decisive and of other steps. ``places`` are pairs of it (decisive,
    others) at which ``sweeps`` vary one setting at a time: of the world, the ``group_size``, or a setting of the
    methods that have it. Gradients are measured for every method over the whole map, with ``batches`` batches in each
    of ``worlds`` worlds. Every method trains at the places; the ``compared`` methods and the baseline train over the
    whole map and are swept.
    """

    seed: int = 0
    world: World = World()
    group_size: Annotated[int, Field(ge=2)] = 8
    entropies: tuple[Entropy, ...] = (0.3, 0.7, 1.05, 1.4)
    places: tuple[tuple[Entropy, Entropy], ...] = ((0.3, 1.4), (0.7, 0.7), (1.4, 0.3))
    worlds: Annotated[int, Field(ge=3)] = 16
    batches: Annotated[int, Field(ge=2)] = 2
    compared: tuple[Name, ...] = ()
    sweeps: dict[Name, tuple[float, ...]] = Field(default_factory=dict)
    learning: Learning = Learning()

    @model_validator(mode="after")
    def _worlds_are_possible(self) -> Testbed:
        for decisive, other in [*product(self.entropies, repeat=2), *self.places]:
            changed(self.world, decisive_entropy=decisive, other_entropy=other)
        for name, values in self.sweeps.items():
            for value in values if name in World.model_fields else ():
                changed(self.world, **{name: value})
        return self


class TestbedRun(Model):
    """What one part of the testbed depends on."""

    part: Part
    methods: dict[Name, Method]
    baseline: Name
    testbed: Testbed


def changed(settings: World, **changes: Any) -> World:
    """The settings with some of them changed. Raises pydantic's ValidationError for what the model refuses."""
    return World.model_validate(settings.model_dump() | changes)
