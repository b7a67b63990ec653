"""EMPG for any trainer that has padded rows, a mask of sampled tokens and their entropies; it needs torch alone."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from empg.core.checks import require_same_device, require_vector
from empg.core.entropy import step_mean
from empg.core.modulation import Modulation, modulate


class TokenAdvantages(NamedTuple):
    """What a trainer needs: an advantage for each token, and numbers to log."""

    advantage: Tensor  # [rows, tokens], 0 where the mask is 0, without gradient
    metrics: dict[str, float]  # over all ranks


@torch.no_grad()
def modulate_tokens(
    mask: Tensor,
    entropy: Tensor,
    outcome_advantage: Tensor,
    *,
    trajectory: Tensor | None = None,
    gather: Callable[[Tensor], Tensor] | None = None,
    k: float = 1.0,
    k_future: float = 1.0,
    zeta: float = 0.05,
    scale: bool = True,
) -> TokenAdvantages:
    """:func:`empg.core.modulation.modulate` (arXiv 2509.09265) on the steps of padded rows.

    A step is a run of ones in a row of the mask. Its entropy is the mean over its tokens, and all of its tokens get its
    advantage. Call it once with the whole batch of an iteration, after group filtering and before any split; a row of
    zeros has no steps and enters no statistic.

    Args:
        mask: ``[rows, tokens]`` bool or 0/1: the tokens that the policy sampled; prompts, observations, padding are 0.
        entropy: ``[rows, tokens]`` float, of the distributions that the tokens were sampled from, in nats. What stands
            where the mask is 0 is never read.
        outcome_advantage: ``[rows]`` float32 or float64, A_i of each row's trajectory.
        trajectory: ``[rows]`` int64, equal for rows of one trajectory and unlike that of any other, also across ranks;
            the rows come in the order of their steps. None: every row is a trajectory of its own.
        gather: concatenates the tensors of all ranks along the first dimension, as ``accelerate``'s
            ``Accelerator.gather`` does; it is called with tensors of equal shape on every rank, by every rank. None:
            there is one rank.
        k: strength of the gradient scaling, ≥ 0.
        k_future: strength k' of the clarity bonus, ≥ 0.
        zeta: weight ζ of the clarity bonus.
        scale: False sets g = 1, so that only the bonus is left.

    Raises:
        ValueError: for wrong shapes, dtypes, devices or values, and for rows of one trajectory with unequal advantages.
    """
    _check(mask, entropy, outcome_advantage, trajectory)
    own, step_row, token_step = _local_steps(mask.bool(), entropy)
    key = step_row if trajectory is None else trajectory[step_row]
    advantage_of_step = outcome_advantage.detach().double()[step_row]
    here = slice(0, len(own))
    everyone, values = torch.stack((torch.zeros_like(key), key), dim=1), torch.stack((own, advantage_of_step), dim=1)
    if gather is not None:
        here, everyone, values = _gather_steps(gather, key, values)
    if trajectory is not None:
        everyone = everyone[:, 1:]  # its ids hold across ranks; row numbers do not
    result = torch.zeros(mask.shape, dtype=outcome_advantage.dtype, device=mask.device)
    if len(values) == 0:
        return TokenAdvantages(result, {"steps": 0.0, "trajectories": 0.0})
    _, step_trajectory = torch.unique(everyone, dim=0, return_inverse=True)
    modulation = modulate(
        _of_trajectories(values[:, 1], step_trajectory).to(outcome_advantage.dtype),
        values[:, 0],
        step_trajectory,
        k=k,
        k_future=k_future,
        zeta=zeta,
        scale=scale,
    )
    result[mask.bool()] = modulation.advantage[here][token_step]
    return TokenAdvantages(result, _metrics(modulation, values[:, 0], step_trajectory))


def _check(mask: Tensor, entropy: Tensor, outcome_advantage: Tensor, trajectory: Tensor | None) -> None:
    if mask.ndim != 2 or mask.is_floating_point() or ((mask != 0) & (mask != 1)).any():
        raise ValueError(f"mask: expected [rows, tokens] of 0 and 1, found {mask.dtype} {list(mask.shape)}")
    if entropy.shape != mask.shape or not entropy.is_floating_point():
        raise ValueError(
            f"entropy: expected float {list(mask.shape)} as the mask, found {entropy.dtype} {list(entropy.shape)}"
        )
    require_vector("outcome_advantage", outcome_advantage, len(mask))
    if outcome_advantage.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"outcome_advantage: expected float32 or float64, found {outcome_advantage.dtype}")
    for name, value in (("entropy", entropy), ("outcome_advantage", outcome_advantage)):
        require_same_device(name, value, mask)
    if trajectory is not None:
        require_vector("trajectory", trajectory, len(mask))
        require_same_device("trajectory", trajectory, mask)
        if trajectory.dtype != torch.int64:
            raise ValueError(f"trajectory: expected int64, found {trajectory.dtype}")


def _local_steps(mask: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """This rank's steps: entropy ``[steps]`` float64, row ``[steps]``; and the step of each sampled token."""
    starts = mask.clone()
    starts[:, 1:] &= ~mask[:, :-1]
    token_step = (starts.flatten().cumsum(0) - 1)[mask.flatten()]
    step_row = starts.nonzero()[:, 0]
    if len(step_row) == 0:
        return torch.zeros(0, dtype=torch.float64, device=mask.device), step_row, token_step
    values = entropy[mask]
    values = values if values.dtype == torch.float64 else values.float()
    return step_mean(values, token_step, len(step_row)).double(), step_row, token_step


def _gather_steps(gather: Callable[[Tensor], Tensor], key: Tensor, values: Tensor) -> tuple[slice, Tensor, Tensor]:
    """The steps of all ranks, and where this rank's are: (rank, key) and values, ``[steps, 2]`` both.

    Ranks have different numbers of steps, so they are gathered with padding. A random number, which no seed repeats,
    tells each rank which part is its own: ``gather`` may be over any group of processes.
    """
    tag = secrets.randbits(62)
    tags, counts = gather(torch.tensor([[tag, len(values)]], device=key.device)).T
    longest = int(counts.max())
    if longest == 0:
        return slice(0, 0), torch.stack((key, key), dim=1), values
    padded = torch.nn.functional.pad(values, (0, 0, 0, longest - len(values)))
    padded_key = torch.nn.functional.pad(key, (0, longest - len(key)))
    filled = torch.arange(longest, device=key.device) < counts[:, None]
    values = gather(padded).view(len(counts), longest, 2)[filled]
    keys = gather(padded_key).view(len(counts), longest)[filled]
    rank = int((tags == tag).nonzero()[0, 0])
    first = int(counts[:rank].sum())
    ranks = torch.repeat_interleave(torch.arange(len(counts), device=key.device), counts)
    return slice(first, first + int(counts[rank])), torch.stack((ranks, keys), dim=1), values


def _of_trajectories(advantage_of_step: Tensor, step_trajectory: Tensor) -> Tensor:
    """The advantage of each trajectory, ``[trajectories]``, from those of its steps, which must agree."""
    result = torch.empty(int(step_trajectory.max()) + 1, dtype=advantage_of_step.dtype, device=advantage_of_step.device)
    result[step_trajectory] = advantage_of_step
    wrong = (result[step_trajectory] != advantage_of_step) & ~advantage_of_step.isnan()
    if wrong.any():
        step = int(wrong.nonzero()[0])
        raise ValueError(
            "outcome_advantage: expected one value for all rows of a trajectory, "
            f"found {advantage_of_step[step].item()} and {result[step_trajectory[step]].item()}"
        )
    return result


def _metrics(modulation: Modulation, entropy: Tensor, step_trajectory: Tensor) -> dict[str, float]:
    named = {
        "steps": torch.tensor(len(step_trajectory)),
        "trajectories": step_trajectory.max() + 1,
        "step_entropy/mean": entropy.mean(),
        "step_entropy/min": entropy.min(),
        "step_entropy/max": entropy.max(),
        "normalised_entropy/mean": modulation.normalised_entropy.mean(),
        "gradient_scale/min": modulation.gradient_scale.min(),
        "gradient_scale/max": modulation.gradient_scale.max(),
        "clarity_bonus/mean": modulation.clarity_bonus.mean(),
        "advantage/abs_mean": modulation.advantage.abs().mean(),
    }
    return {name: float(value) for name, value in named.items()}
