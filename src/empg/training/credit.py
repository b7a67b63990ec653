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
    ``reward``, ``group`` and ``outcome_advantage`` (``[trajectories]``) and ``token_step`` (``[tokens]``, the step of
    each sampled token). ``modulation`` is of what the method's ``level`` names: ``[steps]`` or ``[tokens]``."""

    reward: Tensor
    group: Tensor
    outcome_advantage: Tensor
    step_trajectory: Tensor
    step_entropy: Tensor
    token_step: Tensor
    level: str
    modulation: Modulation

    @property
    def token_advantage(self) -> Tensor:
        """What every sampled token is trained with, ``[tokens]``."""
        advantage = self.modulation.advantage
        return advantage if self.level == "token" else advantage[self.token_step]

    @property
    def equal_reward_mass(self) -> float:
        """Share of the summed |A_final|, over what ``level`` names, that comes from groups with equal rewards."""
        owner = self.step_trajectory if self.level == "step" else self.step_trajectory[self.token_step]
        return equal_reward_share(self.modulation.advantage, owner, self.reward, self.group)

    @property
    def equal_reward_groups(self) -> float:
        """Share of trajectories in groups whose rewards are all equal (groups are of one size)."""
        return 1.0 - float(informative_groups(self.reward, self.group).double().mean())

    def columns(self) -> pl.DataFrame:
        """The credit columns of :data:`empg.schema.CREDIT` for these steps, all of them trained on.

        Of token-level modulation they hold each step's means over its tokens.
        """
        m = self.modulation
        if self.level == "token":
            m = Modulation(*(step_mean(values, self.token_step, len(self.step_entropy)) for values in m))
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
    trajectories: Sequence[Trajectory],
    method: Method,
    max_response: int,
    reward: str = "success",
    token_entropy: Tensor | None = None,
) -> Credit:
    """Credit every step of an iteration's whole batch, after group filtering and before any split.

    ``token_entropy`` ``[tokens]`` (nats) takes the place of the Shannon entropies that the sampler recorded.
    """
    rewards, group = groups_of(trajectories, reward)
    steps = [step for t in trajectories for step in t.steps]
    step_trajectory = torch.repeat_interleave(torch.tensor([len(t.steps) for t in trajectories]))
    response = torch.tensor([len(step.response_ids) for step in steps])
    token_step = torch.repeat_interleave(response)
    if token_entropy is None:
        token_entropy = torch.from_numpy(np.concatenate([step.entropies for step in steps]))
    step_entropy = step_mean(token_entropy, token_step, len(steps))
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
    entropy, owner = step_entropy, step_trajectory
    if method.level == "token":
        entropy, owner = token_entropy, step_trajectory[token_step]
        step_advantage = None if step_advantage is None else step_advantage[token_step]
    modulation = credit(
        method.modulation,
        outcome_advantage,
        entropy,
        owner,
        k=method.k,
        k_future=method.k_future,
        zeta=method.zeta or 0.0,
        step_advantage=step_advantage,
    )
    return Credit(
        rewards, group, outcome_advantage, step_trajectory, step_entropy, token_step, method.level, modulation
    )
