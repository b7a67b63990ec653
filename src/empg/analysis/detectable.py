"""The smallest difference that a study could have shown, from its own intervals."""

from __future__ import annotations

from typing import Any

import polars as pl
from scipy import stats

from empg.analysis.success import PANEL_KEY

POWER = 0.8
LEVEL = 0.05  # two-sided
DETECTABLE = dict.fromkeys((*PANEL_KEY, "method"), pl.String) | {"detectable": pl.Float64, "over": pl.String}


def detectable_difference(half_width: float, freedom: float = float("inf")) -> float:
    """The true difference that a test at 5 % shows with a power of 80 %, from the half width of a 95 % interval.

    The half width is ``t(0.975)`` standard errors with ``freedom`` degrees of freedom, and the difference is
    ``t(0.975) + t(0.8)`` of them (Bloom 1995, "Minimum detectable effects"). Without ``freedom`` both are normal
    quantiles, so the difference is 2.8/1.96 half widths. The normal form of the second quantile is slightly too
    small for two or three degrees of freedom.
    """
    level, power = (float(stats.t.ppf(q, freedom)) for q in (1 - LEVEL / 2, POWER))
    return half_width * (level + power) / level


def detectable(results: pl.DataFrame) -> pl.DataFrame:
    """What each comparison of the table of results could have shown, one row for each panel and method, as a share.

    ``over`` says which interval it comes from: ``seeds``, or ``tasks`` where there are too few seeds. The latter holds
    for these policies alone, so the study could have shown less.
    """
    return pl.DataFrame(
        [_row(row) for row in results.drop_nulls("against").iter_rows(named=True)], schema=DETECTABLE
    )


def _row(row: dict[str, Any]) -> dict[str, Any]:
    over = "tasks" if row["difference_seeds_low"] is None else "seeds"
    half = (row[f"difference_{over}_high"] - row[f"difference_{over}_low"]) / 2
    value = detectable_difference(half, row["seeds"] - 1 if over == "seeds" else float("inf"))
    return {name: row[name] for name in (*PANEL_KEY, "method")} | {"detectable": value, "over": over}
