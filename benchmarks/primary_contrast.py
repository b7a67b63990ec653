"""The primary contrast of the pre-registered experiment, as docs/preregistration.md declares it.

    python -m benchmarks.primary_contrast results/experiment results/experiment_14

takes the runs of the first study and of those that add seeds, and prints a page in Markdown. The signs are the first
study's own predictions (``decisiveness/report/tables/policies.parquet``), so no number of the outcome can change them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from empg.analysis.crossed import CrossedMean, adjust, combine, crossed_mean
from empg.analysis.results import Results
from empg.analysis.success import clusters, outcomes, with_pools
from empg.analysis.verdict import points
from empg.config import Study, parse
from empg.files import read_json
from empg.schema import read_parquet

BOUNDS = {8: 0.0019, 14: 0.0184, 20: 0.0428}  # two-sided p at each look, by runs of an arm in each environment
SIGNS = {"+": 1, "−": -1, "none": 0}
NAMES = {sign: name for name, sign in SIGNS.items()}
LEVEL = 0.05  # of each of the two one-sided tests of equivalence


class Contrast(NamedTuple):
    """One environment: success of both arms, and their difference, over all runs and over averages of warm starts."""

    environment: str
    sign: int
    runs: int
    success: float
    against: float
    difference: CrossedMean
    by_warm_start: CrossedMean
    panels: Mapping[str, CrossedMean]


def played(folders: Sequence[Path], arms: tuple[str, str]) -> tuple[Study, pl.DataFrame]:
    """The first folder's study, and the tasks of both arms' runs in all folders, its pools as environments.

    ``seed`` is a number for each warm start and seed; its remainder by the size of the pool is the warm start. Raises
    :class:`~empg.errors.DataError` that names the run which is missing.
    """
    studies = [parse(Study, read_json(path), str(path)) for path in (f / "config" / "study.json" for f in folders)]
    first, tables = studies[0], []
    for study, folder in zip(studies, folders, strict=True):
        two = study.model_copy(update={"methods": {arm: study.methods[arm] for arm in arms}})
        tables.append(with_pools(first, Results(two, folder).task_means()))
    return first, pl.concat(tables)


def contrast(environment: str, sign: int, tasks: pl.DataFrame, arms: tuple[str, str], warm_starts: int) -> Contrast:
    """The contrast of one environment, from the tasks of its runs played in one mode."""
    own, other, labels = outcomes(tasks, arms[0]), outcomes(tasks, arms[1]), clusters(tasks, arms[0])
    difference = own - other
    member = tasks["seed"].unique().sort().to_numpy() % warm_starts
    averaged = np.stack([difference[member == number].mean(0) for number in np.unique(member)])
    panels = {}
    for (split,), part in tasks.group_by("split", maintain_order=True):
        values = outcomes(part, arms[0]) - outcomes(part, arms[1])
        panels[str(split)] = crossed_mean(values, clusters(part, arms[0]))
    return Contrast(
        environment,
        sign,
        len(difference),
        float(own.mean()),
        float(other.mean()),
        crossed_mean(difference, labels),
        crossed_mean(averaged, labels),
        dict(sorted(panels.items())),
    )


def primary(found: Sequence[Contrast], *, by_warm_start: bool = False, signs: bool = True) -> CrossedMean:
    """The mean over the environments with a predicted sign, times that sign; over all of them where none has one."""
    signed = [one for one in found if one.sign] if signs else []
    parts = signed or list(found)
    values = [one.by_warm_start if by_warm_start else one.difference for one in parts]
    flipped = [v._replace(value=v.value * one.sign) for v, one in zip(values, parts, strict=True)] if signed else values
    return combine(flipped)


def finding(found: Sequence[Contrast], margin: float) -> list[str]:
    """What the plan's table says of these contrasts."""
    bound = BOUNDS.get(min(one.runs for one in found))
    if bound is None or len({one.runs for one in found}) > 1:
        return ["no planned look"]
    whole, plain, made = primary(found), primary(found, signs=False), []
    if any(one.sign for one in found) and _below(whole.p_difference(), bound):
        made.append("support for the hypothesis" if whole.value > 0 else "against the hypothesis")
    if _below(whole.p_equivalence(margin), LEVEL):
        made.append("equivalence")
    if plain.value < 0 and _below(plain.p_difference(), bound):
        made.append("harm")
    return made or ["nothing shown"]


def _below(p: float | None, bound: float) -> bool:
    return p is not None and p < bound


def page(found: Sequence[Contrast], arms: tuple[str, str], margin: float, mode: str) -> str:
    """The page in Markdown."""
    lines = [
        f"{arms[0]} minus {arms[1]}, {mode}, in points; 95 % intervals for other seeds and tasks.",
        "",
        f"| environment | predicted sign | runs | {arms[0]} | {arms[1]} | difference | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        shares = f"{100 * one.success:.1f} | {100 * one.against:.1f}"
        lines.append(f"| {one.environment} | {NAMES[one.sign]} | {one.runs} | {shares} | {_numbers(one.difference)} |")
    lines.append(f"| primary, signs as predicted | | | | | {_numbers(primary(found))} |")
    lines.append(f"| as a check, warm starts averaged | | | | | {_numbers(primary(found, by_warm_start=True))} |")
    if any(one.sign for one in found):
        lines.append(f"| all environments, without signs | | | | | {_numbers(primary(found, signs=False))} |")
    lines += ["", "| panel | difference | p | p by Holm |", "|---|---|---|---|"]
    panels = [(f"{one.environment} {split}", value) for one in found for split, value in one.panels.items()]
    holm = adjust([(value.p_difference(), None) for _, value in panels])
    lines += [
        f"| {name} | {_numbers(value)} | {_p(adjusted)} |"
        for (name, value), (adjusted, _) in zip(panels, holm, strict=True)
    ]
    if mode == "greedy":
        equivalence, said = _p(primary(found).p_equivalence(margin)), "; ".join(finding(found, margin))
        lines += ["", f"Equivalence within {100 * margin:g} points: p {equivalence}. Finding: {said}."]
    return "\n".join(lines) + "\n"


def _numbers(mean: CrossedMean) -> str:
    low, high = mean.interval()
    ends = "all alike" if low is None or high is None else f"{points(low)} to {points(high)}"
    return f"{points(mean.value)} ({ends}) | {_p(mean.p_difference())}"


def _p(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4f}"


def main(folders: Sequence[Path], arms: tuple[str, str]) -> str:
    """The pages of greedy and sampled play. Signs, pools and the margin are those of the first folder's study."""
    study, tasks = played(folders, arms)
    table = read_parquet(folders[0] / "decisiveness" / "report" / "tables" / "policies.parquet")
    predicted = dict(table.select("environment", "prediction").iter_rows())
    parts = []
    for mode in ("greedy", "sampled"):
        found = [
            contrast(pool, SIGNS[predicted[pool]], tasks.filter(environment=pool, mode=mode), arms, len(members))
            for pool, members in study.pools.items()
        ]
        parts.append(page(found, arms, study.primary.margin, mode))
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="folders of the studies, the first with the predictions")
    parser.add_argument("--arms", nargs=2, default=("grpo_empg", "grpo"), metavar=("METHOD", "AGAINST"))
    chosen = parser.parse_args()
    print(main(chosen.results, tuple(chosen.arms)), end="")
