"""The rules behind the report's box of warnings, the detectable difference, and what methods are called."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from empg.analysis import warnings
from empg.analysis.contrasts import VERDICT
from empg.analysis.detectable import detectable, detectable_difference
from empg.analysis.paired_runs import PAIRED_RUNS, paired_runs
from empg.config import Study, parse
from empg.report import overview
from empg.report.names import titles, with_titles
from empg.report.page import needed

PLACE = {"environment": "webshop", "split": "valid", "mode": "greedy", "method": "GRPO"}


def study(methods: dict[str, Any], seeds: int = 1) -> Study:
    given = {"environments": {"webshop": {}}, "methods": methods, "seeds": list(range(1, seeds + 1))}
    return parse(Study, given, "test")


def panels(*success: float, n: int = 500) -> pl.DataFrame:
    """A row for each seed of one method, and one of the warm start, which has none."""
    rows = [{**PLACE, "seed": seed, "success": value, "tasks": n} for seed, value in enumerate(success, 1)]
    return pl.DataFrame([*rows, {**PLACE, "method": "warmstart", "seed": None, "success": 0.0, "tasks": n}])


def compared(mode: str, low: float, high: float, *, seeds: int = 5) -> pl.DataFrame:
    """One comparison of the verdict's table on one panel, and the same over all panels."""
    row = {**PLACE, "mode": mode, "against": "GRPO", "method": "GRPO + EMPG", "seeds": seeds, "difference": 0.03}
    row |= {"low": low, "high": high, "standard_error": 0.01, "freedom": 2.0, "over": "seeds and tasks"}
    return pl.DataFrame([row, row | {"environment": "all"}], schema_overrides=VERDICT)


def test_a_run_far_from_its_siblings_is_an_outlier() -> None:
    notice = warnings.outliers(panels(0.418, 0.574))
    assert notice is not None
    assert notice.details == (
        "webshop valid, greedy, GRPO: seed 1 41.8\N{NO-BREAK SPACE}%, seed 2 57.4\N{NO-BREAK SPACE}%",
    )


@pytest.mark.parametrize(
    "found",
    [
        panels(0.45, 0.54),  # nine points, more than tasks explain
        panels(0.3, 0.6, n=20),  # thirty points, which 20 tasks explain
        panels(0.4),
    ],
)
def test_other_runs_are_not_outliers(found: pl.DataFrame) -> None:
    assert warnings.outliers(found) is None


def test_an_outlier_among_many_seeds_is_found_by_the_mean_of_the_others() -> None:
    assert warnings.outliers(panels(0.50, 0.52, 0.51, 0.49, 0.66)) is not None
    assert warnings.outliers(panels(0.50, 0.52, 0.51, 0.49, 0.56)) is None


@pytest.mark.parametrize(("seeds", "words"), [(1, "One seed"), (2, "one by one"), (3, "3 seeds"), (5, None)])
def test_few_seeds_are_said(seeds: int, words: str | None) -> None:
    notice = warnings.few_seeds(seeds)
    assert notice is None if words is None else words in notice.title  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("mode", "low", "high", "said"),
    [("greedy", 0.01, 0.05, True), ("greedy", -0.01, 0.07, False), ("sampled", 0.01, 0.05, False)],
)
def test_greedy_differences_are_said_where_an_interval_excludes_0(
    mode: str, low: float, high: float, said: bool
) -> None:
    notice = warnings.greedy(compared(mode, low, high), pl.DataFrame(schema=PAIRED_RUNS))
    expected = ("webshop valid, GRPO + EMPG minus GRPO: +3.0 points (+1.0 to +5.0)",) if said else None
    assert (notice and notice.details) == expected


def test_greedy_differences_of_few_seeds_are_those_of_runs() -> None:
    row = {**PLACE, "method": "GRPO + EMPG", "against": "GRPO", "seed": 2, "difference": -0.04, "low": -0.07}
    row |= {"high": -0.01}
    runs = pl.DataFrame([row, row | {"seed": 1, "high": 0.01}, row | {"mode": "sampled"}], schema=PAIRED_RUNS)
    notice = warnings.greedy(compared("greedy", 0.01, 0.05, seeds=2), runs)
    assert notice is not None
    assert notice.details == ("webshop valid, GRPO + EMPG minus GRPO, seed 2: −4.0 points (−7.0 to −1.0)",)


def jobs(*rows: tuple[int | None, str | None, bool]) -> pl.DataFrame:
    return pl.DataFrame(
        [("webshop GRPO, seed 1", "training", *row) for row in rows], schema=warnings.RUN_SCHEMA, orient="row"
    )


def test_resumed_jobs_and_unknown_costs_are_said() -> None:
    assert warnings.resumed(jobs((1, "A", True), (None, None, True))) is None
    notice = warnings.resumed(jobs((3, "A", True), (1, "A", False)))
    assert notice is not None
    assert notice.details == (
        "webshop GRPO, seed 1, training: 3 processes",
        "webshop GRPO, seed 1, training: cost partly unknown",
    )


def test_the_processor_is_always_said() -> None:
    assert "Processor: A, AVX2." in warnings.processors(jobs((1, "A, AVX2", True))).title
    assert "unknown" in warnings.processors(jobs((1, None, True))).title
    notice = warnings.processors(jobs((1, "B", True), (1, "A", True)))
    assert "different processors" in notice.title
    assert notice.details == ("A", "B")


def test_detectable_difference_by_hand() -> None:
    # z(0.975) + z(0.8) = 1.959964 + 0.841621; with 2 degrees of freedom 4.302653 + 1.060660.
    assert detectable_difference(0.01) == pytest.approx(0.028016, abs=1e-6)
    table = detectable(compared("greedy", 0.0, 0.06))
    assert table["detectable"].to_list() == pytest.approx([0.053633], abs=1e-6)  # none for all panels together


def test_a_detectable_difference_is_found_as_often_as_promised() -> None:
    """Four in five studies of five seeds whose methods differ by it have an interval that excludes 0."""
    random, seeds, studies = np.random.default_rng(0), 5, 4000
    true = detectable_difference(1 / seeds**0.5, seeds - 1)  # of differences with a standard deviation of 1
    drawn = random.normal(true, 1.0, (studies, seeds))
    half = 2.776445 * drawn.std(1, ddof=1) / seeds**0.5  # t(0.975), 4 degrees of freedom
    assert 0.75 < np.mean(drawn.mean(1) - half > 0) < 0.85


def test_paired_runs_are_differences_of_one_seed() -> None:
    given = study({"grpo": {"advantage": "grpo"}, "grpo_empg": {"advantage": "grpo", "modulation": "empg"}}, 2)
    solved = {
        ("grpo", 1): [0, 0, 1, 1],
        ("grpo", 2): [1, 1, 1, 1],
        ("grpo_empg", 1): [1, 1, 1, 1],
        ("grpo_empg", 2): [1, 1, 1, 1],
    }
    episodes = pl.DataFrame(
        [
            {**PLACE, "method": method, "seed": seed, "task": task, "cluster": "", "success": float(value)}
            for (method, seed), values in solved.items()
            for task, value in enumerate(values)
        ]
    )
    first, second = paired_runs(given, episodes).to_dicts()
    assert (first["seed"], first["difference"], first["against"]) == (1, 0.5, "grpo")
    assert first["low"] < 0.5 < first["high"]
    assert second["difference"] == 0


def test_methods_are_called_as_people_do() -> None:
    grpo = {"advantage": "grpo"}
    named = titles(
        study(
            {
                "grpo": grpo,
                "grpo_empg": {**grpo, "modulation": "empg"},
                "small": {**grpo, "modulation": "empg", "zeta": 0.01},
                "again": {**grpo, "modulation": "empg"},
                "dapo_scale": {"advantage": "dapo", "modulation": "empg_scale"},
                "gigpo": {"advantage": "gigpo"},
            }
        )
    )
    assert list(named.values()) == [
        "GRPO",
        "GRPO + EMPG [grpo_empg]",
        "GRPO + EMPG (ζ 0.01)",
        "GRPO + EMPG [again]",
        "DAPO + EMPG (scale)",
        "GiGPO",
    ]


def test_titles_replace_names_in_study_and_tables() -> None:
    given = study({"grpo": {"advantage": "grpo"}, "grpo_empg": {"advantage": "grpo", "modulation": "empg"}})
    table = pl.DataFrame({"method": ["grpo_empg", "warmstart"], "against": ["grpo", None], "value": [1, 2]})
    called, tables = with_titles(given, {"some": table})
    assert called.compared_with("GRPO + EMPG") == called.baseline == "GRPO"
    assert tables["some"].rows() == [("GRPO + EMPG", "GRPO", 1), ("warmstart", None, 2)]


EFFICIENCY = {"threshold": 0.5, "seeds": 2, "reached": 2, "cpu_seconds_unknown": 0}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"cpu_seconds_median": 6.0, "cpu_seconds_least": 5.0, "cpu_seconds_most": 7.0}, ("6", "5 to 7")),
        ({"cpu_seconds_unknown": 2}, ("unknown", "")),
        (
            {"cpu_seconds_unknown": 1, "cpu_seconds_median": 5.0, "cpu_seconds_least": 5.0, "cpu_seconds_most": 5.0},
            ("5", "5 to 5, 1 unknown"),
        ),
        ({"reached": 1, "cpu_seconds_least": 5.0}, ("never for half", "5 to never")),
        ({"reached": 1, "cpu_seconds_unknown": 1}, ("unknown", "")),
        ({"reached": 0}, ("never", "")),
        ({"threshold": None}, ("", "")),
    ],
)
def test_never_is_said_only_of_a_seed_that_did_not_reach_it(row: dict[str, Any], text: tuple[str, str]) -> None:
    empty: dict[str, Any] = dict.fromkeys(f"cpu_seconds_{part}" for part in ("median", "least", "most"))
    assert needed({**EFFICIENCY, **empty, **row}, "cpu_seconds") == text


def test_the_axis_is_round_and_cuts_long_intervals() -> None:
    row = {"difference": 0.01, "low": -0.03, "high": 0.05, "outer_low": -0.4, "outer_high": 0.4}
    limit = overview.axis_limit(pl.DataFrame([row]))
    assert limit == pytest.approx(0.105)
    assert overview.ticks(limit) == pytest.approx([-0.1, -0.05, 0, 0.05, 0.1])
    assert overview.axis_limit(pl.DataFrame([row | {"outer_low": -0.06, "outer_high": 0.06}])) == pytest.approx(0.063)
