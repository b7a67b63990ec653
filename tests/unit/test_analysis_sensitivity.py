"""The methods that form a grid of EMPG's settings, and their maps."""

from __future__ import annotations

import polars as pl

from empg.analysis.sensitivity import maps, sensitivity
from empg.config import Study, parse
from empg.report.figures import _sensitivity
from empg.report.style import to_svg

EMPG = {"advantage": "grpo", "modulation": "empg"}


def _study(**methods: dict[str, object]) -> Study:
    grid = {"grpo": {"advantage": "grpo"}, **methods}
    return parse(Study, {"environments": {"alfworld": {}}, "methods": grid, "seeds": [1]}, "test")


def _results(study: Study) -> pl.DataFrame:
    place = {"environment": "alfworld", "split": "valid_unseen", "mode": "sampled", "seeds": 1}
    rows = [place | {"method": m, "success": 0.1 * i, "low": None, "high": None} for i, m in enumerate(study.methods)]
    return pl.DataFrame(rows, schema_overrides={"low": pl.Float64, "high": pl.Float64})


def test_no_grid_no_rows() -> None:
    study = _study(empg=EMPG, strong={**EMPG, "k": 2.0})  # one setting varies
    assert sensitivity(study, _results(study)).is_empty()


def test_maps_hold_the_third_setting_at_its_usual_value() -> None:
    settings = {"plain": {}, "k": {"k": 2.0}, "future": {"k_future": 2.0}, "both": {"k": 2.0, "k_future": 2.0}}
    own = {name: EMPG | values for name, values in settings.items()}
    study = _study(**own, zeta=EMPG | {"zeta": 0.2}, other={"advantage": "dapo", "modulation": "empg", "k": 3.0})
    rows = sensitivity(study, _results(study))
    assert rows["method"].to_list() == ["plain", "k", "future", "both", "zeta"]  # DAPO's method is in no grid
    assert rows["family"].unique().to_list() == ["plain"]
    found = {(x, y): part["method"].to_list() for x, y, part in maps(rows)}
    assert found == {
        ("k", "k_future"): ["plain", "k", "future", "both"],
        ("k", "zeta"): ["plain", "k", "zeta"],
        ("k_future", "zeta"): ["plain", "future", "zeta"],
    }


def test_a_map_shows_the_success_of_each_cell() -> None:
    study = _study(a=EMPG, b=EMPG | {"k": 2.0, "k_future": 2.0})
    results = _results(study)
    rows = sensitivity(study, results)
    (panel,) = _sensitivity(study, {"sensitivity": rows, "results": results})
    svg = to_svg(panel, themed=True)
    assert ">10.0%<" in svg
    assert ">20.0%<" in svg
    assert "grpo: 0.0 %" in svg
