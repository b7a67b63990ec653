"""The loss: a clipped surrogate over sampled tokens, summed with weights fixed for the whole optimiser step.

``token_weights`` is computed once over all tokens of an optimiser step. A micro-batch's loss is then the weighted sum
over its own tokens, and micro-batches simply add up: how a step is split is a memory knob and nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from empg.core.checks import require_index, require_vector

AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum")


def token_weights(aggregation: str, token_trajectory: Tensor, trajectories: int) -> Tensor:
    """Weight of every token in an optimiser step's loss; ``[tokens]`` float32.

    A sequence is a trajectory: all its steps' tokens together (ours).
    ``token-mean`` (DAPO, arXiv 2503.14476): 1 / all tokens. ``seq-mean-token-mean`` (GRPO, arXiv 2402.03300):
    1 / (trajectories · the trajectory's tokens). ``seq-mean-token-sum`` (Dr. GRPO, arXiv 2503.20783, up to its
    constant): 1 / trajectories.

    Args:
        aggregation: one of ``AGGREGATIONS``.
        token_trajectory: ``[tokens]`` int64 in [0, trajectories), all tokens of the optimiser step.
        trajectories: number of trajectories in the optimiser step; each has at least one token.
    """
    require_vector("token_trajectory", token_trajectory)
    require_index("token_trajectory", token_trajectory, trajectories)
    length = torch.bincount(token_trajectory)[token_trajectory].double()
    match aggregation:
        case "token-mean":
            weight = torch.full_like(length, 1 / len(length))
        case "seq-mean-token-mean":
            weight = 1 / (trajectories * length)
        case "seq-mean-token-sum":
            weight = torch.full_like(length, 1 / trajectories)
        case _:
            raise ValueError(f"aggregation: expected one of {', '.join(AGGREGATIONS)}, found {aggregation!r}")
    return weight.float()


def policy_loss(
    logprob: Tensor, old_logprob: Tensor, advantage: Tensor, weight: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """−Σ weight · min(ρ·A, clip(ρ, 1 − ε_low, 1 + ε_high)·A) over a micro-batch's tokens; ρ = exp(logπ − logπ_old).

    PPO's clipped surrogate (arXiv 1707.06347, equation 7) with separate bounds (DAPO, arXiv 2503.14476, equation 10).
    All tensors are ``[tokens]``; ``weight`` is the micro-batch's slice of ``token_weights``. Scalar; the gradient flows
    through ``logprob`` only.
    """
    advantage = advantage.detach()
    ratio = torch.exp(logprob - old_logprob.detach())
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -(weight * torch.minimum(ratio * advantage, clipped * advantage)).sum()


def entropy_bonus(entropy: Tensor, weight: Tensor, *, coef: float) -> Tensor:
    """−coef · Σ weight · H over a micro-batch's tokens, to be added to the loss: the weighted mean entropy, aggregated
    as the surrogate is.

    With coef > 0 the entropy bonus of A3C (arXiv 1602.01783, section 4); with coef < 0 entropy minimisation, the
    token-level term of EM-FT (arXiv 2505.15134), here beside the reward and not in its place.

    ``entropy`` ``[tokens]`` is the present policy's, in nats, with gradient; ``weight`` the micro-batch's slice of
    ``token_weights``. Scalar; the gradient flows through ``entropy``.
    """
    return -coef * (weight * entropy).sum()


def clipped_tokens(
    logprob: Tensor, old_logprob: Tensor, advantage: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """Tokens whose gradient the clip takes away, ``[tokens]`` bool; its mean is the clip fraction."""
    ratio = torch.exp(logprob.detach() - old_logprob.detach())
    return ((ratio > 1 + clip_high) & (advantage > 0)) | ((ratio < 1 - clip_low) & (advantage < 0))


def kl_k3(logprob: Tensor, ref_logprob: Tensor) -> Tensor:
    """k3 estimate of KL(π ‖ π_ref) per token, ``[tokens]``, ≥ 0: exp(d) − d − 1 with d = logπ_ref − logπ.

    Schulman, "Approximating KL divergence" (2020); GRPO, arXiv 2402.03300, equation 4. Unbiased for tokens of π.
    """
    d = ref_logprob.detach() - logprob
    return torch.expm1(d) - d
