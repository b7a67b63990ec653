"""The signal ratio of EMPG in worlds of the testbed, beside what EMPG does there to the gradient.

    python -m benchmarks.signal_ratio

Some worlds are the testbed's map, where decisive steps and others have entropies of their own. In the others,
entropies of both spread widely and overlap, as those of real policies do. The signal ratio uses the exact decisiveness.
docs/decisiveness.md shows the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from empg.analysis.statistics import Estimate, mean_over_runs
from empg.config import load_study
from empg.config.testbed import World, changed
from empg.core.decisiveness import signal_ratio
from empg.core.modulation import modulate
from empg.seeding import derive_seed
from empg.testbed.estimators import advantage, ascent
from empg.testbed.gradients import quality
from empg.testbed.play import dynamic_tasks
from empg.testbed.world import World as Tasks

ROOT = Path(__file__).parents[1]
STUDY = load_study(ROOT / "config/study/testbed.yaml", {}, {})
GROUP_SIZE, WORLDS, BATCHES = 8, 40, 4
ENTROPIES = (0.3, 0.7, 1.05, 1.4)
WIDE = ((0.6, 1.0), (0.7, 0.9), (0.9, 0.7), (1.0, 0.6))


class Place(NamedTuple):
    """A kind of world, the mean signal ratio over worlds, that with equal score norms, and the effect on the cosine."""

    world: World
    ratio: float
    without_norms: float
    effect: Estimate


def kinds() -> Iterator[World]:
    """The map; then wide entropies, where 1 to 10 of the 10 steps decide."""
    for decisive, other in product(ENTROPIES, repeat=2):
        yield World(decisive_entropy=decisive, other_entropy=other)
    wide = World(decisive_entropy=0.8, other_entropy=0.8)
    for spread, count in product((0.4, 0.75), (1, 2, 5, 10)):
        yield changed(wide, spread=spread, decisive=count)
    for decisive, other in WIDE:
        yield changed(wide, spread=0.6, decisive_entropy=decisive, other_entropy=other)


def measure(settings: World, worlds: int = WORLDS) -> Place:
    """Mean over worlds, with Student's interval of the difference."""
    found = np.array([_world(settings, number) for number in range(worlds)])
    ratio, without_norms, _ = found.mean(axis=0).tolist()
    return Place(settings, ratio, without_norms, mean_over_runs(found[:, 2]))


def _world(settings: World, number: int) -> tuple[float, float, float]:
    generator = torch.Generator().manual_seed(derive_seed(0, "signal ratio", number))
    tasks = Tasks.draw(settings, generator)
    weight = torch.zeros(settings.actions, settings.width, dtype=torch.float64)
    methods = {name: STUDY.methods[name].in_environment(0.05) for name in ("grpo", "grpo_empg")}
    gradients: dict[str, list[torch.Tensor]] = {name: [] for name in methods}
    ratios: list[list[float]] = []
    for _ in range(BATCHES):
        played = dynamic_tasks(tasks, weight, GROUP_SIZE, methods["grpo"], generator)
        for name, method in methods.items():
            gradients[name].append(ascent(method, played, advantage(method, played), weight))
        outcome = torch.zeros(played.episodes, dtype=torch.float64)
        g = modulate(outcome, played.entropy, played.batch.step_trajectory, zeta=0.0).gradient_scale
        norm = 1 - tasks.log_policy(weight).exp().square().sum(-1)
        decisive, norm = (_of_steps(values) for values in (tasks.decisiveness(weight), norm))
        ratios.append([float(signal_ratio(decisive, v, g)) for v in (norm, torch.ones_like(norm))])
    cosine = {name: quality(torch.stack(made), tasks.gradient(weight))[0] for name, made in gradients.items()}
    ratio, without_norms = np.mean(ratios, axis=0).tolist()
    return ratio, without_norms, cosine["grpo_empg"] - cosine["grpo"]


def _of_steps(values: torch.Tensor) -> torch.Tensor:
    """``[tasks, steps]`` for every step of every episode of a batch."""
    return values[:, None].expand(-1, GROUP_SIZE, -1).flatten()


def main() -> None:
    print("| entropy of decisive / other steps (± spread) | decisive | S | S without v | EMPG − GRPO, cosine × 100 |")
    print("|---|---|---|---|---|")
    for place in sorted(map(measure, kinds()), key=lambda place: place.ratio):
        world, (value, low, high) = place.world, place.effect
        assert low is not None
        assert high is not None
        entropies = f"{world.decisive_entropy} / {world.other_entropy} (± {world.spread})"
        effect = f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})".replace("-", "−")
        ratios = f"{place.ratio:.2f} | {place.without_norms:.2f}"
        print(f"| {entropies} | {world.decisive} of {world.steps} | {ratios} | {effect} |", flush=True)


if __name__ == "__main__":
    main()
