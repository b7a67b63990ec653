"""How often the pre-registered experiment's looks would find something where nothing is, if runs were not independent.

Simulates differences of runs without an effect. A share of their variance belongs to the warm start, which several
runs have in common. Prints how often p crosses a bound by the last look: t over runs, as the finding counts them, and
over the averages of warm starts. Tasks have no part in it. Takes ten seconds.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from benchmarks.primary_contrast import LOOKS

EXPERIMENTS = 100_000
SHARES = (0.0, 0.1, 0.3, 0.5)


def crossed(random: np.random.Generator, share: float) -> tuple[float, float]:
    """How often p crosses a bound at any look, over runs and over averages of warm starts."""
    warm_starts = len(LOOKS[0].runs)
    common = random.normal(0, share**0.5, (EXPERIMENTS, 1, warm_starts))
    runs = common + random.normal(0, (1 - share) ** 0.5, (EXPERIMENTS, max(LOOKS[-1].runs), warm_starts))
    by_run, by_warm_start = np.zeros((2, EXPERIMENTS), bool)
    for look in LOOKS:
        made = [runs[:, :count, place] for place, count in enumerate(look.runs)]
        by_run |= stats.ttest_1samp(np.concatenate(made, 1), 0, axis=1).pvalue < look.bound
        averages = np.stack([part.mean(1) for part in made], 1)
        by_warm_start |= stats.ttest_1samp(averages, 0, axis=1).pvalue < look.bound
    return float(by_run.mean()), float(by_warm_start.mean())


def main() -> None:
    """Print the table."""
    print(f"{'share of the warm start':<24} {'over runs':>10} {'over averages':>14}")
    for share in SHARES:
        by_run, by_warm_start = crossed(np.random.default_rng(0), share)
        print(f"{share:<24.0%} {by_run:>10.1%} {by_warm_start:>14.1%}", flush=True)


if __name__ == "__main__":
    main()
