"""The testbed's tables: means and paired differences to the baseline, with 95 % intervals over worlds or seeds."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from empg.analysis.statistics import mean_over_seeds
from empg.testbed.gradients import MAP

ENTROPIES = ("decisive_entropy", "other_entropy")


def compare(rows: pl.DataFrame, baseline: str, quantity: str, unit: str, keys: Sequence[str]) -> pl.DataFrame:
    """Mean of ``quantity`` for each of ``keys`` and method, and its difference to the baseline in the same ``unit``.

    Columns ``mean``, ``low``, ``high``, ``difference``, ``difference_low``, ``difference_high`` and ``units``, their
    number. Intervals are Student's t over units (worlds or seeds): what other ones would give.
    """
    base = rows.filter(method=baseline).select(*keys, unit, base=quantity)
    paired = rows.join(base, on=[*keys, unit], how="left", maintain_order="left")
    found = []
    for group, part in paired.group_by(*keys, "method", maintain_order=True):
        value = mean_over_seeds(part[quantity].to_numpy())
        change = mean_over_seeds((part[quantity] - part["base"]).to_numpy())
        found.append((*group, quantity, *value, *change, len(part)))
    ends = ["mean", "low", "high", "difference", "difference_low", "difference_high", "units"]
    return pl.DataFrame(found, schema=[*keys, "method", "quantity", *ends], orient="row", infer_schema_length=None)


def tables(gradients: pl.DataFrame, learning: pl.DataFrame, baseline: str) -> dict[str, pl.DataFrame]:
    """``map``: cosine and signal-to-noise; ``sweeps``: cosine; ``learning``: success; ``area``: over the map."""
    on_map = gradients.filter(sweep=MAP)
    mapped = pl.concat(compare(on_map, baseline, name, "world", ENTROPIES) for name in ("cosine", "snr"))
    swept = gradients.filter(pl.col("sweep") != MAP)
    keys = ("sweep", "value", *ENTROPIES)
    trained = (compare(learning, baseline, name, "seed", (*ENTROPIES, "optimiser")) for name in ("success", "area"))
    found = {"map": mapped, "learning": pl.concat(trained), "area": overall(on_map, baseline)}
    return found | ({"sweeps": compare(swept, baseline, "cosine", "world", keys)} if len(swept) else {})


def overall(on_map: pl.DataFrame, baseline: str) -> pl.DataFrame:
    """For each method the mean difference in cosine over the map's area, with its interval, and its worst place.

    Every world is at every place, so the interval is over worlds. ``worse`` and ``better`` count the places whose own
    interval lies below and above 0.
    """
    everywhere = on_map.with_columns(place=pl.lit(0.0))
    mean = everywhere.group_by("place", "method", "world", maintain_order=True).agg(pl.col("cosine").mean())
    area = compare(mean, baseline, "cosine", "world", ("place",)).drop("place")
    places = compare(on_map, baseline, "cosine", "world", ENTROPIES)
    worst = places.group_by("method", maintain_order=True).agg(
        worst=pl.col("difference").min(),
        **{f"worst_{name}": pl.col(name).sort_by("difference").first() for name in ENTROPIES},
        worse=(pl.col("difference_high") < 0).sum(),
        better=(pl.col("difference_low") > 0).sum(),
        places=pl.len(),
    )
    return area.join(worst, on="method", maintain_order="left").sort("difference", descending=True)
