"""Decisiveness of a step: how much the response that the policy gives there changes the expected return."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def decisiveness(returns: Tensor) -> Tensor:
    """Unbiased estimate of the variance, over the policy's responses at a step, of the expected return (ours).

    ``returns`` is ``[…, responses, continuations]``: at least two independent responses to one state, each continued at
    least twice with fresh random numbers. The result is ``[…]`` in the dtype of the returns, in squared units of them.

    The variance of the responses' means holds the wanted variance and the luck of the continuations, whose variance
    within responses is known: d = var_b(mean_c) − mean_b(var_c) / C, the component between groups of a one-way analysis
    of variance with random effects. It is 0 on average at a step that decides nothing, so it may be negative. Equal
    responses count as often as they were drawn. Raises ``ValueError`` for other shapes.
    """
    if returns.ndim < 2 or min(returns.shape[-2:]) < 2:
        raise ValueError(f"returns: expected […, responses ≥ 2, continuations ≥ 2], found {list(returns.shape)}")
    between = returns.mean(-1).var(-1, correction=1)
    return between - luck(returns) / returns.shape[-1]


@torch.no_grad()
def luck(returns: Tensor) -> Tensor:
    """Unbiased estimate of the variance of the return given state and response, ``[…]``: see :func:`decisiveness`."""
    return returns.var(-1, correction=1).mean(-1)


@torch.no_grad()
def signal_ratio(decisiveness: Tensor, scale: Tensor, batch_scale: Tensor) -> Tensor:
    """S = (Σ D·g / Σ D) / √(mean g²): how weights g change signal over noise, if all steps are equally noisy (ours).

    The true gradient comes from decisive steps: weights multiply it by about their mean weighted by decisiveness D. The
    noise comes from all steps: weights multiply its root mean square by their own. Above 1 modulation helps, below 1 it
    hurts. Weights that know nothing of D have S < 1: they only add noise. docs/decisiveness.md compares the sign of
    S − 1 with what EMPG does in the testbed.

    Args:
        decisiveness: ``[states]`` D, or estimates of it.
        scale: ``[states]`` g at these states.
        batch_scale: ``[steps]`` g at every step of the batch.
    """
    weighted = (decisiveness * scale).sum() / decisiveness.sum()
    return weighted / batch_scale.square().mean().sqrt()
