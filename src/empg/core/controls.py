"""Controls of EMPG: the same weights on other steps (``shuffled``), and the opposite weights (``inverted``).

A difference between EMPG and its baseline is due to *entropy* only if these do not make it as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from empg.core.advantages import Advantages
from empg.core.modulation import Modulation, modulate


def empg_shuffled(
    advantages: Advantages, entropy: Tensor, trajectory: Tensor, *, k: float, k_future: float, zeta: float
) -> Modulation:
    """EMPG whose gradient scale g is permuted among the steps of the batch; the clarity bonus stays where it is.

    The permutation is pseudo-random. Its seed is the content of ``entropy``, so that the result depends on the
    arguments alone, and equal batches have equal permutations.
    """
    result = _empg(advantages, entropy, trajectory, k_future, k)
    g = result.gradient_scale
    order = torch.randperm(len(g), generator=_generator(entropy)).to(g.device)
    return _scaled(advantages, trajectory, result, g[order], zeta)


def empg_inverted(
    advantages: Advantages, entropy: Tensor, trajectory: Tensor, *, k: float, k_future: float, zeta: float
) -> Modulation:
    """EMPG with −k in place of k ≥ 0: g = exp(k·h) / mean(exp(k·h)), so that uncertain steps weigh more."""
    result = _empg(advantages, entropy, trajectory, k_future, k)
    growing = torch.exp(k * result.normalised_entropy)
    return _scaled(advantages, trajectory, result, growing / growing.mean(), zeta)


def _empg(advantages: Advantages, entropy: Tensor, trajectory: Tensor, k_future: float, k: float) -> Modulation:
    """EMPG's g, f and h in float64."""
    outcome, step = advantages.outcome.double(), advantages.step
    return modulate(outcome, entropy, trajectory, k=k, k_future=k_future, zeta=0.0, step_advantage=step)


@torch.no_grad()
def _scaled(advantages: Advantages, trajectory: Tensor, result: Modulation, g: Tensor, zeta: float) -> Modulation:
    """Equations 4 and 5 of EMPG with another g."""
    A = advantages.of_steps(trajectory).double()  # noqa: N806 — the letter of the equation
    modulated = A * g + zeta * result.clarity_bonus
    changed = result._replace(advantage=modulated - modulated.mean(), gradient_scale=g)
    return Modulation(*(x.to(advantages.outcome.dtype) for x in changed))


def _generator(entropy: Tensor) -> torch.Generator:
    """A generator seeded by the bits of the entropies, in their order."""
    bits = entropy.detach().double().cpu().view(torch.int64)
    place = torch.arange(1, 2 * len(bits), 2)  # odd, so that a product loses no bit
    return torch.Generator().manual_seed(int((bits * place).sum()) & (2**63 - 1))
