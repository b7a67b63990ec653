"""How near the gradient of each method comes to the exact one: over the map of entropies, and one setting at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import polars as pl
import torch
from torch import Tensor

from empg.config import Method
from empg.config.testbed import Testbed, TestbedRun, World, changed
from empg.seeding import derive_seed
from empg.testbed.estimators import advantage, ascent
from empg.testbed.play import dynamic_tasks
from empg.testbed.world import World as Tasks

MAP = "map"


@dataclass(frozen=True, slots=True)
class Place:
    """Where gradients are measured: a point of the map (``sweep`` is ``map``), or a value of a swept setting."""

    sweep: str
    value: float
    world: World
    group_size: int
    methods: Mapping[str, Method]


def places(config: TestbedRun) -> Iterator[Place]:
    """Every place of the map and of the sweeps."""
    testbed = config.testbed
    for decisive, other in product(testbed.entropies, repeat=2):
        world = changed(testbed.world, decisive_entropy=decisive, other_entropy=other)
        yield Place(MAP, 0.0, world, testbed.group_size, config.methods)
    chosen = {name: config.methods[name] for name in (config.baseline, *testbed.compared)}
    for (decisive, other), (sweep, values) in product(testbed.places, testbed.sweeps.items()):
        at = changed(testbed.world, decisive_entropy=decisive, other_entropy=other)
        for value in values:
            if sweep == "group_size":
                yield Place(sweep, value, at, int(value), chosen)
            elif sweep in World.model_fields:
                whole = World.model_fields[sweep].annotation is not float
                world = changed(at, **{sweep: int(value) if whole and value == int(value) else value})
                yield Place(sweep, value, world, testbed.group_size, chosen)
            else:
                yield Place(sweep, value, at, testbed.group_size, _with_setting(config, sweep, value))


def _with_setting(config: TestbedRun, name: str, value: float) -> dict[str, Method]:
    """The baseline, and the compared methods that have a setting of this name, with this value."""
    methods = {config.baseline: config.methods[config.baseline]}
    for key in config.testbed.compared:
        if hasattr(config.methods[key], name):
            methods[key] = Method.model_validate(config.methods[key].model_dump() | {name: value})
    return methods


def measure(config: TestbedRun, progress: Callable[[int, int], None]) -> pl.DataFrame:
    """One row for each place, world and method: ``cosine`` to the exact gradient and ``snr``.

    ``cosine`` is the mean over batches. ``snr`` is the mean component along the exact gradient over the root of the
    summed variance of all components, both over the batches of a world. All methods of a world see the same episodes.
    """
    everywhere = list(places(config))
    rows = []
    for done, place in enumerate(everywhere):
        progress(done, len(everywhere))
        rows += [row for number in range(config.testbed.worlds) for row in _world(config.testbed, place, number)]
    progress(len(everywhere), len(everywhere))
    return pl.DataFrame(rows)


def _world(testbed: Testbed, place: Place, number: int) -> Iterator[dict[str, object]]:
    generator = torch.Generator().manual_seed(derive_seed(testbed.seed, "gradients", number))
    tasks = Tasks.draw(place.world, generator)
    weight = torch.zeros(place.world.actions, place.world.width, dtype=torch.float64)
    exact = tasks.gradient(weight)
    found: dict[str, list[Tensor]] = {name: [] for name in place.methods}
    for _ in range(testbed.batches):
        state = generator.get_state()
        for name, method in place.methods.items():
            generator.set_state(state)  # the same episodes for all methods
            played = dynamic_tasks(tasks, weight, place.group_size, method, generator)
            found[name].append(ascent(method, played, advantage(method, played), weight))
    for name, gradients in found.items():
        cosine, snr = quality(torch.stack(gradients), exact)
        yield {
            "sweep": place.sweep,
            "value": place.value,
            "decisive_entropy": place.world.decisive_entropy,
            "other_entropy": place.world.other_entropy,
            "method": name,
            "world": number,
            "cosine": cosine,
            "snr": snr,
        }


def quality(gradients: Tensor, exact: Tensor) -> tuple[float, float]:
    """Mean cosine of ``gradients`` ``[batches, …]`` to ``exact`` ``[…]``, and their signal-to-noise ratio.

    A gradient of 0 has cosine 0. The variance has the divisor batches − 1.
    """
    flat, direction = gradients.flatten(1), exact.flatten() / exact.norm()
    along = flat @ direction
    cosine = along / flat.norm(dim=1).clamp(min=torch.finfo(flat.dtype).tiny)
    noise = flat.var(dim=0, correction=1).sum().sqrt()
    return float(cosine.mean()), float(along.mean() / noise) if noise > 0 else 0.0
