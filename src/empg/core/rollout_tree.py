"""RTMC (arXiv 2604.11037): step advantages from the states that the trajectories of a group share, without a critic.

Trajectories of one task that pass through the same state form a tree. Returns pooled over the visits of a state and of
an action there estimate V(s) and Q(s, a).
"""

from __future__ import annotations

import torch
from torch import Tensor

from empg.core.advantages import (
    STD_EPS,
    Advantages,
    Batch,
    check_rewards,
    discounted_returns,
    group_mean,
    informative_groups,
    standard_deviation,
)
from empg.core.checks import require_index, require_number, require_vector, step_positions


def rtmc_steps(
    reward: Tensor,
    group: Tensor,
    step_trajectory: Tensor,
    step_state: Tensor,
    step_action: Tensor,
    *,
    gamma: float = 0.99,
    prior: float = 2.0,
    eps: float = STD_EPS,
) -> Tensor:
    """A(s, a) = Q(s, a) − V'(s) of every step, in units of its group's standard deviation; RTMC, arXiv 2604.11037.

    The reward arrives with the last step, so step t = 1 … T of a trajectory has the return γ^(T−t)·R_i. Q(s, a) is the
    mean return over the group's first visits of action a in state s: a trajectory counts once. V(s) is their mean over
    all actions in s, N(s) their number, and V'(s) = (N(s)·V(s) + N₀·V₀) / (N(s) + N₀) is drawn to V₀, the mean reward
    of the group, where visits are few. A is divided by its population standard deviation over the group's steps and not
    centred. A group with equal rewards gets 0 (ours): there, A would rank nothing but lengths.

    Args:
        reward: ``[trajectories]`` float32 or float64.
        group: ``[trajectories]`` int64.
        step_trajectory: ``[steps]`` int64, the trajectory of each step; the steps of one come in order.
        step_state: ``[steps]`` int64, equal where the state is the same. States of different groups are different.
        step_action: ``[steps]`` int64, equal where the action is the same.
        gamma: the discount γ of a step.
        prior: N₀, the number of visits that the group's mean reward counts for.
        eps: guard of the division by the standard deviation.

    Returns ``[steps]`` in the dtype of the reward. Raises ``ValueError`` for wrong shapes, indices or values.
    """
    check_rewards(reward, group)
    require_number("gamma", gamma, above=0)
    require_number("prior", prior, minimum=0)
    require_vector("step_trajectory", step_trajectory)
    require_index("step_trajectory", step_trajectory, len(reward))
    require_vector("step_state", step_state, len(step_trajectory))
    require_vector("step_action", step_action, len(step_trajectory))
    position = step_positions(step_trajectory)
    returns = discounted_returns(reward, step_trajectory, gamma)
    step_group = group[step_trajectory]

    state = numbered(step_group, step_state)
    pair = numbered(state, step_action)
    visit = numbered(step_trajectory, pair)
    earliest = torch.full_like(position, len(position)).scatter_reduce(0, visit, position, "amin")
    first = (position == earliest[visit]).double()
    Q = _mean(returns, first, pair)  # noqa: N806 — the letters of the equations
    V = _mean(returns, first, state)  # noqa: N806
    N = torch.zeros_like(returns).index_add_(0, state, first)[state]  # noqa: N806
    V_0 = group_mean(reward.double(), group)[step_trajectory]  # noqa: N806
    A = Q - (N * V + prior * V_0) / (N + prior)  # noqa: N806

    scaled = A / (standard_deviation(A, step_group) + eps)
    return torch.where(informative_groups(reward, group)[step_trajectory], scaled, 0.0).to(reward.dtype)


def rtmc_advantages(batch: Batch, *, state: str, gamma: float, prior: float) -> Advantages:
    """RTMC of a batch: all of the advantage is of the step.

    ``state`` says what makes two states equal: ``history``, all observations and actions so far, or ``observation``.
    Raises ``ValueError`` for a batch without actions or histories.
    """
    matched = batch.anchor if state == "observation" else batch.history
    if matched is None or batch.action is None:
        raise ValueError(f"batch: expected actions and states ({state}) of the steps, found none")
    step = rtmc_steps(batch.reward, batch.group, batch.step_trajectory, matched, batch.action, gamma=gamma, prior=prior)
    return Advantages(torch.zeros_like(batch.reward), step)


def numbered(*keys: Tensor) -> Tensor:
    """A number 0, 1, 2, … for each different combination of the keys, ``[n]`` int64 each; ``[n]``."""
    number: Tensor = torch.unique(keys[0], return_inverse=True)[1]
    for key in keys[1:]:
        inverse = torch.unique(key, return_inverse=True)[1]
        number = torch.unique(number * (int(inverse.max()) + 1) + inverse, return_inverse=True)[1]
    return number


def _mean(value: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """The weighted mean of the elements with the same index, for each element, ``[n]``."""
    total = torch.zeros_like(value).index_add_(0, index, weight * value)
    weights = torch.zeros_like(value).index_add_(0, index, weight)
    mean: Tensor = (total / weights)[index]
    return mean
