"""The gradient that a method makes of sampled episodes: the functions of :mod:`empg.core` that training calls."""

from __future__ import annotations

import torch
from torch import Tensor

from empg.config import Method
from empg.core.entropy import token_statistics
from empg.core.loss import entropy_bonus, kl_k3, policy_loss, token_weights
from empg.testbed.world import Played
from empg.training.credit import advantages_of, modulation_of


def advantage(method: Method, played: Played) -> Tensor:
    """The advantage that each step is trained with, ``[steps]``, over the whole batch."""
    modulation = modulation_of(method, advantages_of(method, played.batch), played.batch, played.entropy)
    return modulation.advantage


def ascent(method: Method, played: Played, advantage: Tensor, weight: Tensor) -> Tensor:
    """Minus the gradient of the method's loss at ``weight`` ``[actions, width]``: where it wants to go.

    ``played`` and ``advantage`` are a minibatch. The reference policy of the KL penalty is that at weight 0.
    """
    parameter = weight.clone().requires_grad_()
    output = torch.cat((parameter, torch.eye(len(weight), dtype=weight.dtype)), dim=1)  # logits = W φ + b
    logprob, entropy = token_statistics(played.hidden, output, played.action)
    share = token_weights(method.aggregation, played.batch.step_trajectory, played.episodes)
    clip = {"clip_low": method.clip_low, "clip_high": method.clip_high}
    loss = policy_loss(logprob, played.logprob, advantage, share, **clip)
    if method.kl_coef and weight.any():
        output = torch.cat((torch.zeros_like(weight), torch.eye(len(weight), dtype=weight.dtype)), dim=1)
        reference, _ = token_statistics(played.hidden, output, played.action)
        loss = loss + method.kl_coef * (share * kl_k3(logprob, reference)).sum()
    if method.entropy_coef:
        loss = loss + entropy_bonus(entropy, share, coef=method.entropy_coef)
    (gradient,) = torch.autograd.grad(loss, parameter)
    return -gradient
