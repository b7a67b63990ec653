"""What a search for learning rates decides."""

from __future__ import annotations

import polars as pl

from empg.analysis.statistics import mean_over_runs


def rate_choice(search: pl.DataFrame) -> pl.DataFrame:
    """The learning rates that a search decides for: one row for each environment and ``factor`` other than 1.

    ``search`` has one run for each environment, method and ``factor``, which multiplies the environment's rates.
    ``difference``, ``low`` and ``high`` compare the sampled success of a factor with that of factor 1: the mean over
    methods with Student's t interval over their runs. ``chosen`` is the factor with the largest difference among those
    whose interval is above 0, or else 1. All methods get the same factor, so that rates never explain a difference
    between methods.
    """
    rows = []
    for environment in search["environment"].unique(maintain_order=True):
        runs = search.filter(environment=environment).sort("method")
        own = runs.filter(factor=1)["sampled"].to_numpy()
        found = {
            factor: mean_over_runs(runs.filter(factor=factor)["sampled"].to_numpy() - own)
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
