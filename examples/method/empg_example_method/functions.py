"""The formulas: pure functions of tensors. Their keywords are the fields of the config models."""

from __future__ import annotations

import torch
from torch import Tensor

from empg.core.advantages import Advantages, Batch
from empg.core.modulation import Modulation, unmodulated


def dr_grpo(batch: Batch, *, scale: float) -> Advantages:
    """scale · (R_i − mean_group R): no division by the standard deviation; Dr. GRPO, arXiv 2503.20783."""
    _, group, size = torch.unique(batch.group, return_inverse=True, return_counts=True)
    total = torch.zeros(len(size), dtype=batch.reward.dtype).index_add(0, group, batch.reward)
    return Advantages(scale * (batch.reward - (total / size)[group]))


def entropy_shaping(
    advantages: Advantages, entropy: Tensor, trajectory: Tensor, *, alpha: float, kappa: float
) -> Modulation:
    """A + min(α·H, |A| / κ): uncertain steps gain. After arXiv 2506.14758, which does so per token (`level: token`)."""
    result = unmodulated(advantages, entropy, trajectory)
    gain = torch.minimum(alpha * entropy.to(result.advantage.dtype), result.advantage.abs() / kappa)
    return result._replace(advantage=result.advantage + gain)
