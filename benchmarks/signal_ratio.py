"""The signal ratio of EMPG at every place of the testbed's map, beside what EMPG does there to the gradient.

    python -m benchmarks.signal_ratio

The ratio uses the exact decisiveness of the testbed's steps and g of EMPG (k = 1) of the first batches of its worlds.
The difference in cosine to the exact gradient is read from docs/results/testbed. docs/decisiveness.md shows the output.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from empg.config import load_study
from empg.config.testbed import Testbed, World, changed
from empg.core.decisiveness import signal_ratio
from empg.core.modulation import modulate
from empg.seeding import derive_seed
from empg.testbed.world import World as Tasks
from empg.testbed.world import play

ROOT = Path(__file__).parents[1]


def ratio(testbed: Testbed, world: World, number: int) -> float:
    """The signal ratio in one world: that of the testbed's gradients with this number."""
    generator = torch.Generator().manual_seed(derive_seed(testbed.seed, "gradients", number))
    tasks = Tasks.draw(world, generator)
    weight = torch.zeros(world.actions, world.width, dtype=torch.float64)
    played = play(tasks, weight, testbed.group_size, generator, torch.arange(world.tasks))
    outcome = torch.zeros(played.episodes, dtype=torch.float64)
    scale = modulate(outcome, played.entropy, played.batch.step_trajectory, zeta=0.0).gradient_scale
    exact = tasks.decisiveness(weight)[:, None].expand(-1, testbed.group_size, -1).flatten()
    return float(signal_ratio(exact, scale, scale))


def places(testbed: Testbed, published: pl.DataFrame, worlds: int) -> pl.DataFrame:
    """A row for each place: the mean signal ratio over worlds, and the published difference in cosine."""
    rows = published.filter(method="grpo_empg", quantity="cosine")
    found = []
    for row in rows.iter_rows(named=True):
        entropies = {name: row[name] for name in ("decisive_entropy", "other_entropy")}
        here = changed(testbed.world, **entropies)
        ratios = [ratio(testbed, here, number) for number in range(worlds)]
        effect = {name: row[name] for name in ("difference", "difference_low", "difference_high")}
        found.append({**entropies, "signal_ratio": float(np.mean(ratios)), **effect})
    return pl.DataFrame(found)


def main() -> None:
    testbed = load_study(ROOT / "config/study/testbed.yaml", {}, {}).testbed
    assert testbed is not None
    published = pl.read_csv(ROOT / "docs/results/testbed/tables/map.csv")
    print("| decisive / others, nats | S | EMPG − GRPO, cosine × 100 (95 %) |")
    print("|---|---|---|")
    for row in places(testbed, published, testbed.worlds).sort("signal_ratio").iter_rows(named=True):
        value, low, high = (100 * row[name] for name in ("difference", "difference_low", "difference_high"))
        place = f"{row['decisive_entropy']} / {row['other_entropy']}"
        print(f"| {place} | {row['signal_ratio']:.2f} | {value:+.1f} ({low:+.1f} to {high:+.1f}) |".replace("-", "−"))


if __name__ == "__main__":
    main()
