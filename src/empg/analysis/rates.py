"""What a search for learning rates decides."""

from __future__ import annotations

import polars as pl

from empg.analysis.statistics import mean_over_seeds


def rate_choice(search: pl.DataFrame) -> pl.DataFrame:
    """What a search for learning rates decides: for each environment and multiple of its rates one row.

    ``search`` has one run for each environment, method and ``factor``. ``difference``, ``low`` and ``high`` are of
    sampled success to factor 1: mean over methods, Student's t over their runs. ``chosen`` is the factor with the
    largest difference among those whose interval is above 0, or else 1. It is the same for all methods, so that no
    difference between methods is one of rates.
    """
    rows = []
    for environment in search["environment"].unique(maintain_order=True):
        runs = search.filter(environment=environment).sort("method")
        own = runs.filter(factor=1)["sampled"].to_numpy()
        found = {
            factor: mean_over_seeds(runs.filter(factor=factor)["sampled"].to_numpy() - own)
            for factor in runs["factor"].unique().sort()
            if factor != 1
        }
        better = [(estimate.value, factor) for factor, estimate in found.items() if (estimate.low or 0) > 0]
        chosen = max(better)[1] if better else 1.0
        rows += [
            {
                "environment": environment,
                "factor": factor,
                "methods": len(own),
                "difference": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "chosen": chosen,
            }
            for factor, estimate in found.items()
        ]
    return pl.DataFrame(rows, infer_schema_length=None)
