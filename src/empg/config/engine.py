"""Which engine fine-tunes, collects and trains, and what each engine cannot do."""

from __future__ import annotations

from typing import Literal

from empg.config.base import Model
from empg.config.policy import PretrainedPolicy, Sampling
from empg.config.stages import Train, WarmStart

EngineName = Literal["native", "trl"]
#: How sums round: as this processor does them fastest, or alike on all with AVX2 (:mod:`empg.arithmetic`).
Arithmetic = Literal["native", "portable"]


def check_engine(
    engine: EngineName,
    processes: int,
    accelerate: str | None,
    *,
    policy: Model,
    sampling: Sampling,
    warmstart: WarmStart,
    train: Train,
) -> None:
    """Raises ``ValueError`` for settings that the engine has no use for or cannot follow."""
    if engine == "native":
        for name, value, default in (("processes", processes, 1), ("accelerate", accelerate, None)):
            if value != default:
                raise ValueError(f"{name}: expected none with engine native, which runs in one process, found {value}")
        return
    if not isinstance(policy, PretrainedPolicy):
        raise ValueError("policy.type: expected pretrained with engine trl, found tiny")
    if sampling.engine != "native":
        raise ValueError(
            f"sampling.engine: expected native with engine trl, whose processes sample for themselves, "
            f"found {sampling.engine}"
        )
    for name, section in (("warmstart", warmstart), ("train", train)):
        if (rate := section.optimiser.muon_lr) > 0:
            raise ValueError(
                f"{name}.optimiser.muon_lr: expected 0 with engine trl, which trains with AdamW, found {rate}"
            )
    if train.updates > train.group_size:  # dynamic sampling may leave a single group
        raise ValueError(
            f"train.updates: expected at most the group_size, {train.group_size}, with engine trl, "
            f"found {train.updates}"
        )
