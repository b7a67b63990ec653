"""How widely the entropies of steps are spread, at the beginning, half-way and at the end of training.

    python -m benchmarks.step_entropies results/experiment

prints for each environment or pool, over all runs of a method (``--method``, default ``grpo``): quantiles of the steps'
mean token entropy in nats, the largest, and the share of steps between 0.05 and 1.5 nats.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from benchmarks.primary_contrast import of_arms
from empg.analysis.results import Results
from empg.schema import read_parquet

QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)
SPREAD = (0.05, 1.5)  # nats
HEAD = "| environment | iteration | runs | steps | 1 % | 5 % | median | 95 % | 99 % | largest | from 0.05 to 1.5, % |"


def quantiles(files: Iterable[Path]) -> list[str]:
    """The cells of a line from ``steps`` on: of all steps in these rollouts that have credit."""
    entropy = pl.concat(read_parquet(file, ["step_entropy"]) for file in files)["step_entropy"].drop_nulls()
    inside = entropy.is_between(*SPREAD).sum() / len(entropy)
    shares = [f"{entropy.quantile(share, 'linear'):.2f}" for share in QUANTILES]
    return [f"{len(entropy):,}", *shares, f"{entropy.max():.2f}", f"{100 * inside:.0f}"]


def table(results: Results) -> str:
    """The table in Markdown, over the runs of all methods of ``results``.

    Raises :class:`~empg.errors.DataError` that names a run without rollouts.
    """
    study = results.study
    lines = [HEAD, "|---" * HEAD.count(" | ") + "|---|"]
    for name in study.pools or study.environments:
        members = study.pools.get(name, (name,))
        runs = [results.rollout_files(run) for run in results.trained() if run.environment in members]
        chosen = {
            "first": [files[0] for files in runs],
            "half-way": [files[(len(files) - 1) // 2] for files in runs],
            "last": [files[-1] for files in runs],
        }
        lines += [
            f"| {' | '.join([name, when, str(len(runs)), *quantiles(files)])} |" for when, files in chosen.items()
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a study's folder")
    parser.add_argument("--method", default="grpo", help="(default: %(default)s)")
    chosen = parser.parse_args()
    print(table(of_arms(chosen.results, [chosen.method])), end="")
