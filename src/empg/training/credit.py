"""From a batch of trajectories to one advantage per step: the bridge between rollouts and the mathematics of `core`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from empg.config import Gigpo, Method
from empg.core.advantages import OUTCOME_ADVANTAGES, gigpo_steps, informative_groups, soft_overlong_punishment
from empg.core.entropy import step_mean
from empg.core.modulation import Modulation, credit, equal_reward_share
from empg.rollouts.episodes import Trajectory


@dataclass(frozen=True, slots=True)
class Credit:
    """What a batch's steps are worth; ``[steps]`` in the order of trajectories and steps, but for the trajectories'
    ``reward``, ``group`` and ``outcome_advantage`` (``[trajectories]``)."""

    reward: Tensor
    group: Tensor
    outcome_advantage: Tensor
    step_trajectory: Tensor
    step_entropy: Tensor
    modulation: Modulation

    @property
    def equal_reward_mass(self) -> float:
        return equal_reward_share(self.modulation.advantage, self.step_trajectory, self.reward, self.group)

    @property
    def equal_reward_groups(self) -> float:
        """Share of trajectories in groups whose rewards are all equal (groups are of one size)."""
        return 1.0 - float(informative_groups(self.reward, self.group).double().mean())

    def columns(self) -> pl.DataFrame:
        """The credit columns of :data:`empg.schema.CREDIT` for these steps, all of them trained on."""
        m = self.modulation
        values = {
            "step_entropy": self.step_entropy,
            "outcome_advantage": self.outcome_advantage[self.step_trajectory],
            "normalised_entropy": m.normalised_entropy,
            "gradient_scale": m.gradient_scale,
            "clarity_bonus": m.clarity_bonus,
            "advantage": m.advantage,
        }
        trained = pl.Series("trained", [True] * len(self.step_entropy))
        return pl.DataFrame([trained, *(pl.Series(name, value.float().numpy()) for name, value in values.items())])


def groups_of(trajectories: Sequence[Trajectory], reward: str = "success") -> tuple[Tensor, Tensor]:
    """Training rewards (``success``: the outcome, ``score``: the dense score) and groups, ``[trajectories]``."""
    values = [t.reward if reward == "success" else t.score for t in trajectories]
    return torch.tensor(values, dtype=torch.float64), torch.tensor([t.episode.group for t in trajectories])


def credit_batch(
    trajectories: Sequence[Trajectory], method: Method, max_response: int, reward: str = "success"
) -> Credit:
    """Credit every step of an iteration's whole batch, after group filtering and before any split."""
    rewards, group = groups_of(trajectories, reward)
    steps = [step for t in trajectories for step in t.steps]
    step_trajectory = torch.repeat_interleave(torch.tensor([len(t.steps) for t in trajectories]))
    response = torch.tensor([len(step.response_ids) for step in steps])
    entropies = torch.from_numpy(np.concatenate([step.entropies for step in steps]))
    step_entropy = step_mean(entropies, torch.repeat_interleave(response), len(steps))
    shaped = rewards
    if method.overlong_cache:
        punishment = soft_overlong_punishment(response, max_length=max_response, cache=method.overlong_cache)
        shaped = rewards + step_mean(punishment.double(), step_trajectory, len(trajectories))
    outcome_advantage = OUTCOME_ADVANTAGES[method.advantage](shaped, group)
    step_advantage = None
    if isinstance(method, Gigpo):
        anchors: dict[str, int] = {}
        anchor = torch.tensor([anchors.setdefault(step.observation, len(anchors)) for step in steps])
        step_advantage = gigpo_steps(shaped, group, step_trajectory, anchor, omega=method.omega, gamma=method.gamma)
    modulation = credit(
        method.modulation,
        outcome_advantage,
        step_entropy,
        step_trajectory,
        k=method.k,
        k_future=method.k_future,
        zeta=method.zeta or 0.0,
        step_advantage=step_advantage,
    )
    return Credit(rewards, group, outcome_advantage, step_trajectory, step_entropy, modulation)
