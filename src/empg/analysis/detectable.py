"""The smallest difference that a study could have shown, from the precision of its own differences."""

from __future__ import annotations

import polars as pl
from scipy import stats

from empg.analysis.contrasts import ALL
from empg.analysis.success import PANEL_KEY

POWER = 0.8
LEVEL = 0.05  # two-sided
DETECTABLE = dict.fromkeys((*PANEL_KEY, "method"), pl.String) | {"detectable": pl.Float64, "over": pl.String}


def detectable_difference(standard_error: float, freedom: float = float("inf")) -> float:
    """The true difference that a test at 5 % shows with a power of 80 %.

    That is ``t(0.975) + t(0.8)`` standard errors with ``freedom`` degrees of freedom (Bloom 1995, "Minimum detectable
    effects"), or 2.8/1.96 half widths of a normal 95 % interval. The second quantile is slightly too small for two or
    three degrees of freedom.
    """
    level, power = (float(stats.t.ppf(q, freedom)) for q in (1 - LEVEL / 2, POWER))
    return standard_error * (level + power)


def detectable(verdict: pl.DataFrame) -> pl.DataFrame:
    """What each comparison could have shown on each panel, as a share, from :mod:`empg.analysis.contrasts`' table.

    ``over`` is what was drawn anew there. With "tasks" the difference is that of these policies, so a study of methods
    could have shown less. No correction for many panels is in it. Comparisons whose values do not vary are left out.
    """
    known = verdict.filter(pl.col("environment") != ALL).drop_nulls("standard_error")
    rows = [
        {name: row[name] for name in (*PANEL_KEY, "method", "over")}
        | {"detectable": detectable_difference(row["standard_error"], row["freedom"])}
        for row in known.iter_rows(named=True)
    ]
    return pl.DataFrame(rows, schema=DETECTABLE)
