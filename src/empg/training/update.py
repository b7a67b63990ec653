"""One update of the policy: the clipped loss on packed conversations, in micro-batches that bound the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from empg.config import Method, TrainRun
from empg.core.loss import clipped_tokens, entropy_bonus, kl_k3, policy_loss, token_weights
from empg.environments.prompts import turns_apart
from empg.errors import DivergenceError
from empg.policy.network import Network
from empg.policy.packing import Conversation, packs
from empg.rollouts.episodes import Step, Trajectory
from empg.training.credit import Credit, credit_batch
from empg.training.optimiser import Optimiser


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """The sampled tokens of an optimiser step, ``[tokens]`` in the order of trajectories, steps and tokens."""

    conversations: list[Conversation]
    old_logprob: Tensor
    advantage: Tensor
    weight: Tensor


def conversations(trajectories: Sequence[Trajectory], *, apart: bool) -> list[Conversation]:
    """The token ids of each whole episode, or ``apart`` of each turn. The mask selects those that the policy sampled.

    Either way the sampled tokens come in the order of trajectories, steps and tokens.
    """
    if apart:
        return [_conversation([step]) for t in trajectories for step in t.steps]
    return [_conversation(t.steps) for t in trajectories]


def _conversation(steps: Sequence[Step]) -> Conversation:
    parts = [part for step in steps for part in (step.prompt_ids, step.response_ids)]
    mask = [np.full(len(part), i % 2 == 1) for i, part in enumerate(parts)]
    return Conversation(np.concatenate(parts), np.concatenate(mask))


def minibatches(
    trajectories: list[Trajectory], token_advantage: Tensor, count: int
) -> Iterator[tuple[list[Trajectory], Tensor]]:
    """The trajectories in ``count`` parts of about one size, each with the advantages of its tokens."""
    tokens = np.cumsum([0] + [sum(len(step.response_ids) for step in t.steps) for t in trajectories])
    bounds = np.linspace(0, len(trajectories), count + 1).astype(int)
    for start, end in pairwise(bounds):
        if end > start:
            yield trajectories[start:end], token_advantage[tokens[start] : tokens[end]]


def renyi2_entropies(
    network: Network,
    trajectories: Sequence[Trajectory],
    *,
    temperature: float,
    micro_batch_tokens: int,
    apart: bool = False,
) -> Tensor:
    """Rényi-2 entropy (nats) of the distribution that each sampled token came from, ``[tokens]``, on the CPU.

    The rollouts hold Shannon entropies. Before the first update of an iteration, the network is the one that sampled.
    So one pass without gradients gives what the sampler would have recorded.
    """
    parts = packs(conversations(trajectories, apart=apart), micro_batch_tokens, network.device)
    return torch.cat([pack.renyi2(network, temperature) for pack in parts]).cpu()


def credit_of(config: TrainRun, network: Network, trajectories: Sequence[Trajectory]) -> Credit:
    """The advantage of every step, over the whole batch. ``network`` is the one that sampled it."""
    method, sampling, train = config.method, config.sampling, config.train
    entropies = None  # those that the sampler recorded
    if method.entropy == "renyi2":
        entropies = renyi2_entropies(
            network,
            trajectories,
            temperature=sampling.temperature,
            micro_batch_tokens=train.micro_batch_tokens,
            apart=turns_apart(config.interface),
        )
    return credit_batch(trajectories, method, sampling.max_response, train.reward, entropies)


def token_batch(
    trajectories: Sequence[Trajectory],
    token_advantage: Tensor,
    aggregation: str,
    device: torch.device,
    *,
    apart: bool = False,
) -> TokenBatch:
    """The sampled tokens with their advantages (``[tokens]``) and their weights in this optimiser step.

    With ``apart`` each turn is a conversation of its own; a trajectory stays one sequence to the weights.
    """
    sampled = torch.tensor([sum(len(step.response_ids) for step in t.steps) for t in trajectories])
    old_logprob = np.concatenate([step.logprobs for t in trajectories for step in t.steps])
    weight = token_weights(aggregation, torch.repeat_interleave(sampled), len(trajectories))
    return TokenBatch(
        conversations(trajectories, apart=apart),
        torch.from_numpy(old_logprob).to(device),
        token_advantage.float().to(device),
        weight.to(device),
    )


def accumulate_gradients(
    network: Network,
    reference: Network | None,
    batch: TokenBatch,
    method: Method,
    *,
    temperature: float,
    micro_batch_tokens: int,
) -> dict[str, float]:
    """Add the gradient of the loss to ``.grad``. Returns the loss, the KL estimate and the share of clipped tokens.

    ``micro_batch_tokens`` changes memory and nothing else.
    """
    totals = {"loss": 0.0, "kl": 0.0, "clip_fraction": 0.0}
    clip = {"clip_low": method.clip_low, "clip_high": method.clip_high}
    for pack in packs(batch.conversations, micro_batch_tokens, network.device):
        old, advantage, weight = (x[pack.rows] for x in (batch.old_logprob, batch.advantage, batch.weight))
        logprob, entropy = pack.statistics(network, temperature)
        loss = policy_loss(logprob, old, advantage, weight, **clip)
        if reference is not None:
            with torch.no_grad():
                ref_logprob, _ = pack.statistics(reference, temperature)
            kl = (weight * kl_k3(logprob, ref_logprob)).sum()
            loss = loss + method.kl_coef * kl
            totals["kl"] += float(kl.detach())
        if method.entropy_coef:
            loss = loss + entropy_bonus(entropy, weight, coef=method.entropy_coef)
        loss.backward()  # type: ignore[no-untyped-call]
        totals["loss"] += float(loss.detach())
        totals["clip_fraction"] += float(clipped_tokens(logprob, old, advantage, **clip).sum())
    totals["clip_fraction"] /= len(batch.old_logprob)
    return totals


def update(
    network: Network,
    reference: Network | None,
    optimiser: Optimiser,
    batch: TokenBatch,
    method: Method,
    *,
    temperature: float,
    micro_batch_tokens: int,
    lr_factor: float = 1.0,
) -> dict[str, float]:
    """One optimiser step; its learning rates are multiplied by ``lr_factor``.

    Returns what :func:`accumulate_gradients` does and the norm of the gradient before clipping. Raises
    :class:`DivergenceError` and leaves the weights as they are if the loss or the gradient is not finite.
    """
    optimiser.zero_grad()
    metrics = accumulate_gradients(
        network, reference, batch, method, temperature=temperature, micro_batch_tokens=micro_batch_tokens
    )
    if not np.isfinite(metrics["loss"]):
        raise DivergenceError(f"update: expected a finite loss, found {metrics['loss']}")
    metrics["grad_norm"] = optimiser.step(lr_factor)
    if not np.isfinite(metrics["grad_norm"]):
        raise DivergenceError(f"update: expected a finite gradient norm, found {metrics['grad_norm']}")
    return metrics
