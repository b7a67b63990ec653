"""Success after training in the world, for each optimiser: some of them discard part of what a modulation changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, product

import numpy as np
import polars as pl
import torch
from torch import Tensor

from empg.config import Method
from empg.config.testbed import Learning, TestbedRun, World, changed
from empg.seeding import derive_seed
from empg.testbed.estimators import advantage, ascent
from empg.testbed.play import dynamic_tasks, minibatch
from empg.testbed.world import World as Tasks
from empg.training.optimiser import AdamW, Muon, StepRule

Run = tuple[tuple[float, float], str, str, int]  # entropies, optimiser, method, seed


class Sgd(StepRule):
    """Stochastic gradient descent without momentum."""

    def __init__(self, parameters: list[Tensor], lr: float) -> None:
        super().__init__(parameters, lr=lr)

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.add_(parameter.grad, alpha=-self.param_groups[0]["lr"])


def optimiser(name: str, parameter: Tensor, rate: float) -> StepRule:
    """``sgd``, or one of the trainer's own ``adamw`` and ``muon`` with the betas and momentum of training."""
    if name == "sgd":
        return Sgd([parameter], rate)
    if name == "adamw":
        return AdamW([parameter], rate, betas=(0.9, 0.95), weight_decay=0.0)
    return Muon([parameter], rate)


def runs(config: TestbedRun) -> Iterator[Run]:
    """Every training run: all methods at the places, the baseline and the compared ones over the whole map."""
    testbed, learning = config.testbed, config.testbed.learning
    mapped = (config.baseline, *testbed.compared)
    for entropies in dict.fromkeys([*testbed.places, *product(testbed.entropies, repeat=2)]):
        methods = config.methods if entropies in testbed.places else mapped
        yield from product([entropies], learning.rates, methods, range(learning.seeds))


def measure(config: TestbedRun, progress: Callable[[int, int], None]) -> pl.DataFrame:
    """One row for each run: exact ``success`` at the ``start`` and the end; ``area``, its mean over the iterations.

    Runs of one seed start in the same world with the same random numbers.
    """
    everything = list(runs(config))
    rows = []
    for done, (entropies, rule, name, seed) in enumerate(everything):
        progress(done, len(everything))
        decisive, other = entropies
        world = changed(config.testbed.world, decisive_entropy=decisive, other_entropy=other)
        generator = torch.Generator().manual_seed(derive_seed(config.testbed.seed, "learning", seed))
        course = train(
            world,
            config.methods[name],
            rule,
            config.testbed.learning,
            group_size=config.testbed.group_size,
            generator=generator,
        )
        rows.append(
            {
                "decisive_entropy": decisive,
                "other_entropy": other,
                "optimiser": rule,
                "method": name,
                "seed": seed,
                "start": course[0],
                "success": course[-1],
                "area": float(np.mean(course[1:])),
            }
        )
    progress(len(everything), len(everything))
    return pl.DataFrame(rows)


def train(
    settings: World,
    method: Method,
    rule: str,
    learning: Learning,
    *,
    group_size: int,
    generator: torch.Generator,
) -> list[float]:
    """The exact success before the first iteration and after each. Advantages are over the whole batch."""
    world = Tasks.draw(settings, generator)
    weight = torch.zeros(settings.actions, settings.width, dtype=torch.float64)
    chosen = optimiser(rule, weight, learning.rates[rule])  # type: ignore[index]
    course = [float(world.success(weight).mean())]
    for _ in range(learning.iterations):
        played = dynamic_tasks(world, weight, group_size, method, generator)
        credit = advantage(method, played)
        bounds = np.linspace(0, played.episodes, learning.updates + 1).astype(int)
        for start, end in pairwise(bounds):
            part, steps = minibatch(played, int(start), int(end))
            weight.grad = -ascent(method, part, credit[steps], weight)
            chosen.step()
        course.append(float(world.success(weight).mean()))
    return course
