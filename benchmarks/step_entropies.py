"""How widely the entropies of steps are spread, at the beginning, half-way and at the end of training.

    python -m benchmarks.step_entropies results/experiment

prints for each environment or pool, over all runs of a method (``--method``, default ``grpo``): quantiles of the steps'
mean token entropy in nats, the largest, and the share of steps between 0.05 and 1.5 nats.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from empg.config import Study, parse
from empg.errors import DataError
from empg.files import read_json

QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)
SPREAD = (0.05, 1.5)  # nats
HEAD = "| environment | iteration | runs | steps | 1 % | 5 % | median | 95 % | 99 % | largest | from 0.05 to 1.5, % |"


def row(name: str, when: str, files: Sequence[Path]) -> str:
    """One line of the table, from the rollouts of one iteration of several runs."""
    entropy = pl.concat([pl.read_parquet(file, columns=["step_entropy"]) for file in files])["step_entropy"]
    cells = [f"{entropy.quantile(share, 'linear'):.2f}" for share in QUANTILES]
    inside = float(entropy.is_between(*SPREAD).cast(pl.Float64).mean())  # type: ignore[arg-type]
    cells = [name, when, str(len(files)), f"{len(entropy):,}", *cells, f"{entropy.max():.2f}", f"{100 * inside:.0f}"]
    return f"| {' | '.join(cells)} |"


def table(study: Study, results: Path, method: str) -> str:
    """The table in Markdown.

    Raises :class:`~empg.errors.DataError` where no run of the method is there.
    """
    lines = [HEAD, "|---" * HEAD.count(" | ") + "|---|"]
    for name in study.pools or study.environments:
        members = study.pools.get(name, (name,))
        last = study.environments[members[0]].train.iterations - 1
        for when, iteration in (("first", 0), ("half-way", last // 2), ("last", last)):
            runs = f"{method}/seed*/train/rollouts/iteration_{iteration:04d}.parquet"
            files = [file for member in members for file in sorted((results / member).glob(runs))]
            if not files:
                raise DataError(f"{results / members[0]}: expected {runs}, found none")
            lines.append(row(name, when, files))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a study's folder")
    parser.add_argument("--method", default="grpo", help="(default: %(default)s)")
    chosen = parser.parse_args()
    config = chosen.results / "config" / "study.json"
    print(table(parse(Study, read_json(config), str(config)), chosen.results, chosen.method), end="")
