"""EMPG: entropy-modulated policy gradients (arXiv 2509.09265). The algorithm is ``modulate``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from empg.core.advantages import informative_groups
from empg.core.checks import check_modulation_inputs, require_number, require_vector

MODULATIONS = ("none", "empg", "empg_scale", "empg_bonus")


class Modulation(NamedTuple):
    """What EMPG makes of a batch: ``[steps]`` each, without gradient, in the dtype of the outcome advantage."""

    advantage: Tensor  # A_final: what every token of the step receives
    gradient_scale: Tensor  # g: mean 1 over the batch's steps
    clarity_bonus: Tensor  # f: exp(−k'·h) of the trajectory's next step, 0 at its last
    normalised_entropy: Tensor  # h: in [0, 1]


@torch.no_grad()
def modulate(
    outcome_advantage: Tensor,
    step_entropy: Tensor,
    step_trajectory: Tensor,
    *,
    k: float = 1.0,
    k_future: float = 1.0,
    zeta: float = 0.05,
    scale: bool = True,
    eps: float = 1e-8,
) -> Modulation:
    """Entropy-modulated advantage of every step (arXiv 2509.09265).

    Call it once on a whole iteration's batch: after group filtering, gathered over all ranks, before any split into
    minibatches. Every step counts once, whatever its number of tokens.

    Args:
        outcome_advantage: ``[trajectories]`` A_i, float32 or float64.
        step_entropy: ``[steps]`` H, the mean token entropy of each step in nats, float32 or float64.
        step_trajectory: ``[steps]`` int64, each step's index into ``outcome_advantage``. A trajectory's steps come in
            their order; trajectories may be interleaved; each has at least one step; no step occurs twice.
        k: strength of the gradient scaling, ≥ 0.
        k_future: strength k' of the clarity bonus, ≥ 0.
        zeta: weight ζ of the clarity bonus (0.05 for ALFWorld and WebShop, 0.1 for Deep Search).
        scale: False sets g = 1, which leaves the bonus alone.
        eps: guard of the min-max normalisation, > 0.

    Raises:
        ValueError: for wrong shapes, dtypes, devices, indices or values; says which argument and where.
    """
    check_modulation_inputs(outcome_advantage, step_entropy, step_trajectory)
    require_number("k", k, minimum=0)
    require_number("k_future", k_future, minimum=0)
    require_number("zeta", zeta)
    require_number("eps", eps, above=0)

    A = outcome_advantage.double()[step_trajectory]  # noqa: N806 — the equations' own letters
    H = step_entropy.double()  # noqa: N806

    # 1. Normalise the entropies over every step of the batch.
    h = (H - H.min()) / (H.max() - H.min() + eps)
    # 2. Self-calibrating gradient scaling: confident steps weigh more, uncertain ones less, 1 on average.
    g = torch.exp(-k * h) / torch.exp(-k * h).mean() if scale else torch.ones_like(h)
    # 3. Future clarity bonus: how confident the next step is; exactly 0 where there is none.
    step, next_step = successors(step_trajectory)
    f = torch.zeros_like(h)
    f[step] = torch.exp(-k_future * h[next_step])
    # 4. Modulated advantage.
    A_mod = A * g + zeta * f  # noqa: N806
    # 5. Centre over the batch's steps.
    A_final = A_mod - A_mod.mean()  # noqa: N806

    return Modulation(*(x.to(outcome_advantage.dtype) for x in (A_final, g, f, h)))


def successors(step_trajectory: Tensor) -> tuple[Tensor, Tensor]:
    """Indices ``(step, next_step)`` of every pair of consecutive steps of one trajectory, interleaved or not."""
    order = torch.argsort(step_trajectory, stable=True)
    consecutive = step_trajectory[order[1:]] == step_trajectory[order[:-1]]
    return order[:-1][consecutive], order[1:][consecutive]


@torch.no_grad()
def credit(
    modulation: str,
    outcome_advantage: Tensor,
    step_entropy: Tensor,
    step_trajectory: Tensor,
    *,
    k: float = 1.0,
    k_future: float = 1.0,
    zeta: float = 0.05,
    step_advantage: Tensor | None = None,
) -> Modulation:
    """Advantage of every step under one of ``MODULATIONS``; tensors as in ``modulate``.

    ``none`` hands every step its trajectory's advantage, uncentred: the baseline (g = 1, f = 0; h for the log only).
    ``empg_scale`` is ``empg`` with ζ = 0, ``empg_bonus`` is ``empg`` with g = 1.

    Token-level modulation (ours, for comparison) is the same function of tokens in place of steps: ``step_entropy`` is
    each token's own entropy and ``step_trajectory`` its trajectory, whose sampled tokens come in their order. Minimum,
    maximum and means are then over the batch's tokens, each once; "next" is the trajectory's next sampled token, across
    the boundaries of steps; the last token of a trajectory has no bonus.

    ``step_advantage`` ``[steps]`` is a step-level estimator's own term (GiGPO's), added to A_i before
    modulation (ours).
    """
    if modulation not in MODULATIONS:
        raise ValueError(f"modulation: expected one of {', '.join(MODULATIONS)}, found {modulation!r}")
    result = modulate(
        outcome_advantage,
        step_entropy,
        step_trajectory,
        k=k,
        k_future=k_future,
        zeta=0.0 if modulation == "empg_scale" else zeta,
        scale=modulation in ("empg", "empg_scale"),
    )
    extra = torch.zeros_like(result.advantage)
    if step_advantage is not None:
        require_vector("step_advantage", step_advantage, len(step_trajectory))
        extra = step_advantage.to(result.advantage.dtype)
    if modulation == "none":
        return result._replace(
            advantage=outcome_advantage.detach()[step_trajectory] + extra,
            clarity_bonus=torch.zeros_like(result.clarity_bonus),
        )
    # Equation 4 is linear in the advantage, so the extra term is scaled and centred on its own.
    scaled = result.gradient_scale * extra
    return result._replace(advantage=result.advantage + scaled - scaled.mean())


@torch.no_grad()
def equal_reward_share(advantage: Tensor, step_trajectory: Tensor, reward: Tensor, group: Tensor) -> float:
    """Share, in [0, 1], of the summed |A_final| that comes from groups whose rewards are all equal.

    Such groups have A_i = 0 but keep their clarity bonus, so EMPG pushes them towards low entropy; the share says how
    much of the update that is. ``advantage``, ``step_trajectory``: ``[steps]``; ``reward``, ``group``:
    ``[trajectories]``. 0 where every advantage is 0.
    """
    magnitude = advantage.double().abs()
    equal = ~informative_groups(reward, group)[step_trajectory]
    total = magnitude.sum().item()
    return magnitude[equal].sum().item() / total if total > 0 else 0.0
