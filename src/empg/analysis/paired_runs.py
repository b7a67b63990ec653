"""Differences of single runs: what a study with few seeds shows instead of an interval over seeds."""

from __future__ import annotations

from typing import Any

import polars as pl

from empg.analysis.crossed import paired_difference
from empg.analysis.success import PANEL_KEY, clusters, outcomes
from empg.config import Study

PAIRED_RUNS = (
    dict.fromkeys((*PANEL_KEY, "method", "against"), pl.String)
    | {"seed": pl.Int64}
    | dict.fromkeys(("difference", "low", "high"), pl.Float64)
)


def paired_runs(study: Study, episodes: pl.DataFrame) -> pl.DataFrame:
    """One row for each panel, compared method and seed: its success minus that of ``against`` with the same seed.

    ``low`` and ``high`` bound the interval over tasks, for other tasks and these two policies.
    """
    rows: list[dict[str, Any]] = []
    for key, played in episodes.group_by(PANEL_KEY, maintain_order=True):
        for method in study.methods:
            if (against := study.compared_with(method)) is None:
                continue
            own, other = outcomes(played, method), outcomes(played, against)
            for i, seed in enumerate(sorted(study.seeds)):
                found = paired_difference(own[i : i + 1], other[i : i + 1], clusters(played, method))
                row = dict(zip(PANEL_KEY, key, strict=True)) | {"method": method, "against": against, "seed": seed}
                rows.append(row | {"difference": found.value, "low": found.tasks_low, "high": found.tasks_high})
    return pl.DataFrame(rows, schema=PAIRED_RUNS)
