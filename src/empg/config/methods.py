"""Methods: an outcome advantage times a modulation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from empg.config.base import Model


class _Method(Model):
    """Outcome advantage × modulation. ``zeta`` empty takes the environment's.

    ``entropy`` is the kind of H that modulates, ``level`` what has an H of its own. ``entropy_coef`` times the mean
    token entropy is what the loss rewards (an entropy bonus) or, below 0, punishes (entropy minimisation).
    """

    modulation: Literal["none", "empg", "empg_scale", "empg_bonus"] = "none"
    k: Annotated[float, Field(ge=0)] = 1.0
    k_future: Annotated[float, Field(ge=0)] = 1.0
    zeta: Annotated[float, Field(ge=0)] | None = None
    entropy: Literal["shannon", "renyi2"] = "shannon"
    level: Literal["step", "token"] = "step"
    entropy_coef: float = 0.0
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    kl_coef: Annotated[float, Field(ge=0)] = 0.01
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"] = "seq-mean-token-mean"
    dynamic_sampling: Annotated[int, Field(ge=0)] = 0
    overlong_cache: Annotated[int, Field(ge=0)] = 0

    def unmodulated(self) -> dict[str, Any]:
        """Every setting but those of the modulation."""
        return self.model_dump(exclude={"modulation", "k", "k_future", "zeta", "entropy", "level"})


class Grpo(_Method):
    advantage: Literal["grpo"]


class Dapo(_Method):
    """DAPO's four parts: clip-higher, token mean, dynamic sampling (rounds at most), soft overlong punishment."""

    advantage: Literal["dapo"]
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    kl_coef: Annotated[float, Field(ge=0)] = 0.0
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"] = "token-mean"
    dynamic_sampling: Annotated[int, Field(ge=0)] = 2
    overlong_cache: Annotated[int, Field(ge=0)] = 8


class Rloo(_Method):
    advantage: Literal["rloo"]


class Gigpo(_Method):
    advantage: Literal["gigpo"]
    omega: Annotated[float, Field(ge=0)] = 1.0
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.95


Method = Annotated[Grpo | Dapo | Rloo | Gigpo, Field(discriminator="advantage")]
