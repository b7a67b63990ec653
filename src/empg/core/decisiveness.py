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
def signal_ratio(decisiveness: Tensor, score_norm: Tensor, scale: Tensor) -> Tensor:
    """S = (Σ D·v·g / Σ D·v) / √(Σ v·g² / Σ v): how weights g change a gradient's signal over its noise (ours).

    With v the mean squared norm of a step's score ∂log π/∂logits, a step adds v times the variance of the advantage to
    the noise, and its share in the true gradient has the squared norm D·v (exactly so for two actions). Weights
    multiply the signal by their mean weighted by D·v and the noise by their root mean square weighted by v. Above 1
    modulation helps, below 1 it hurts; weights that know nothing have S < 1. docs/decisiveness.md compares S with what
    EMPG does to gradients in the testbed.

    Args:
        decisiveness: ``[steps]`` D.
        score_norm: ``[steps]`` v; for one token 1 − Σ p² (Proposition 1 of arXiv 2509.09265), summed over tokens.
        scale: ``[steps]`` g.
    """
    signal = decisiveness * score_norm
    return (signal * scale).sum() / signal.sum() / scale_rms(score_norm, scale)


@torch.no_grad()
def scale_rms(score_norm: Tensor, scale: Tensor) -> Tensor:
    """√(Σ v·g² / Σ v): the noise of a gradient with weights g over that without (:func:`signal_ratio`)."""
    return ((score_norm * scale.square()).sum() / score_norm.sum()).sqrt()
