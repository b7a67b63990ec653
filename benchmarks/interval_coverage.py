"""How often the study's 95 % intervals contain the truth, in simulated studies of two equally good methods.

There are two cases: tasks matter as much as seeds (few tasks, similar seeds), and seeds matter most (many tasks,
different seeds). Prints for each number of seeds the share of studies whose interval contains the true difference, 0,
and the true probability of improvement, ½. Takes about a minute.
"""

from __future__ import annotations

import numpy as np

from empg.analysis.aggregates import Block, aggregate
from empg.analysis.statistics import mean_over_runs

STUDIES = 200
CASES = {"tasks matter as much": (120, 0.25), "seeds matter most": (480, 0.4)}  # tasks, seeds' deviation (log-odds)
TYPES = 6
TYPE_DEVIATION = 0.15  # log-odds: additional deviation of a seed on one type


def study(random: np.random.Generator, seeds: int, tasks: int, deviation: float) -> np.ndarray:
    """Outcomes ``[2, seeds, tasks]`` of two methods on the same tasks of varying difficulty."""
    kind = np.arange(tasks) % TYPES
    odds = random.normal(0, 1, tasks) + random.normal(0, deviation, (2, seeds, 1))
    odds = odds + random.normal(0, TYPE_DEVIATION, (2, seeds, TYPES))[:, :, kind]
    return (random.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(np.float64)


def main() -> None:
    """Print the table."""
    print(f"{'case':<22} {'seeds':>5} {'difference':>11} {'t over seeds':>13} {'improvement':>12}")
    for case, (tasks, deviation) in CASES.items():
        types = (np.arange(tasks) % TYPES).astype(str)
        for seeds in (3, 5, 10):
            random, held = np.random.default_rng(seeds), np.zeros(3)
            for number in range(STUDIES):
                success = study(random, seeds, tasks, deviation)
                found = aggregate([Block(success, types)], [0, 0], seed=number)[1]
                over_seeds = mean_over_runs((success[1] - success[0]).mean(1))
                truths = ((found.difference, 0.0), (over_seeds, 0.0), (found.improvement, 0.5))
                held += [e.low is not None and e.high is not None and e.low <= truth <= e.high for e, truth in truths]
            shares = held / STUDIES
            print(f"{case:<22} {seeds:>5} {shares[0]:>11.1%} {shares[1]:>13.1%} {shares[2]:>12.1%}", flush=True)


if __name__ == "__main__":
    main()
