"""The primary contrast of the pre-registered experiment, as docs/preregistration.md declares it.

    python -m benchmarks.primary_contrast results/experiment

takes the runs of the first study and of those that add seeds, and prints a page in Markdown. The signs are the
published predictions, so no number of the outcome can change them. ``--look 2`` takes the runs of the second look
alone, whatever else is planned or made. ``--final`` says that the experiment stops at this look: only then is
equivalence tested. ``--outcomes FOLDER`` writes there what every run made of every task, and

    python -m benchmarks.primary_contrast FOLDER

prints the same page from it, but for the noise of single episodes. ``--arms A B grpo`` compares the exploratory arms A
and B with GRPO, without predicted signs and without a finding.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from empg.analysis.contrasts import noise_table
from empg.analysis.crossed import CrossedMean, adjust, combine, crossed_mean
from empg.analysis.results import Results
from empg.analysis.statistics import FEWEST_SEEDS
from empg.analysis.success import clusters, largest_pool, outcomes, with_pools
from empg.analysis.verdict import points
from empg.config import Study, parse
from empg.errors import DataError
from empg.files import read_json, write_json
from empg.schema import read_table, write_table

PREDICTIONS = Path("docs/results/experiment_decisiveness/tables/policies.csv")
SIGNS = {"+": 1, "−": -1, "none": 0}
NAMES = {sign: name for name, sign in SIGNS.items()}
REGISTERED = ("grpo_empg", "grpo")  # the arms that the plan makes findings about
#: What a run made of a task. ``seed`` is null for a warm start; ``success`` is a mean over the episodes of ``mode``.
OUTCOMES = {
    "environment": pl.String(),
    "method": pl.String(),
    "seed": pl.Int64(),
    "split": pl.String(),
    "mode": pl.String(),
    "task": pl.Int64(),
    "cluster": pl.String(),
    "success": pl.Float64(),
}
LEVEL = 0.05  # of each of the two one-sided tests of equivalence


class Look(NamedTuple):
    """A planned look: runs of each warm start, and the bound of the two-sided p."""

    number: int
    runs: tuple[int, ...]
    bound: float


LOOKS = (Look(1, (2, 2, 2, 2), 0.0019), Look(2, (4, 4, 3, 3), 0.0184), Look(3, (5, 5, 5, 5), 0.0428))


class Contrast(NamedTuple):
    """One environment: success of both arms, and their difference, over all runs and over averages of them.

    ``runs`` counts them for each warm start. ``by_warm_start`` and ``by_seed`` are over the averages of runs of one
    warm start and of runs with one seed number, which share the drawn tasks (None with two numbers: too few).
    """

    environment: str
    sign: int
    runs: tuple[int, ...]
    success: float
    against: float
    difference: CrossedMean
    by_warm_start: CrossedMean
    by_seed: CrossedMean | None
    panels: Mapping[str, CrossedMean]


def of_arms(folder: Path, arms: Sequence[str]) -> Results:
    """A study's results, of these arms alone: the others may not be there yet."""
    path = folder / "config" / "study.json"
    study = parse(Study, read_json(path), str(path))
    if unknown := set(arms) - set(study.methods):
        raise DataError(f"{path}: expected the methods {', '.join(arms)}, found no {', '.join(sorted(unknown))}")
    return Results(study.model_copy(update={"methods": {arm: study.methods[arm] for arm in arms}}), folder)


def studies(folders: Sequence[Path], arms: Sequence[str], planned: Look | None = None) -> list[Results]:
    """The results of all folders; of a planned look, the first seeds of each warm start, in the order of the folders.

    Raises :class:`~empg.errors.DataError` where the first study has no pools.
    """
    read = [of_arms(folder, arms) for folder in folders]
    pools = read[0].study.pools
    if not pools:
        raise DataError(f"{folders[0]}: expected a study with pools, found none")
    if planned is None:
        return read
    left = {name: runs for members in pools.values() for name, runs in zip(members, planned.runs, strict=True)}
    for number, results in enumerate(read):
        names = [name for name in results.study.environments if name in left]
        seeds = results.study.seeds[: min((left[name] for name in names), default=0)]
        left |= {name: left[name] - len(seeds) for name in names}
        read[number] = Results(results.study.model_copy(update={"seeds": seeds}), results.root)
    return [results for results in read if results.study.seeds]


def played(read: Sequence[Results]) -> pl.DataFrame:
    """The tasks that the runs of all arms, and their warm starts, played in all studies (:data:`OUTCOMES`).

    Raises :class:`~empg.errors.DataError` that names a run which is missing, is there twice, or began with other data
    or another warm start than the other runs of its environment.
    """
    tables = []
    seen: dict[tuple[str, str, int | None], Path] = {}
    began: dict[str, tuple[dict[str, str], Path]] = {}
    for results in read:
        for run in results.trained():
            key, place = (run.environment, run.method, run.seed), run.train / "manifest.json"
            if key in seen:
                raise DataError(f"{place}: expected each run once, found it in {seen[key]} too")
            seen[key] = place
            inputs = {name: read_json(place)["inputs"][name] for name in ("data", "model")}
            known, where = began.setdefault(run.environment, (inputs, place))
            if known != inputs:
                raise DataError(f"{place}: expected the data and warm start of {where}, found others")
        tables.append(results.task_means().select(*OUTCOMES))
    return pl.concat(tables).unique([name for name in OUTCOMES if name != "success"], maintain_order=True)


def write_outcomes(study: Study, tasks: pl.DataFrame, folder: Path) -> None:
    """Write a study and what :func:`played` found, for :func:`read_outcomes`."""
    write_json(folder / "study.json", study.model_dump(mode="json"))
    write_table(tasks, OUTCOMES, folder / "outcomes.parquet")


def read_outcomes(folder: Path) -> tuple[Study, pl.DataFrame]:
    """The study and the tasks that :func:`write_outcomes` wrote."""
    path = folder / "study.json"
    return parse(Study, read_json(path), str(path)), read_table(folder / "outcomes.parquet", OUTCOMES)


def contrast(study: Study, environment: str, sign: int, tasks: pl.DataFrame, arms: tuple[str, str]) -> Contrast:
    """The contrast of one pool of ``study``, from the tasks of its runs played in one mode
    (:func:`~empg.analysis.success.with_pools`)."""
    own, other, labels = outcomes(tasks, arms[0]), outcomes(tasks, arms[1]), clusters(tasks, arms[0])
    difference = own - other
    seed, member = np.divmod(tasks["seed"].unique().sort().to_numpy(), largest_pool(study))
    panels = {}
    for (split,), part in tasks.group_by("split", maintain_order=True):
        values = outcomes(part, arms[0]) - outcomes(part, arms[1])
        panels[str(split)] = crossed_mean(values, clusters(part, arms[0]))
    return Contrast(
        environment,
        sign,
        tuple(np.bincount(member, minlength=len(study.pools[environment])).tolist()),
        float(own.mean()),
        float(other.mean()),
        crossed_mean(difference, labels),
        crossed_mean(_averages(difference, member), labels),
        crossed_mean(_averages(difference, seed), labels) if len(np.unique(seed)) >= FEWEST_SEEDS else None,
        dict(sorted(panels.items())),
    )


def _averages(difference: NDArray[np.float64], label: NDArray[np.int64]) -> NDArray[np.float64]:
    """Means of the rows with one label, ``[labels, tasks]``."""
    return np.stack([difference[label == value].mean(0) for value in np.unique(label)])


def primary(found: Sequence[Contrast], *, over: str = "difference", signs: bool = True) -> CrossedMean:
    """The mean over the environments with a predicted sign, times that sign; over all of them where none has one.

    ``over`` names the field of :class:`Contrast`.
    """
    signed = [one for one in found if one.sign] if signs else []
    parts = signed or list(found)
    values: list[CrossedMean] = [getattr(one, over) for one in parts]
    flipped = [v._replace(value=v.value * one.sign) for v, one in zip(values, parts, strict=True)] if signed else values
    return combine(flipped)


def look(found: Sequence[Contrast]) -> Look | None:
    """The planned look that has these runs, the same in all environments; None: there is no such look."""
    return next((one for one in LOOKS if {c.runs for c in found} == {one.runs}), None)


def finding(found: Sequence[Contrast], margin: float, *, final: bool = False) -> list[str]:
    """What the plan's table says of these contrasts; equivalence only where the experiment stops (``final``)."""
    planned = look(found)
    if planned is None:
        return ["no planned look"]
    whole, plain, made = primary(found), primary(found, signs=False), []
    averaged = primary(found, over="by_warm_start")
    if any(one.sign for one in found) and _below(whole.p_difference(), planned.bound):
        scope = "" if _below(averaged.p_difference(), planned.bound) else ONLY
        made.append(("support for the hypothesis" if whole.value > 0 else "against the hypothesis") + scope)
    if final and _below(whole.p_equivalence(margin), LEVEL):
        made.append("equivalence" + ("" if _below(averaged.p_equivalence(margin), LEVEL) else ONLY))
    if plain.value < 0 and _below(plain.p_difference(), planned.bound):
        made.append("harm")
    return made or ["nothing shown"]


ONLY = ", for these four warm starts only"


def prediction(one: Contrast, bound: float, margin: float, *, final: bool) -> str:
    """Whether one environment's prediction holds, fails or is open."""
    if _below(one.difference.p_difference(), bound):
        return "holds" if one.sign and one.difference.value * one.sign > 0 else "fails"
    if final and not one.sign and _below(one.difference.p_equivalence(margin), LEVEL):
        return "holds"
    return "open"


def _below(p: float | None, bound: float) -> bool:
    return p is not None and p < bound


def page(found: Sequence[Contrast], arms: tuple[str, str], margin: float, mode: str, *, final: bool = False) -> str:
    """The page in Markdown."""
    planned = look(found)
    lines = [
        f"{arms[0]} minus {arms[1]}, {mode}, in points; 95 % intervals for other seeds and tasks.",
        "",
        f"| environment | predicted sign | runs | {arms[0]} | {arms[1]} | difference | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        shares = f"{100 * one.success:.1f} | {100 * one.against:.1f}"
        runs = f"{sum(one.runs)} | {shares} | {_numbers(one.difference)}"
        lines.append(f"| {one.environment} | {NAMES[one.sign]} | {runs} |")
    name = "primary, signs as predicted" if arms == REGISTERED else "all environments"
    lines.append(f"| {name} | | | | | {_numbers(primary(found))} |")
    lines += [
        f"| as a check, {name} | | | | | {_numbers(primary(found, over=over))} |"
        for name, over in _checks(found).items()
    ]
    if any(one.sign for one in found):
        lines.append(f"| all environments, without signs | | | | | {_numbers(primary(found, signs=False))} |")
    lines += ["", "| panel | difference | p | p by Holm |", "|---|---|---|---|"]
    panels = [(f"{one.environment} {split}", value) for one in found for split, value in one.panels.items()]
    holm = adjust([(value.p_difference(), None) for _, value in panels])
    lines += [
        f"| {name} | {_numbers(value)} | {_p(adjusted)} |"
        for (name, value), (adjusted, _) in zip(panels, holm, strict=True)
    ]
    if mode == "greedy" and arms == REGISTERED:
        lines += ["", *_said(found, planned, margin, final)]
    return "\n".join(lines) + "\n"


def over_arms(compared: Mapping[str, Sequence[Contrast]], against: str, mode: str) -> str:
    """All arms beside the same other one, over all environments and without signs, corrected for their number."""
    lines = [f"All arms minus {against}, {mode}, over all environments.", ""]
    lines += ["| arm | difference | p | p by Holm over arms |", "|---|---|---|---|"]
    values = {arm: primary(found, signs=False) for arm, found in compared.items()}
    holm = adjust([(value.p_difference(), None) for value in values.values()])
    lines += [
        f"| {arm} | {_numbers(value)} | {_p(adjusted)} |"
        for (arm, value), (adjusted, _) in zip(values.items(), holm, strict=True)
    ]
    return "\n".join(lines) + "\n"


def _said(found: Sequence[Contrast], planned: Look | None, margin: float, final: bool) -> list[str]:
    """The finding, the predictions of single environments and the tests of equivalence, in sentences."""
    made = "; ".join(finding(found, margin, final=final))
    if planned is None:
        return [f"Finding: {made}."]
    lines = [f"Look {planned.number}, bound of p {planned.bound}. Finding: {made}."]
    held = ", ".join(f"{one.environment} {prediction(one, planned.bound, margin, final=final)}" for one in found)
    lines.append(f"Predictions of single environments: {held}.")
    if not final:
        return [*lines, "Equivalence is tested at the look at which the experiment stops."]
    values = {"primary": primary(found), "all environments": primary(found, signs=False)}
    values |= {one.environment: one.difference for one in found}
    tests = ", ".join(f"{name} p {_p(value.p_equivalence(margin))}" for name, value in values.items())
    checks = ", ".join(
        f"{name} p {_p(primary(found, over=over).p_equivalence(margin))}" for name, over in _checks(found).items()
    )
    return [*lines, f"Equivalence within {100 * margin:g} points: {tests}. As a check, primary: {checks}."]


def _checks(found: Sequence[Contrast]) -> dict[str, str]:
    """The averages over which the primary contrast is checked, and the fields that have them."""
    checks = {"warm starts averaged": "by_warm_start"}
    return checks | ({"seed numbers averaged": "by_seed"} if all(one.by_seed for one in found) else {})


def lifts(study: Study, tasks: pl.DataFrame) -> str:
    """Greedy success of each arm's runs on each panel, and their lifts over their own warm starts, in Markdown."""
    run = ["environment", "split", "method", "seed"]
    pool = {name: pool for pool, members in study.pools.items() for name in members}
    panels = tasks.filter(mode="greedy").group_by(run).agg(pl.mean("success"))
    warm = panels.filter(pl.col("seed").is_null()).select("environment", "split", warm="success")
    runs = panels.drop_nulls("seed").join(warm, on=["environment", "split"])
    runs = runs.with_columns(pool=pl.col("environment").replace_strict(pool), lift=pl.col("success") - pl.col("warm"))
    lift = pl.col("lift")
    rows = runs.sort("pool", "split", "method").group_by("pool", "split", "method", maintain_order=True)
    table = rows.agg(
        pl.len().alias("n"), pl.mean("warm", "success"), median=lift.median(), low=lift.min(), high=lift.max()
    )
    lines = [
        "Greedy success in % and each run's lift over its own warm start, in points.",
        "",
        "| environment | panel | arm | runs | warm starts | success | lift: median | lowest to highest run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table.iter_rows(named=True):
        cells = [row["pool"], row["split"], row["method"], str(row["n"])]
        cells += [f"{100 * row[name]:.1f}" for name in ("warm", "success")]
        cells += [points(row["median"]), f"{points(row['low'])} to {points(row['high'])}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def noise(results: Results) -> str:
    """What episodes beside the first would change: standard errors of the sampled differences, in Markdown."""
    lines = [
        "Standard error in points of the sampled difference, by the episodes that each run plays of a task.",
        "",
        "| environment | panel | runs | one | as played | without end | share of their noise, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in noise_table(results.study, results.episodes()).iter_rows(named=True):
        errors = [row[f"standard_error{end}"] for end in ("_1", "", "_limit")]
        cells = [row["environment"], row["split"], str(row["seeds"]), *(f"{100 * error:.2f}" for error in errors)]
        share = "" if row["noise_share"] is None else f"{100 * row['noise_share']:.0f}"
        lines.append(f"| {' | '.join([*cells, share])} |")
    return "\n".join(lines) + "\n"


def _numbers(mean: CrossedMean) -> str:
    low, high = mean.interval()
    ends = "all alike" if low is None or high is None else f"{points(low)} to {points(high)}"
    return f"{points(mean.value)} ({ends}) | {_p(mean.p_difference())}"


def _p(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2g}" if value < 0.01 else f"{value:.3f}"


def main(study: Study, tasks: pl.DataFrame, predictions: Path, arms: Sequence[str], *, final: bool) -> str:
    """The pages of greedy and sampled play for each arm beside the last, and the lifts.

    Pools and the margin are those of ``study``. Arms that are not registered have no predicted sign and no finding.

    Raises :class:`~empg.errors.DataError` for an arm without runs.
    """
    if missing := set(arms) - set(tasks["method"]):
        raise DataError(f"outcomes: expected runs of {', '.join(arms)}, found none of {', '.join(sorted(missing))}")
    pooled = with_pools(study, tasks)
    predicted = dict(pl.read_csv(predictions).select("environment", "prediction").iter_rows())
    parts = []
    compared: dict[str, dict[str, list[Contrast]]] = {"greedy": {}, "sampled": {}}
    for pair in ((arm, arms[-1]) for arm in arms[:-1]):
        signs = {pool: SIGNS[predicted[pool]] if pair == REGISTERED else 0 for pool in study.pools}
        for mode, by_arm in compared.items():
            played_so = pooled.filter(mode=mode)
            by_arm[pair[0]] = found = [
                contrast(study, pool, sign, played_so.filter(environment=pool), pair) for pool, sign in signs.items()
            ]
            parts.append(page(found, pair, study.primary.margin, mode, final=final))
    if len(arms) > 2:
        parts += [over_arms(by_arm, arms[-1], mode) for mode, by_arm in compared.items()]
    return "\n".join([*parts, lifts(study, tasks)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results", type=Path, nargs="+", help="folders of the studies, the first with the pools; or one of outcomes"
    )
    parser.add_argument("--predictions", type=Path, default=PREDICTIONS, help="table of predicted signs (CSV)")
    parser.add_argument("--arms", nargs="+", default=REGISTERED, help="each beside the last (default: %(default)s)")
    parser.add_argument(
        "--look", type=int, choices=[one.number for one in LOOKS], help="of all runs, those of this look"
    )
    parser.add_argument("--final", action="store_true", help="the experiment stops here: test equivalence")
    parser.add_argument("--outcomes", type=Path, help="a folder to write what every run made of every task to")
    chosen = parser.parse_args()
    arms = tuple(chosen.arms)
    if len(arms) < 2:
        parser.error(f"--arms: expected two or more, found {arms[0]}")
    if (chosen.results[0] / "outcomes.parquet").exists():
        if len(chosen.results) > 1 or chosen.look or chosen.outcomes:
            parser.error(
                f"{chosen.results[0]} holds outcomes: expected neither other folders nor --look nor --outcomes"
            )
        print(main(*read_outcomes(chosen.results[0]), chosen.predictions, arms, final=chosen.final), end="")
    else:
        read = studies(chosen.results, arms, LOOKS[chosen.look - 1] if chosen.look else None)
        study, tasks = read[0].study, played(read)
        print(main(study, tasks, chosen.predictions, arms, final=chosen.final), end="")
        if arms == REGISTERED:
            print(f"\n{noise(read[0])}", end="")
        if chosen.outcomes:
            write_outcomes(study, tasks, chosen.outcomes)
