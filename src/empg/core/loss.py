"""The loss: a clipped surrogate, summed over sampled tokens with weights that are fixed for the whole optimiser step.

``token_weights`` is computed once, over all tokens of an optimiser step. The loss of a micro-batch is the weighted sum
over its tokens, and the losses of micro-batches add up. So the size of a micro-batch changes memory and nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from empg.core.checks import require_index, require_vector

AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum")


def token_weights(aggregation: str, token_trajectory: Tensor, trajectories: int) -> Tensor:
    """Weight of every token in an optimiser step's loss; ``[tokens]`` float32.

    A sequence is a trajectory: the tokens of all its steps together (ours).
    ``token-mean`` (DAPO, arXiv 2503.14476): 1 / all tokens. ``seq-mean-token-mean`` (GRPO, arXiv 2402.03300):
    1 / (trajectories · the trajectory's tokens). ``seq-mean-token-sum`` (Dr. GRPO, arXiv 2503.20783, up to its
    constant): 1 / trajectories.

    Args:
        aggregation: one of ``AGGREGATIONS``.
        token_trajectory: ``[tokens]`` int64 in [0, trajectories), all tokens of the optimiser step.
        trajectories: number of trajectories in the optimiser step; each has at least one token.

    Raises ``ValueError`` for an unknown aggregation and for a trajectory without tokens.
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
    All tensors are ``[tokens]``; ``weight`` is the part of ``token_weights`` that belongs to the micro-batch. Returns a
    scalar; only ``logprob`` gets a gradient.
    """
    advantage = advantage.detach()
    ratio = torch.exp(logprob - old_logprob.detach())
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -(weight * torch.minimum(ratio * advantage, clipped * advantage)).sum()


def entropy_bonus(entropy: Tensor, weight: Tensor, *, coef: float) -> Tensor:
    """−coef · Σ weight · H over a micro-batch's tokens, to be added to the loss.

    A coef > 0 gives the entropy bonus of A3C (arXiv 1602.01783, section 4). A coef < 0 gives entropy minimisation, the
    token-level term of EM-FT (arXiv 2505.15134); here it is added to the reward's loss and does not replace it.

    ``entropy`` ``[tokens]`` is that of the policy in training, in nats, with gradient; ``weight`` is the part of
    ``token_weights`` that belongs to the micro-batch. Returns a scalar.
    """
    return -coef * (weight * entropy).sum()


def clipped_tokens(
    logprob: Tensor, old_logprob: Tensor, advantage: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """Tokens whose gradient the clip removes, ``[tokens]`` bool; the mean is the clip fraction."""
    ratio = torch.exp(logprob.detach() - old_logprob.detach())
    return ((ratio > 1 + clip_high) & (advantage > 0)) | ((ratio < 1 - clip_low) & (advantage < 0))


def kl_k3(logprob: Tensor, ref_logprob: Tensor) -> Tensor:
    """k3 estimate of KL(π ‖ π_ref) for each token, ``[tokens]``, ≥ 0: exp(d) − d − 1 with d = logπ_ref − logπ.

    Schulman, "Approximating KL divergence" (2020); GRPO, arXiv 2402.03300, equation 4. Unbiased for tokens sampled from
    π.
    """
    d = ref_logprob.detach() - logprob
    return torch.expm1(d) - d
