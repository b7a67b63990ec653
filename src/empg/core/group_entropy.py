"""GEPO (arXiv 2607.16850): advantages shaped by the entropy of their group."""

from __future__ import annotations

import torch
from torch import Tensor

from empg.core.advantages import Advantages, Batch
from empg.core.checks import require_number
from empg.core.modulation import Modulation, unmodulated


def gepo(
    advantages: Advantages,
    entropy: Tensor,
    trajectory: Tensor,
    batch: Batch,
    *,
    alpha_low: float = 0.5,
    alpha_high: float = 0.2,
    beta_low: float = 0.2,
    beta_high: float = 0.3,
) -> Modulation:
    """Damp positive advantages in groups of low entropy and negative ones in groups of high entropy.

    With H_g the mean entropy of the steps (or tokens) of group g, and μ and σ the mean and population standard
    deviation of H_g over the groups of the batch:

        A·α_low  where A > 0 and H_g < μ − β_low·σ
        A·α_high where A < 0 and H_g > μ + β_high·σ
        A        elsewhere

    The paper's thresholds are moving averages over iterations; here they are those of the batch (ours), so that the
    result depends on the arguments alone. ``gradient_scale`` holds the factor, whose mean is not 1. Nothing is centred,
    and there is no clarity bonus. Raises ``ValueError`` for settings that are negative.
    """
    for name, value in (("alpha_low", alpha_low), ("alpha_high", alpha_high)):
        require_number(name, value, minimum=0)
    result = unmodulated(advantages, entropy, trajectory)
    group = torch.unique(batch.group, return_inverse=True)[1][trajectory]
    size = torch.bincount(group).double()
    H = torch.zeros_like(size).index_add_(0, group, entropy.detach().double()) / size  # noqa: N806
    mean, deviation = H.mean(), H.std(correction=0)
    A = result.advantage  # noqa: N806
    low = (A > 0) & (mean - beta_low * deviation > H)[group]
    high = (A < 0) & (mean + beta_high * deviation < H)[group]
    g = torch.ones_like(A).masked_fill(low, alpha_low).masked_fill(high, alpha_high)
    return result._replace(advantage=A * g, gradient_scale=g)
