"""EMPG: entropy-modulated policy gradients (arXiv 2509.09265). The algorithm is ``modulate``.

``unmodulated``, ``empg``, ``empg_scale`` and ``empg_bonus`` are what a registration names: functions from
:class:`~empg.core.advantages.Advantages` and entropies to :class:`Modulation`. The loop may call them with tokens in
place of steps (``level: token``, ours): each token then has its own entropy, minimum, maximum and means count every
token of the batch once, and "next" is the next sampled token of the trajectory, across steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from empg.core.advantages import Advantages, informative_groups
from empg.core.checks import check_modulation_inputs, require_float, require_number, require_vector


class Modulation(NamedTuple):
    """The result of a modulation: ``[steps]`` each, without gradient, in the dtype of the outcome advantage."""

    advantage: Tensor  # A_final: every token of the step gets it
    gradient_scale: Tensor  # g: mean 1 over the steps of the batch
    clarity_bonus: Tensor  # f: exp(−k'·h) of the next step of the trajectory, 0 at its last step
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
    step_advantage: Tensor | None = None,
    eps: float = 1e-8,
) -> Modulation:
    """Entropy-modulated advantage of every step (arXiv 2509.09265).

    Call it once with the whole batch of an iteration: after group filtering, gathered over all ranks, before any split
    into minibatches. Every step counts once, however many tokens it has.

    Args:
        outcome_advantage: ``[trajectories]`` A_i, float32 or float64.
        step_entropy: ``[steps]`` H, the mean token entropy of each step in nats, float32 or float64.
        step_trajectory: ``[steps]`` int64, the index of each step's trajectory in ``outcome_advantage``. The steps of a
            trajectory come in order; trajectories may be interleaved; each has at least one step; no step occurs twice.
        k: strength of the gradient scaling, ≥ 0.
        k_future: strength k' of the clarity bonus, ≥ 0.
        zeta: weight ζ of the clarity bonus (0.05 for ALFWorld and WebShop, 0.1 for Deep Search).
        scale: False sets g = 1, so that only the bonus is left.
        step_advantage: ``[steps]`` term of a step-level estimator (GiGPO), added to A_i before equation 4 (ours).
        eps: guard of the min-max normalisation, > 0.

    Raises:
        ValueError: for wrong shapes, dtypes, devices, indices or values; the message names the argument and the place.
    """
    check_modulation_inputs(outcome_advantage, step_entropy, step_trajectory)
    require_number("k", k, minimum=0)
    require_number("k_future", k_future, minimum=0)
    require_number("zeta", zeta)
    require_number("eps", eps, above=0)

    A = outcome_advantage.double()[step_trajectory]  # noqa: N806 — the letters of the equations
    if step_advantage is not None:
        require_vector("step_advantage", step_advantage, len(step_trajectory))
        require_float("step_advantage", step_advantage)
        A = A + step_advantage.double()  # noqa: N806
    H = step_entropy.double()  # noqa: N806

    # 1. Normalise the entropies over every step of the batch.
    h = (H - H.min()) / (H.max() - H.min() + eps)
    # 2. Self-calibrating gradient scaling: confident steps weigh more, uncertain ones less, 1 on average.
    g = torch.exp(-k * h) / torch.exp(-k * h).mean() if scale else torch.ones_like(h)
    # 3. Future clarity bonus: how confident the next step is; exactly 0 at a trajectory's last step.
    step, next_step = successors(step_trajectory)
    f = torch.zeros_like(h)
    f[step] = torch.exp(-k_future * h[next_step])
    # 4. Modulated advantage.
    A_mod = A * g + zeta * f  # noqa: N806
    # 5. Centre over the steps of the batch.
    A_final = A_mod - A_mod.mean()  # noqa: N806

    return Modulation(*(x.to(outcome_advantage.dtype) for x in (A_final, g, f, h)))


def successors(step_trajectory: Tensor) -> tuple[Tensor, Tensor]:
    """``(step, next_step)``: the indices of all pairs of consecutive steps of a trajectory, interleaved or not."""
    order = torch.argsort(step_trajectory, stable=True)
    consecutive = step_trajectory[order[1:]] == step_trajectory[order[:-1]]
    return order[:-1][consecutive], order[1:][consecutive]


def unmodulated(advantages: Advantages, entropy: Tensor, trajectory: Tensor) -> Modulation:
    """The baseline ``none``: A_i as it is, not centred; g = 1, f = 0, and h for the record."""
    result = modulate(advantages.outcome, entropy, trajectory, zeta=0.0, scale=False, step_advantage=advantages.step)
    nothing = torch.zeros_like(result.clarity_bonus)
    return result._replace(advantage=advantages.of_steps(trajectory), clarity_bonus=nothing)


def empg(
    advantages: Advantages, entropy: Tensor, trajectory: Tensor, *, k: float, k_future: float, zeta: float
) -> Modulation:
    """EMPG with both of its terms."""
    return modulate(
        advantages.outcome, entropy, trajectory, k=k, k_future=k_future, zeta=zeta, step_advantage=advantages.step
    )


def empg_scale(advantages: Advantages, entropy: Tensor, trajectory: Tensor, *, k: float) -> Modulation:
    """EMPG with the gradient scale alone (ζ = 0); f, with k' = 1, is for the record."""
    return modulate(advantages.outcome, entropy, trajectory, k=k, zeta=0.0, step_advantage=advantages.step)


def empg_bonus(
    advantages: Advantages, entropy: Tensor, trajectory: Tensor, *, k_future: float, zeta: float
) -> Modulation:
    """EMPG with the clarity bonus alone (g = 1)."""
    return modulate(
        advantages.outcome,
        entropy,
        trajectory,
        k_future=k_future,
        zeta=zeta,
        scale=False,
        step_advantage=advantages.step,
    )


@torch.no_grad()
def equal_reward_share(advantage: Tensor, step_trajectory: Tensor, reward: Tensor, group: Tensor) -> float:
    """Share, in [0, 1], of the summed |A_final| that comes from groups with equal rewards; 0 if all advantages are 0.

    Such groups have A_i = 0 but keep their clarity bonus, so EMPG pushes them towards low entropy. The share says how
    much of the update that is. ``advantage`` and ``step_trajectory`` are ``[steps]``, ``reward`` and ``group``
    ``[trajectories]``.
    """
    magnitude = advantage.double().abs()
    equal = ~informative_groups(reward, group)[step_trajectory]
    total = magnitude.sum().item()
    return magnitude[equal].sum().item() / total if total > 0 else 0.0
