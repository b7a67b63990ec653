"""How decisiveness relates to entropy: estimates with intervals that respect episodes as clusters.

Steps of one episode are not independent, so every variance is a jackknife over whole episodes
(:mod:`empg.analysis.crossed`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata

from empg.analysis.crossed import crossed_mean
from empg.analysis.statistics import LEVEL
from empg.schema import Schema

Array = NDArray[np.float64]

BINS = 4  # quantiles of the entropy with a mean of their own
FEWEST_CLUSTERS = 10  # episodes; an interval over fewer would be a guess
ESTIMATES = (
    *("decisiveness", "luck", "entropy", "decisive_entropy", "slope", "rank_correlation"),
    *("signal_ratio", "signal_ratio_equal"),
)
KEY: Schema = {"environment": pl.String, "method": pl.String, "seed": pl.Int64, "halfway": pl.Boolean}
CURVE: Schema = KEY | {
    "quantile": pl.Int64,
    "entropy": pl.Float64,
    "states": pl.Int64,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
QUALITIES = ("cosine", "difference", "direction", "noise")
GRADIENTS: Schema = (
    KEY
    | {"estimator": pl.String, "compared": pl.String, "batches": pl.Int64, "parts": pl.Int64}
    | {f"{name}{end}": pl.Float64 for name in QUALITIES for end in ("", "_low", "_high")}
)


class Relation(NamedTuple):
    """A value and its 95 % interval for other episodes; None for what the states cannot say."""

    value: float | None
    low: float | None
    high: float | None


def summary(states: pl.DataFrame, batch: Mapping[str, float | Array], *, unit: str = "trajectory") -> dict[str, Any]:
    """Every estimate as ``{value, low, high}``: 95 % intervals for other episodes (no ends: not known).

    * ``decisiveness`` and ``luck``: means over states;
    * ``decisive_entropy``: mean entropy weighted by decisiveness, beside ``entropy``, the plain mean;
    * ``signal_ratio``: :func:`empg.core.decisiveness.signal_ratio`, with the root mean square of the whole ``batch``;
    * ``signal_ratio_equal``: the same with equal score norms;
    * ``slope``: least squares of decisiveness on the rank of the entropy, 0 to 1;
    * ``rank_correlation``: Spearman's. Noise of the estimates draws it towards 0;
    * ``curve``: mean decisiveness in :data:`BINS` quantiles of the entropy.

    ``unit`` is the column of what intervals draw anew: states that share its value depend on each other.
    """
    d, entropy, scale, norm = (
        states[name].to_numpy() for name in ("decisiveness", "entropy", "gradient_scale", "score_norm")
    )
    clusters = states[unit].to_numpy()
    made = {
        "decisiveness": mean(d, clusters),
        "luck": mean(states["luck"].to_numpy(), clusters),
        "value": mean(states["value"].to_numpy(), clusters),
        "entropy": mean(entropy, clusters),
        "decisive_entropy": weighted_mean(entropy, d, clusters),
        "signal_ratio": weighted_mean(scale / batch["scale_rms"], d * norm, clusters),
        "signal_ratio_equal": weighted_mean(scale / batch["scale_rms_equal"], d, clusters),
        "slope": slope(d, entropy, clusters),
        "rank_correlation": rank_correlation(d, entropy, clusters),
    }
    counts = {"states": len(d), "episodes": states["trajectory"].n_unique()}
    return {**counts, **{name: value._asdict() for name, value in made.items()}, "curve": curve(d, entropy, clusters)}


def together(measured: Sequence[tuple[pl.DataFrame, Mapping[str, float]]]) -> dict[str, Any]:
    """The :func:`summary` of several measurements as one: all states count alike, each with the g of its own batch.

    Policies of a study play the same tasks with the same random numbers, so intervals are for other tasks: the episodes
    of a task count as one unit.
    """
    first = np.cumsum([0, *(int(states["trajectory"].to_numpy().max()) + 1 for states, _ in measured)])
    states = pl.concat(
        states.with_columns(pl.col("trajectory").cast(pl.Int64) + int(start))
        for start, (states, _) in zip(first, measured, strict=False)
    )
    batch = {
        name: np.concatenate([np.full(len(part), found[name]) for part, found in measured])
        for name in ("scale_rms", "scale_rms_equal")
    }
    success = float(np.mean([found["success"] for _, found in measured]))
    return summary(states, batch, unit="task") | {"batch": {"success": success}}


def mean(values: Array, clusters: NDArray[np.generic]) -> Relation:
    """The mean with its interval for other episodes: a jackknife over clusters. Too few clusters: no interval."""
    return Relation(float(values.mean()), *_ends(values, clusters))


def weighted_mean(values: Array, weights: Array, clusters: NDArray[np.generic]) -> Relation:
    """Σ w·x / Σ w with Fieller's interval (1954): every θ for which mean(w·(x − θ)) is not shown to differ from 0.

    ``weights`` are estimates whose errors do not depend on ``values``. The interval is right for noisy weights, also
    negative ones. Where the mean weight is not shown to be above 0 the ratio is not known, and there is no interval.
    """
    value = float((weights * values).sum() / weights.sum()) if weights.sum() > 0 else None
    weight = crossed_mean(weights[None], clusters)
    if value is None or _few(clusters) or weight.value <= weight.half_width((1 - LEVEL) / 2):
        return Relation(value, None, None)

    def excess(theta: float) -> float:
        """Below 0 where ``theta`` is in the interval."""
        product = crossed_mean((weights * (values - theta))[None], clusters)
        return product.value**2 - product.half_width((1 - LEVEL) / 2) ** 2

    return Relation(value, _root(excess, value, -1.0), _root(excess, value, 1.0))


def _root(excess: Callable[[float], float], inside: float, direction: float) -> float:
    from scipy.optimize import brentq

    reach = 1e-6 * max(1.0, abs(inside))
    while excess(inside + direction * reach) < 0:
        reach *= 2
    return float(brentq(excess, inside, inside + direction * reach))


def slope(d: Array, entropy: Array, clusters: NDArray[np.generic]) -> Relation:
    """Least squares of ``d`` on the rank of the entropy, 0 to 1: about the most uncertain minus the surest step."""
    x = _ranks(entropy)
    x = x - x.mean()
    if not x.any():
        return Relation(None, None, None)
    value = float((x * d).sum() / (x**2).sum())
    influence = x * (d - d.mean() - value * x) / (x**2).mean()
    return Relation(value, *_ends(value + influence, clusters))


def rank_correlation(d: Array, entropy: Array, clusters: NDArray[np.generic]) -> Relation:
    """Spearman's correlation; its interval is that of Pearson's on the ranks (the delta method)."""
    x, y = _standardised(_ranks(entropy)), _standardised(_ranks(d))
    if not x.any() or not y.any():
        return Relation(None, None, None)
    value = float((x * y).mean())
    influence = x * y - value * (x**2 + y**2) / 2
    return Relation(value, *_ends(value + influence, clusters))


def curve(d: Array, entropy: Array, clusters: NDArray[np.generic]) -> list[dict[str, Any]]:
    """Mean decisiveness in each quantile of the entropy; equal entropies share one. A quantile may be empty."""
    place = np.minimum((_ranks(entropy) * BINS).astype(int), BINS - 1)
    rows = []
    for number in range(BINS):
        here = place == number
        if here.any():
            found = mean(d[here], clusters[here])
            rows.append({"entropy": float(entropy[here].mean()), "states": int(here.sum()), **found._asdict()})
    return rows


def _ends(values: Array, clusters: NDArray[np.generic]) -> tuple[float | None, float | None]:
    return (None, None) if _few(clusters) else crossed_mean(values[None], clusters).interval()


def _few(clusters: NDArray[np.generic]) -> bool:
    return len(np.unique(clusters)) < FEWEST_CLUSTERS


def _ranks(values: Array) -> Array:
    """Ranks from 0 to 1; equal values share the mean of theirs."""
    ranks: Array = (rankdata(values) - 1) / max(1, len(values) - 1)
    return ranks


def _standardised(values: Array) -> Array:
    spread = values.std()
    made: Array = (values - values.mean()) / spread if spread else np.zeros_like(values)
    return made


# ------------------------------------------------------------------------------------------------------------- tables
def tables(summaries: Sequence[dict[str, Any]]) -> dict[str, pl.DataFrame]:
    """``policies``: a row for each summary, with what its place predicts; ``curve``: a row for each quantile of it.

    ``gradients``: a row for each estimator that was measured, from :func:`empg.analysis.gradient_quality.rows`.
    """
    policies, points, estimators = [], [], []
    for found in summaries:
        key = {name: found[name] for name in KEY}
        row = key | {name: found[name] for name in ("states", "episodes")} | {"success": found["batch"]["success"]}
        for name in ESTIMATES:
            row |= {name: found[name]["value"], f"{name}_low": found[name]["low"], f"{name}_high": found[name]["high"]}
        ends = found["signal_ratio"]
        policies.append(row | {"prediction": prediction(ends["low"], ends["high"])})
        points += [key | {"quantile": number} | point for number, point in enumerate(found["curve"], start=1)]
        estimators += [row | {"estimator": row["method"]} | key for row in found.get("gradients", ())]
    return {
        "policies": pl.DataFrame(policies, infer_schema_length=None),
        "curve": pl.DataFrame(points, schema=CURVE),
        "gradients": pl.DataFrame(estimators, schema=GRADIENTS),
    }


def prediction(low: float | None, high: float | None) -> str:
    """The sign of EMPG's effect that an interval of the signal ratio predicts: ``+``, ``−``, or ``none``.

    docs/preregistration.md declares this rule.
    """
    if low is None or high is None:
        return "none"
    return "+" if low > 1 else "−" if high < 1 else "none"
