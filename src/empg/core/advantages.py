"""Outcome advantages, and DAPO's two rules about rewards. A trajectory has one reward, usually 0 or 1.

``reward`` is ``[trajectories]`` float32 or float64. ``group`` is ``[trajectories]`` int64: the trajectories of one task
have the same number, in any order. Results are ``[trajectories]`` in the dtype of the reward; statistics are float64
inside.

``grpo``, ``rloo`` and ``gigpo_steps`` are the formulas. ``grpo_advantages``, ``rloo_advantages`` and
``gigpo_advantages`` are what a registration names: functions from a :class:`Batch` to :class:`Advantages`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from empg.core.checks import require_float, require_index, require_number, require_vector, step_positions

STD_EPS = 1e-6


class Batch(NamedTuple):
    """What an outcome advantage sees of an iteration's whole batch, after group filtering.

    ``reward`` is what the loop trains on: the reward of the environment and, where it is on, the overlong punishment.
    """

    reward: Tensor  # [trajectories] float64
    group: Tensor  # [trajectories] int64
    step_trajectory: Tensor  # [steps] int64: the index of each step's trajectory; the steps of one come in order
    anchor: Tensor  # [steps] int64: equal where the agent saw the same observation before it acted
    action: Tensor | None = None  # [steps] int64: equal where the action is the same
    history: Tensor | None = None  # [steps] int64: equal where all observations and actions so far are the same

    def of_tokens(self, token_step: Tensor) -> Batch:
        """The batch with an entry for each token in place of each step; ``token_step`` is ``[tokens]`` int64."""
        action, history = (None if x is None else x[token_step] for x in (self.action, self.history))
        return Batch(
            self.reward, self.group, self.step_trajectory[token_step], self.anchor[token_step], action, history
        )


class Advantages(NamedTuple):
    """Advantages before modulation: one for each trajectory and, for step-level estimators, a term for each step."""

    outcome: Tensor  # [trajectories]
    step: Tensor | None = None  # [steps], added to the advantage of the step's trajectory

    def of_steps(self, step_trajectory: Tensor) -> Tensor:
        """The sum of both for every step, ``[steps]``, without gradient."""
        total = self.outcome.detach()[step_trajectory]
        return total if self.step is None else total + self.step.detach().to(total.dtype)


def grpo(reward: Tensor, group: Tensor, *, eps: float = STD_EPS) -> Tensor:
    """A_i = (R_i − mean_group R) / (std_group R + ε); GRPO, DeepSeekMath, arXiv 2402.03300, section 4.1.2.

    The standard deviation is the population one (ours: the paper does not say). A group with equal rewards gets 0.
    DAPO (arXiv 2503.14476, equation 9) has the same advantage.
    """
    check_rewards(reward, group)
    return _standardise(reward.double(), group, eps).to(reward.dtype)


def rloo(reward: Tensor, group: Tensor) -> Tensor:
    """A_i = R_i − mean of the other G − 1 rewards; RLOO, arXiv 2402.14740.

    Computed as (R_i − mean of all G) · G / (G − 1), which is the same. Raises ``ValueError`` for a group of one.
    """
    check_rewards(reward, group)
    _, index, size = torch.unique(group, return_inverse=True, return_counts=True)
    if (size == 1).any():
        alone = int((size[index] == 1).nonzero()[0].item())
        raise ValueError(f"group[{alone}]: expected at least 2 trajectories in group {group[alone].item()}, found 1")
    R, G = reward.double(), size[index].double()  # noqa: N806
    advantage: Tensor = (R - group_mean(R, group)) * G / (G - 1)
    return advantage.to(reward.dtype)


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

    The reward arrives with the last step, so step t = 1 … T of a trajectory has the return γ^(T−t)·R_i. Steps of one
    group that saw the same anchor observation form a step group. A^S standardises returns inside a step group as
    ``grpo`` does inside a group (population standard deviation, ours). A step alone in its step group gets 0. The
    defaults ω = 1 and γ = 0.95 are the paper's.

    ``step_trajectory`` and ``step_anchor`` are ``[steps]`` int64; steps have equal anchors where the agent saw the same
    observation before it acted. Returns ``[steps]`` in the dtype of the reward.
    """
    check_rewards(reward, group)
    require_number("omega", omega)
    require_number("gamma", gamma, above=0)
    require_vector("step_trajectory", step_trajectory)
    require_index("step_trajectory", step_trajectory, len(reward))
    require_vector("step_anchor", step_anchor, len(step_trajectory))
    returns = discounted_returns(reward, step_trajectory, gamma)
    anchors = torch.stack((group[step_trajectory], step_anchor), dim=1)
    step_group = torch.unique(anchors, dim=0, return_inverse=True)[1]
    return (omega * _standardise(returns, step_group, eps)).to(reward.dtype)


def grpo_advantages(batch: Batch) -> Advantages:
    """``grpo`` of a batch; GRPO's and DAPO's advantage."""
    return Advantages(grpo(batch.reward, batch.group))


def rloo_advantages(batch: Batch) -> Advantages:
    """``rloo`` of a batch."""
    return Advantages(rloo(batch.reward, batch.group))


def gigpo_advantages(batch: Batch, *, omega: float, gamma: float) -> Advantages:
    """GiGPO (arXiv 2505.10978): ``grpo`` for the trajectory, ``gigpo_steps`` in addition for each step."""
    step = gigpo_steps(batch.reward, batch.group, batch.step_trajectory, batch.anchor, omega=omega, gamma=gamma)
    return Advantages(grpo(batch.reward, batch.group), step)


def informative_groups(reward: Tensor, group: Tensor) -> Tensor:
    """Which trajectories are in a group with unequal rewards; ``[trajectories]`` bool.

    DAPO's dynamic sampling (arXiv 2503.14476, equation 11) drops the other groups and samples more.
    """
    check_rewards(reward, group)
    groups, index = torch.unique(group, return_inverse=True)
    lowest = torch.empty(len(groups), dtype=reward.dtype, device=reward.device)
    highest = lowest.clone()
    lowest.scatter_reduce_(0, index, reward, "amin", include_self=False)
    highest.scatter_reduce_(0, index, reward, "amax", include_self=False)
    return (lowest < highest)[index]


def soft_overlong_punishment(length: Tensor, *, max_length: int, cache: int) -> Tensor:
    """What DAPO adds to the reward for a response of ``length`` tokens (arXiv 2503.14476, equation 13).

    It is 0 up to ``max_length − cache`` tokens, falls linearly to −1 at ``max_length`` and stays there. Float32, in the
    shape of ``length``. Raises ``ValueError`` unless 0 < ``cache`` ≤ ``max_length``.
    """
    if not 0 < cache <= max_length:
        raise ValueError(f"cache: expected a length in [1, max_length = {max_length}], found {cache}")
    return ((max_length - cache - length) / cache).clamp(-1.0, 0.0).float()


def discounted_returns(reward: Tensor, step_trajectory: Tensor, gamma: float) -> Tensor:
    """γ^(T−t)·R_i of step t = 1 … T of trajectory i, whose reward arrives with its last step; ``[steps]`` float64."""
    steps_to_go = torch.bincount(step_trajectory)[step_trajectory] - 1 - step_positions(step_trajectory)
    return torch.pow(gamma, steps_to_go.double()) * reward.double()[step_trajectory]


def _standardise(value: Tensor, group: Tensor, eps: float) -> Tensor:
    """(value − group mean) / (group's population standard deviation + eps), all ``[n]``."""
    deviation = value - group_mean(value, group)
    return deviation / (group_mean(deviation.square(), group).sqrt() + eps)


def standard_deviation(value: Tensor, group: Tensor) -> Tensor:
    """The population standard deviation of each element's group, ``[n]``."""
    return group_mean((value - group_mean(value, group)).square(), group).sqrt()


def group_mean(value: Tensor, group: Tensor) -> Tensor:
    """The mean of each element's group, ``[n]``."""
    _, index, size = torch.unique(group, return_inverse=True, return_counts=True)
    total = torch.zeros(len(size), dtype=value.dtype, device=value.device).index_add_(0, index, value)
    mean: Tensor = (total / size)[index]
    return mean


def check_rewards(reward: Tensor, group: Tensor) -> None:
    """``reward`` is a float vector and ``group`` an int64 vector of its length. Raises ``ValueError`` otherwise."""
    require_vector("reward", reward)
    require_float("reward", reward)
    require_vector("group", group, len(reward))
    if group.dtype != torch.int64:
        raise ValueError(f"group: expected int64, found {group.dtype}")
