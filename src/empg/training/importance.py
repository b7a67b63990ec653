"""Importance weights of tokens that another engine sampled in the policy's place.

Such an engine has the policy's weights and other kernels, so it samples from a slightly other distribution μ than the
policy's π. The loss of a token is weighted by π / μ, truncated from above: truncated importance sampling (Ionides,
Journal of Computational and Graphical Statistics 17, 2008).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empg.rollouts.episodes import Trajectory


def importance_ratios(trajectories: Sequence[Trajectory]) -> NDArray[np.float64]:
    """π / μ of each sampled token, ``[tokens]``, by the policy that sampled.

    It is 1 where the policy itself sampled, and NaN where the engine gave no log-probability.
    """
    parts = [
        np.ones(len(step.response_ids))
        if step.sampler_logprobs is None
        else np.exp(step.logprobs.astype(np.float64) - step.sampler_logprobs)
        for t in trajectories
        for step in t.steps
    ]
    return np.concatenate(parts)


def truncated_weights(trajectories: Sequence[Trajectory], max_ratio: float) -> Tensor:
    """The weight of each sampled token, ``[tokens]``, at most ``max_ratio``; 1 for a NaN."""
    return torch.from_numpy(np.nan_to_num(importance_ratios(trajectories), nan=1.0).clip(max=max_ratio))


def importance_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float | None]:
    """Minimum, mean and maximum of the ratios before truncation, and the share of tokens without one.

    Empty where the policy itself sampled every token. A NaN counts as ratio 1.
    """
    if all(step.sampler_logprobs is None for t in trajectories for step in t.steps):
        return {}
    ratios = importance_ratios(trajectories)
    missing = np.isnan(ratios)
    ratios[missing] = 1.0
    return {
        "importance_ratio_min": float(ratios.min()),
        "importance_ratio_mean": float(ratios.mean()),
        "importance_ratio_max": float(ratios.max()),
        "importance_ratio_missing": float(missing.mean()),
    }
