"""Token log-probabilities and entropies in bounded memory, step entropies, and Proposition 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from empg.core.checks import require_index, require_number, require_vector

# The default chunk is 2 MiB of float32 logits, which fit into the cache of a CPU (750 tokens with 700 words). With a
# large vocabulary that would be few tokens, and adding up the gradient of the weight would dominate: such a chunk is
# 64 MiB (340 tokens with 50,000 words, 110 with 150,000).
CHUNK_ELEMENTS = 2**19
LARGE_VOCABULARY, LARGE_CHUNK_ELEMENTS = 2**13, 2**24


def token_statistics(
    hidden: Tensor, weight: Tensor, target: Tensor, *, temperature: float = 1.0, chunk_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target token and Shannon entropy over the full vocabulary, both differentiable.

    The distribution is softmax(hidden·weightᵀ / temperature). Logits exist for ``chunk_size`` tokens at a time and are
    computed again in the backward pass, so the whole ``[tokens, vocabulary]`` matrix never exists. Statistics are
    float32 (float64 for float64 input), also for models in lower precision.

    Args:
        hidden: ``[tokens, d]`` last hidden states, at the positions that predict ``target``.
        weight: ``[vocabulary, d]`` output embedding, same dtype as ``hidden``.
        target: ``[tokens]`` int64 token ids.
        temperature: of the distribution that the tokens were sampled from, > 0.
        chunk_size: tokens at a time; changes memory and speed, not the result.

    Returns:
        ``(logprob, entropy)``, each ``[tokens]``, in nats.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1] or target.shape != hidden.shape[:1]:
        raise ValueError(
            "token_statistics: expected hidden [tokens, d], weight [vocabulary, d] and target [tokens], "
            f"found {list(hidden.shape)}, {list(weight.shape)} and {list(target.shape)}"
        )
    require_number("temperature", temperature, above=0)
    statistics: tuple[Tensor, Tensor] = _TokenStatistics.apply(  # type: ignore[no-untyped-call]
        hidden, weight, target, temperature, chunk_size or default_chunk(len(weight))
    )
    return statistics


@torch.no_grad()
def token_renyi2(hidden: Tensor, weight: Tensor, *, temperature: float = 1.0, chunk_size: int | None = None) -> Tensor:
    """Rényi-2 (collision) entropy H₂ = −log Σ p² of each token's distribution over the full vocabulary; no gradient.

    Arguments, distribution, precision and memory are those of ``token_statistics``. Returns ``[tokens]`` in nats. H₂ is
    at least 0 and at most the Shannon entropy; both are log n for n equally likely tokens.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            "token_renyi2: expected hidden [tokens, d] and weight [vocabulary, d], "
            f"found {list(hidden.shape)} and {list(weight.shape)}"
        )
    require_number("temperature", temperature, above=0)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    chunks = torch.split(hidden, chunk_size or default_chunk(len(weight)))
    # Rounding may leave a certain token's entropy just below 0.
    return torch.cat([renyi2_entropy(_logits(chunk, weight, temperature, dtype)) for chunk in chunks]).clamp_(min=0)


def default_chunk(vocabulary: int) -> int:
    """How many tokens' logits exist at a time unless the caller says otherwise."""
    return max(1, (LARGE_CHUNK_ELEMENTS if vocabulary > LARGE_VOCABULARY else CHUNK_ELEMENTS) // vocabulary)


class _TokenStatistics(torch.autograd.Function):
    """With z the logits over temperature T, p = softmax(z) and H = −Σ p log p:

    ∂ log p_target / ∂z = onehot(target) − p  and  ∂H / ∂z = −p·(log p + H).
    """

    @staticmethod
    def forward(  # noqa: PLR0917 — torch calls it by position
        ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, temperature: float, chunk_size: int
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        logprob = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
        entropy, logsumexp = torch.empty_like(logprob), torch.empty_like(logprob)
        for start in range(0, len(hidden), chunk_size):
            rows = slice(start, start + chunk_size)
            z = _logits(hidden[rows], weight, temperature, dtype)
            highest = z.amax(dim=1, keepdim=True)
            # After the shift by the maximum both terms of H are ≥ 0, so rounding cannot make an entropy negative.
            z -= highest
            chosen = z.gather(1, target[rows, None])
            p = z.exp()
            total = p.sum(dim=1, keepdim=True)
            log_total = total.log()
            logprob[rows] = (chosen - log_total)[:, 0]
            entropy[rows] = (log_total - p.mul_(z).sum(dim=1, keepdim=True) / total)[:, 0]
            logsumexp[rows] = (highest + log_total)[:, 0]
            del z, p  # before the next chunk's
        ctx.save_for_backward(hidden, weight, target, entropy, logsumexp)
        ctx.temperature, ctx.chunk_size = temperature, chunk_size
        ctx.set_materialize_grads(False)  # an output that the loss does not use costs nothing in the backward pass
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logprob: Tensor | None, d_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        if d_logprob is None and d_entropy is None:
            return None, None, None, None, None
        hidden, weight, target, entropy, logsumexp = ctx.saved_tensors
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # The sum over chunks has the precision of the statistics.
        d_weight = torch.zeros_like(weight, dtype=entropy.dtype) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden), ctx.chunk_size):
            rows = slice(start, start + ctx.chunk_size)
            log_p = _logits(hidden[rows], weight, ctx.temperature, entropy.dtype)
            log_p -= logsumexp[rows, None]
            d_z = log_p.exp()  # p, which becomes the gradient in place
            if d_entropy is not None:
                log_p.add_(entropy[rows, None]).mul_(-d_entropy[rows, None])
                if d_logprob is not None:
                    log_p -= d_logprob[rows, None]
                d_z *= log_p
            elif d_logprob is not None:
                d_z *= -d_logprob[rows, None]
            if d_logprob is not None:
                d_z.scatter_add_(1, target[rows, None], d_logprob[rows, None])
            if ctx.temperature != 1.0:
                d_z /= ctx.temperature
            d_logits = d_z.to(hidden.dtype)
            if d_hidden is not None:
                torch.mm(d_logits, weight, out=d_hidden[rows])
            if d_weight is not None and d_weight.dtype == hidden.dtype:
                d_weight.addmm_(d_logits.T, hidden[rows])  # in place: no second [vocabulary, d] matrix
            elif d_weight is not None:
                d_weight += d_logits.T @ hidden[rows]
            del log_p, d_z, d_logits
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), None, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    logits = (hidden @ weight.T).to(dtype)
    return logits if temperature == 1.0 else logits.div_(temperature)


def step_mean(token_values: Tensor, token_step: Tensor, steps: int) -> Tensor:
    """Unweighted mean over the tokens of each step; of token entropies, it is the step entropy H.

    ``token_values`` is ``[tokens]`` float, ``token_step`` ``[tokens]`` int64 in [0, steps), taken from the structure of
    the trajectories and never from token ids. Returns ``[steps]`` in the dtype of the values, differentiable. Raises
    ``ValueError`` for a step without tokens.
    """
    require_vector("token_values", token_values)
    require_vector("token_step", token_step, len(token_values))
    require_index("token_step", token_step, steps)
    total = torch.zeros(steps, dtype=torch.float64, device=token_values.device)
    total = total.index_add(0, token_step, token_values.double())
    return (total / torch.bincount(token_step, minlength=steps)).to(token_values.dtype)


def renyi2_entropy(logits: Tensor) -> Tensor:
    """Rényi-2 entropy H₂ = −log Σ p² of softmax(logits) over the last dimension, in nats."""
    return -torch.logsumexp(2 * torch.log_softmax(logits, dim=-1), dim=-1)


def score_norm_squared(logits: Tensor, target: Tensor) -> Tensor:
    """‖∇_z log π(target)‖² = 1 − 2 p_target + Σ p² of a sampled token; logits ``[..., vocabulary]``."""
    p = torch.softmax(logits, dim=-1)
    return 1 - 2 * p.gather(-1, target[..., None])[..., 0] + (p * p).sum(dim=-1)


def expected_score_norm_squared(logits: Tensor) -> Tensor:
    """E_{a∼π} ‖∇_z log π(a)‖² = 1 − Σ p² = 1 − exp(−H₂): Proposition 1 of arXiv 2509.09265."""
    return -torch.expm1(-renyi2_entropy(logits))
