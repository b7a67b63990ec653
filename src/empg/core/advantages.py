"""Advantages from outcome rewards, and DAPO's two rules about rewards. One reward per trajectory, 0 or 1 as a rule.

``reward`` is ``[trajectories]`` float32 or float64, ``group`` ``[trajectories]`` int64: equal numbers are one task's
group, in any order. Results are ``[trajectories]`` in the reward's dtype; statistics are float64 inside.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from empg.core.checks import require_float, require_index, require_number, require_vector, step_positions

STD_EPS = 1e-6


def grpo(reward: Tensor, group: Tensor, *, eps: float = STD_EPS) -> Tensor:
    """A_i = (R_i − mean_group R) / (std_group R + ε); GRPO, DeepSeekMath, arXiv 2402.03300, section 4.1.2.

    The standard deviation is the population one (ours: the paper does not say). DAPO (arXiv 2503.14476, equation 9)
    uses the same advantage. A group with equal rewards gets 0.
    """
    _check(reward, group)
    return _standardise(reward.double(), group, eps).to(reward.dtype)


dapo = grpo


def rloo(reward: Tensor, group: Tensor) -> Tensor:
    """A_i = R_i − mean of the other G − 1 rewards; RLOO, arXiv 2402.14740. Groups of one are an error.

    Written as (R_i − mean of all G) · G / (G − 1), which is the same."""
    _check(reward, group)
    _, index, size = torch.unique(group, return_inverse=True, return_counts=True)
    if (size == 1).any():
        alone = int((size[index] == 1).nonzero()[0].item())
        raise ValueError(f"group[{alone}]: expected at least 2 trajectories in group {group[alone].item()}, found 1")
    R, G = reward.double(), size[index].double()  # noqa: N806
    advantage: Tensor = (R - _group_mean(R, group)) * G / (G - 1)
    return advantage.to(reward.dtype)


# The advantage of a trajectory, by the name of the method. GiGPO adds ``gigpo_steps`` to each step's.
OUTCOME_ADVANTAGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grpo": grpo,
    "dapo": dapo,
    "rloo": rloo,
    "gigpo": grpo,
}


def gigpo_steps(
    reward: Tensor,
    group: Tensor,
    step_trajectory: Tensor,
    step_anchor: Tensor,
    *,
    omega: float = 1.0,
    gamma: float = 0.95,
    eps: float = STD_EPS,
) -> Tensor:
    """ω·A^S, the step-level term that GiGPO adds to ``grpo``'s advantage; arXiv 2505.10978.

    The outcome reward arrives with a trajectory's last step, so the return of its step t = 1 … T is γ^(T−t)·R_i. Steps
    of one group that were taken on the same anchor observation form a step group; A^S standardises the returns inside
    it as ``grpo`` does (population standard deviation, ours). A step alone in its step group gets 0. Defaults are the
    paper's: ω = 1, γ = 0.95.

    ``step_trajectory`` and ``step_anchor``: ``[steps]`` int64; equal anchors mean that the agent saw the same
    observation before acting. Returns ``[steps]`` in the reward's dtype.
    """
    _check(reward, group)
    require_number("omega", omega)
    require_number("gamma", gamma, above=0)
    require_vector("step_trajectory", step_trajectory)
    require_index("step_trajectory", step_trajectory, len(reward))
    require_vector("step_anchor", step_anchor, len(step_trajectory))
    length = torch.bincount(step_trajectory)[step_trajectory]
    steps_to_go = length - 1 - step_positions(step_trajectory)
    returns = torch.pow(gamma, steps_to_go.double()) * reward.double()[step_trajectory]
    anchors = torch.stack((group[step_trajectory], step_anchor), dim=1)
    step_group = torch.unique(anchors, dim=0, return_inverse=True)[1]
    return (omega * _standardise(returns, step_group, eps)).to(reward.dtype)


def informative_groups(reward: Tensor, group: Tensor) -> Tensor:
    """Which trajectories belong to a group whose rewards are not all equal; ``[trajectories]`` bool.

    DAPO's dynamic sampling (arXiv 2503.14476, equation 11) drops the others and samples again.
    """
    _check(reward, group)
    groups, index = torch.unique(group, return_inverse=True)
    lowest = torch.empty(len(groups), dtype=reward.dtype, device=reward.device)
    highest = lowest.clone()
    lowest.scatter_reduce_(0, index, reward, "amin", include_self=False)
    highest.scatter_reduce_(0, index, reward, "amax", include_self=False)
    return (lowest < highest)[index]


def soft_overlong_punishment(length: Tensor, *, max_length: int, cache: int) -> Tensor:
    """Reward to add for a response of ``length`` tokens; DAPO, arXiv 2503.14476, equation 13. Float32, shape kept.

    0 up to ``max_length − cache``, then falling linearly to −1 at ``max_length``, −1 beyond.
    """
    if not 0 < cache <= max_length:
        raise ValueError(f"cache: expected a length in [1, max_length = {max_length}], found {cache}")
    return ((max_length - cache - length) / cache).clamp(-1.0, 0.0).float()


def _standardise(value: Tensor, group: Tensor, eps: float) -> Tensor:
    """(value − group mean) / (group's population standard deviation + eps), all ``[n]``."""
    deviation = value - _group_mean(value, group)
    return deviation / (_group_mean(deviation.square(), group).sqrt() + eps)


def _group_mean(value: Tensor, group: Tensor) -> Tensor:
    """The mean of each element's group, ``[n]``."""
    _, index, size = torch.unique(group, return_inverse=True, return_counts=True)
    total = torch.zeros(len(size), dtype=value.dtype, device=value.device).index_add_(0, index, value)
    mean: Tensor = (total / size)[index]
    return mean


def _check(reward: Tensor, group: Tensor) -> None:
    require_vector("reward", reward)
    require_float("reward", reward)
    require_vector("group", group, len(reward))
    if group.dtype != torch.int64:
        raise ValueError(f"group: expected int64, found {group.dtype}")
