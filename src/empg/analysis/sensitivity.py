"""How success depends on k, k' and ζ of EMPG, for studies whose methods form a grid of these settings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import polars as pl

from empg.config import Study

SETTINGS = {"k": "k", "k_future": "k'", "zeta": "ζ"}


def sensitivity(study: Study, results: pl.DataFrame) -> pl.DataFrame:
    """Rows of the result table for methods that differ only in k, k' or ζ, with columns for these settings.

    Such methods form a family, named after its first method; methods on GRPO and on DAPO are two families. Families
    that vary fewer than two of the settings have no rows.
    """
    rows = [
        {
            "environment": environment,
            "method": name,
            **{key: getattr(method.in_environment(settings.zeta), key, None) for key in SETTINGS},
            "others": method.model_dump_json(exclude=set(SETTINGS)),
        }
        for environment, settings in study.environments.items()
        for name, method in study.methods.items()
        if method.modulation != "none"
    ]
    schema = dict.fromkeys(("environment", "method", "others"), pl.String) | dict.fromkeys(SETTINGS, pl.Float64)
    per = ["environment", "others"]
    varied = pl.sum_horizontal(pl.col(name).n_unique().over(per) > 1 for name in SETTINGS) >= 2
    grid = pl.DataFrame(rows, schema=schema).filter(varied).with_columns(family=pl.col("method").first().over(per))
    columns = ["environment", "split", "mode", "method", "seeds", "success", "low", "high"]
    joined = grid.join(results.select(columns), on=["environment", "method"], maintain_order="left")
    return joined.select(
        "environment", "split", "mode", "family", "method", *SETTINGS, "seeds", "success", "low", "high"
    )


def maps(rows: pl.DataFrame) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """Each pair of settings that both vary, with the rows where the third setting has its most frequent value."""
    for x, y in combinations(SETTINGS, 2):
        (third,) = set(SETTINGS) - {x, y}
        part = rows.filter(pl.col(third) == rows[third].mode().sort().first())
        if part[x].n_unique() > 1 and part[y].n_unique() > 1:
            yield x, y, part
