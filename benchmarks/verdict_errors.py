"""How often the verdict is wrong, in simulated studies under noise like the published studies'.

A study has two methods on three environments with two panels each, greedy and sampled: 12 panels of 500 tasks, and the
two rows over all of them. Log-odds of success add up effects of task, cluster of tasks, run (method and seed), task and
method, cluster and method, and task and run; all but the first two are noise of the difference, drawn anew for each
method. Without a true difference every claim of one is false. With a difference of the margin every claim of
equivalence is false, and so is one of a loss.

Prints for each kind of noise and number of seeds: the deviation of the sampled difference over seeds and its standard
error over tasks (to hold beside docs/results), the share of 95 % intervals that hold the truth (also with normal
quantiles instead of Student's t), the share of studies with any false claim, and what the sampled row over all panels
shows where there is no difference. docs/statistics.md has the table. Takes two or three minutes of CPU time.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from empg.analysis.contrasts import ALPHA
from empg.analysis.crossed import CrossedMean, adjust, combine, crossed_mean, paired_difference

Array = NDArray[np.float64]

TASKS, MARGIN = 500, 0.02
SEEDS = (3, 5, 8, 14, 20)
# Clusters (rooms, products, first pages) and log-odds of the panels, two for each environment.
PANELS = (((93, 0.4), (24, 0.4)), ((115, -0.4), (88, -0.4)), ((240, 0.2), (259, -2.6)))
# Deviations of log-odds that both modes share: a task's own and its cluster's. Greedy play is nearly deterministic.
DIFFICULTY = {"sampled": (3.2, 1.0), "greedy": (6.0, 2.0)}


@dataclass(frozen=True)
class Noise:
    """Deviations of log-odds, sampled; ``greedy`` times as large where play is greedy."""

    name: str
    run: float
    task_method: float
    cluster_method: float
    task_run: float = 0.3
    greedy: float = 4.0


NOISES = (
    Noise("as published", 0.1, 0.0, 0.0),
    Noise("with task × method", 0.1, 0.3, 0.15),
    Noise("both twice as large", 0.2, 0.6, 0.3),
)


class Panel(NamedTuple):
    """Outcomes ``[2, seeds, tasks]`` of a method and what it is compared with."""

    outcomes: Array
    clusters: NDArray[np.int64]


def clusters_of(count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """The cluster of each task; sizes differ about as ALFWorld's 24 unseen rooms do, 9 to 50."""
    weights = random.gamma(4, 1, count)
    return random.choice(count, TASKS, p=weights / weights.sum())


def panel(
    random: np.random.Generator, noise: Noise, mode: str, shape: tuple[int, float], truth: tuple[int, float]
) -> Panel:
    """A panel of so many clusters and mean log-odds, with ``truth``: the number of seeds, and the true difference.

    The difference is exact, because so many failures of the method become successes.
    """
    (count, level), (seeds, difference) = shape, truth
    groups, scale = clusters_of(count, random), noise.greedy if mode == "greedy" else 1.0
    own, shared = DIFFICULTY[mode]
    common = level + random.normal(0, own, TASKS) + random.normal(0, shared, count)[groups]
    effects = [
        random.normal(0, noise.run, (2, seeds, 1)),
        random.normal(0, noise.task_method, (2, 1, TASKS)),
        random.normal(0, noise.cluster_method, (2, 1, count))[:, :, groups],
        random.normal(0, noise.task_run, (2, seeds, TASKS)),
    ]
    outcomes = random.random((2, seeds, TASKS)) < expit(common + scale * np.add.reduce(np.broadcast_arrays(*effects)))
    if difference:
        own_noise = (noise.run, noise.task_method, noise.cluster_method, noise.task_run)
        spread = float(np.sqrt(own**2 + shared**2 + scale**2 * np.square(own_noise).sum()))
        points = np.linspace(-8, 8, 2001)
        weights = np.exp(-(points**2) / 2)
        mean = float((expit(level + spread * points) * weights).sum() / weights.sum())
        outcomes[0] |= random.random((seeds, TASKS)) < difference / (1 - mean)
    return Panel(outcomes.astype(np.float64), groups)


def study(random: np.random.Generator, noise: Noise, seeds: int, difference: float) -> list[list[Panel]]:
    """Two panels for each mode and environment."""
    truth = (seeds, difference)
    return [[panel(random, noise, mode, shape, truth) for shape in shapes] for mode in DIFFICULTY for shapes in PANELS]


def rows(panels: list[list[Panel]]) -> list[CrossedMean]:
    """The verdict's rows: each panel, then each mode over all panels."""
    single = [crossed_mean(p.outcomes[0] - p.outcomes[1], p.clusters) for part in panels for p in part]
    pooled = []
    for part in panels:
        outcomes = np.concatenate([p.outcomes for p in part], axis=2)
        labels = np.concatenate([p.clusters + 1000 * i for i, p in enumerate(part)])
        pooled.append(crossed_mean(outcomes[0] - outcomes[1], labels))
    bounds = range(0, len(pooled) + 1, len(PANELS))
    return single + [combine(pooled[first:end]) for first, end in pairwise(bounds)]


def former_claim(part: Panel) -> bool:
    """The rule before this one: an interval over seeds and one over single tasks both exclude 0."""
    found = paired_difference(*part.outcomes)
    ends = (found.seeds_low, found.tasks_low, found.seeds_high, found.tasks_high)
    low, other_low, high, other_high = (0.0 if end is None else end for end in ends)
    return min(low, other_low) > 0 or max(high, other_high) < 0


def simulate(noise: Noise, seeds: int, studies: int) -> list[float]:
    """The numbers of one line of the table."""
    random = np.random.default_rng([seeds, NOISES.index(noise)])
    held, normal, spread, error, widths = [], [], [], [], []
    false = dict.fromkeys(("difference", "margin", "former"), 0)
    equal = 0
    for truth, kind in ((0.0, "difference"), (MARGIN, "margin")):
        for _ in range(studies):
            panels = study(random, noise, seeds, truth)
            found = rows(panels)
            known = [mean for mean in found if mean.known]
            held += [low <= truth <= high for low, high in (mean.interval() for mean in known)]  # type: ignore[operator]
            normal += [abs(mean.value - truth) <= 1.96 * mean.variance**0.5 for mean in known]
            adjusted = adjust([(mean.p_difference(), mean.p_equivalence(MARGIN)) for mean in found])
            claims = [(p is not None and p <= ALPHA, q is not None and q <= ALPHA) for p, q in adjusted]
            if kind == "difference":
                false[kind] += any(differs for differs, _ in claims)
                false["former"] += any(former_claim(p) for part in panels for p in part)
                equal += claims[-2][1]
                widths.append(found[-2].interval()[1] - found[-2].value)  # type: ignore[operator]
                sampled = [p for part in panels[: len(PANELS)] for p in part]
                differences = [p.outcomes[0] - p.outcomes[1] for p in sampled]
                spread += [d.mean(1).var(ddof=1) for d in differences]
                error += [d.mean(0).std() / TASKS**0.5 for d in differences]
            else:
                losses = (mean.value < 0 and differs for mean, (differs, _) in zip(found, claims, strict=True))
                false[kind] += any(same for _, same in claims) or any(losses)
    shares = [np.mean(held), np.mean(normal), *(number / studies for number in false.values()), equal / studies]
    return [100 * np.mean(spread) ** 0.5, 100 * np.mean(error), *(100 * s for s in shares), 100 * np.mean(widths)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=400, help="of each truth, for each line")
    studies = parser.parse_args().studies
    heads = ("over seeds", "over tasks", "interval holds, %", "with normal quantiles", "any false difference, %")
    heads += ("any false equivalence, %", "former rule, %", "all panels: equivalence shown, %", "half width")
    print("| noise | seeds |", " | ".join(heads), "|")
    print("|---" * 11 + "|")
    for noise in NOISES:
        for seeds in SEEDS:
            numbers = simulate(noise, seeds, studies)
            print(f"| {noise.name} | {seeds} |", " | ".join(f"{number:.1f}" for number in numbers), "|", flush=True)


if __name__ == "__main__":
    main()
