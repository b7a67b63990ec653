"""The table behind the verdict: each comparison of two methods on each panel, with seeds and tasks both random.

One row for each comparison, panel and mode, and one for each comparison and mode over all panels (``environment`` and
``split`` are "all"; environments count alike) where there are several. The columns, in :data:`VERDICT`:

=============================== ======================================================================================
``environment, split, mode``    the panel
``method, against``             what is compared with what
``primary``                     whether this is the study's primary contrast; all others are exploratory
``seeds, tasks, clusters``      how many there are (over all panels: the fewest seeds of an environment); a task
                                without a known cluster is one of its own
``success, success_against``    means over seeds and tasks, shares
``difference``                  ``success - success_against``
``low, high``                   its interval of 95 %, for this comparison alone; null where no value varies
``over``                        what the interval and the tests draw anew: "seeds and tasks", or "tasks" with fewer than
                                three seeds, and then they speak of these runs only
``standard_error, freedom``     of the difference; degrees of freedom of Student's t
``margin``                      the study's margin of equivalence, a share
``p_difference``                two-sided p of "the difference is 0"
``p_equivalence``               p of "the difference is ``margin`` or more", two one-sided tests
``p_difference_adjusted``       both adjusted over all rows of the primary contrast, sampled and greedy
``p_equivalence_adjusted``      (:func:`~empg.analysis.crossed.adjust`); null in exploratory rows
``claim``                       "better", "worse" or null: what the adjusted p of difference shows at 5 %
``equivalent``                  whether the adjusted p of equivalence shows at 5 % that the difference lies within the
                                margin; null in exploratory rows
=============================== ======================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from empg.analysis.crossed import CrossedMean, adjust, combine, crossed_mean
from empg.analysis.statistics import FEWEST_SEEDS
from empg.analysis.success import PANEL_KEY, clusters, outcomes, with_pools
from empg.config import Study

ALPHA = 0.05  # probability of any false claim on the page
ALL = "all"

VERDICT: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys((*PANEL_KEY, "method", "against"), pl.String),
    "primary": pl.Boolean,
    **dict.fromkeys(("seeds", "tasks", "clusters"), pl.Int64),
    **dict.fromkeys(("success", "success_against", "difference", "low", "high"), pl.Float64),
    "over": pl.String,
    **dict.fromkeys(("standard_error", "freedom", "margin", "p_difference", "p_equivalence"), pl.Float64),
    **dict.fromkeys(("p_difference_adjusted", "p_equivalence_adjusted"), pl.Float64),
    "claim": pl.String,
    "equivalent": pl.Boolean,
}


def verdict_table(study: Study, tasks: pl.DataFrame) -> pl.DataFrame:
    """The table, see above, of one row for each run, panel and task
    (:meth:`~empg.analysis.results.Results.task_means`). The primary contrast comes first."""
    rows: list[dict[str, Any]] = []
    tasks = with_pools(study, tasks)
    for method, against in contrasts(study):
        primary = (method, against) == study.contrast()
        part = [*_panels(study, tasks, method, against), *_all_panels(study, tasks, method, against)]
        rows += [row | {"method": method, "against": against, "primary": primary} for row in part]
    family = [row for row in rows if row["primary"]]
    adjusted = adjust([(row["p_difference"], row["p_equivalence"]) for row in family])
    for row, (difference, equivalence) in zip(family, adjusted, strict=True):
        shown = difference is not None and difference <= ALPHA
        row |= {
            "p_difference_adjusted": difference,
            "p_equivalence_adjusted": equivalence,
            "claim": ("better" if row["difference"] > 0 else "worse") if shown else None,
            "equivalent": equivalence is not None and equivalence <= ALPHA,
        }
    return pl.DataFrame(rows, schema=VERDICT)


def contrasts(study: Study) -> list[tuple[str, str]]:
    """Every (method, what it is compared with) of a study, the primary one first."""
    primary = study.contrast()
    others = [(method, against) for method in study.methods if (against := study.compared_with(method)) is not None]
    return others if primary is None else [primary, *(pair for pair in others if pair != primary)]


class _Comparison(NamedTuple):
    difference: CrossedMean
    success: float
    success_against: float
    seeds: int
    tasks: int
    clusters: int


def _panels(study: Study, tasks: pl.DataFrame, method: str, against: str) -> Iterator[dict[str, Any]]:
    for key, played in tasks.group_by(PANEL_KEY, maintain_order=True):
        yield dict(zip(PANEL_KEY, key, strict=True)) | _row(study, _compare(played, method, against))


def _all_panels(study: Study, tasks: pl.DataFrame, method: str, against: str) -> Iterator[dict[str, Any]]:
    """Over all panels of a mode. Panels of an environment share runs, so their tasks are pooled first."""
    if len(tasks.select("environment", "split").unique()) < 2:
        return
    for (mode,), played in tasks.group_by("mode", maintain_order=True):
        names = played["environment"].unique(maintain_order=True)
        parts = [_compare(played.filter(environment=name), method, against) for name in names]
        pooled = _Comparison(
            combine([part.difference for part in parts]),
            fmean(part.success for part in parts),
            fmean(part.success_against for part in parts),
            min(part.seeds for part in parts),
            sum(part.tasks for part in parts),
            sum(part.clusters for part in parts),
        )
        yield {"environment": ALL, "split": ALL, "mode": mode} | _row(study, pooled)


def _compare(played: pl.DataFrame, method: str, against: str) -> _Comparison:
    own, other, labels = outcomes(played, method), outcomes(played, against), clusters(played, method)
    difference = crossed_mean(own - other, labels)
    return _Comparison(
        difference, float(own.mean()), float(other.mean()), own.shape[0], own.shape[1], len(np.unique(labels))
    )


def _row(study: Study, compared: _Comparison) -> dict[str, Any]:
    margin, seeds, difference = study.primary.margin, compared.seeds, compared.difference
    low, high = difference.interval()
    return {
        **compared._asdict(),
        "difference": difference.value,
        "low": low,
        "high": high,
        "over": "seeds and tasks" if seeds >= FEWEST_SEEDS else "tasks",
        "standard_error": difference.variance**0.5 if difference.known else None,
        "freedom": difference.freedom if difference.known else None,
        "margin": margin,
        "p_difference": difference.p_difference(),
        "p_equivalence": difference.p_equivalence(margin),
    }


def noise_table(study: Study, episodes: pl.DataFrame) -> pl.DataFrame:
    """How much of the variance of a difference is noise of single evaluation episodes, where tasks are played twice or
    more: one row for each comparison and panel, with pools as environments.

    ``noise_share`` is the share of the difference's variance that other episodes of the same policies and tasks would
    change; ``standard_error`` is that of the difference as it was measured, ``standard_error_1`` with one episode a
    task and ``standard_error_limit`` with infinitely many. All policies play an episode with the same random numbers,
    so its noise is the variance, over the episodes of a task, of the mean difference of all seeds.
    """
    rows: list[dict[str, Any]] = []
    played_twice = pl.col("episode").max().over(*PANEL_KEY) > 0
    several = with_pools(study, episodes).filter(played_twice)
    for method, against in contrasts(study):
        for key, played in several.group_by(PANEL_KEY, maintain_order=True):
            differences = _plays(played, method) - _plays(played, against)  # [seeds, tasks, episodes]
            found = crossed_mean(differences.mean(-1), clusters(played.filter(episode=0), method))
            seeds, tasks, count = differences.shape
            noise = float(differences.mean(0).var(-1, ddof=1).sum()) / count / tasks**2
            rest = max(0.0, found.variance - noise)
            row = dict(zip(PANEL_KEY, key, strict=True)) | {"method": method, "against": against}
            row |= {"seeds": seeds, "tasks": tasks, "episodes": count}
            row |= {"noise_share": min(1.0, noise / found.variance) if found.known else None}
            row |= {"standard_error": found.variance**0.5, "standard_error_1": (rest + noise * count) ** 0.5}
            rows.append(row | {"standard_error_limit": rest**0.5})
    return pl.DataFrame(rows, schema=NOISE)


NOISE: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys((*PANEL_KEY, "method", "against"), pl.String),
    **dict.fromkeys(("seeds", "tasks", "episodes"), pl.Int64),
    **dict.fromkeys(("noise_share", "standard_error", "standard_error_1", "standard_error_limit"), pl.Float64),
}


def _plays(played: pl.DataFrame, method: str) -> NDArray[np.float64]:
    """Success of a method's episodes, ``[seeds, tasks, episodes]``."""
    rows = played.filter(pl.col("method") == method).sort("seed", "split", "task", "episode")
    seeds, count = rows["seed"].n_unique(), rows["episode"].n_unique()
    return rows["success"].cast(pl.Float64).to_numpy().reshape(seeds, -1, count)
