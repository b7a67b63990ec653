"""From a batch of trajectories to one advantage for each step: what :mod:`empg.core` computes, on trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from empg.config import ADVANTAGES, MODULATIONS
from empg.config.methods import Method
from empg.core.advantages import Advantages, Batch, informative_groups, soft_overlong_punishment
from empg.core.entropy import step_mean
from empg.core.modulation import Modulation, equal_reward_share
from empg.registry import resolve
from empg.rollouts.episodes import Step, Trajectory


@dataclass(frozen=True, slots=True)
class Credit:
    """The credit of a batch, in the order of trajectories, steps and tokens."""

    reward: Tensor  # [trajectories], of the environment
    group: Tensor  # [trajectories]
    outcome_advantage: Tensor  # [trajectories]
    step_trajectory: Tensor  # [steps]: the trajectory of each step
    step_entropy: Tensor  # [steps], nats
    token_step: Tensor  # [tokens]: the step of each sampled token
    level: str  # of the method: step or token
    modulation: Modulation  # [steps], or [tokens] at the level of tokens

    @property
    def token_advantage(self) -> Tensor:
        """The advantage that each sampled token is trained with, ``[tokens]``."""
        advantage = self.modulation.advantage
        return advantage if self.level == "token" else advantage[self.token_step]

    @property
    def equal_reward_mass(self) -> float:
        """Share of the summed |A_final| of all steps (or tokens) that comes from groups with equal rewards."""
        owner = self.step_trajectory if self.level == "step" else self.step_trajectory[self.token_step]
        return equal_reward_share(self.modulation.advantage, owner, self.reward, self.group)

    @property
    def equal_reward_groups(self) -> float:
        """Share of trajectories that are in groups with equal rewards."""
        return 1.0 - float(informative_groups(self.reward, self.group).double().mean())

    def columns(self) -> pl.DataFrame:
        """The columns of :data:`empg.schema.CREDIT` for these steps, all of them trained on.

        At the level of tokens, a step has the means over its tokens.
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
    """Rewards (``success``: the outcome, ``score``: the dense score) and groups, ``[trajectories]``."""
    values = [t.reward if reward == "success" else t.score for t in trajectories]
    return torch.tensor(values, dtype=torch.float64), torch.tensor([t.episode.group for t in trajectories])


def advantages_of(method: Method, batch: Batch) -> Advantages:
    """What the method's outcome advantage makes of a batch."""
    function = resolve(ADVANTAGES[method.advantage].function)
    advantages: Advantages = function(batch, **method.advantage_settings())
    return advantages


def modulation_of(method: Method, advantages: Advantages, batch: Batch, entropy: Tensor) -> Modulation:
    """What the method's modulation makes of advantages and the entropy (nats) of each step of the batch."""
    registration = MODULATIONS[method.modulation]
    function = resolve(registration.function)
    seen = (batch,) if registration.of_batch else ()
    modulation: Modulation = function(advantages, entropy, batch.step_trajectory, *seen, **method.modulation_settings())
    return modulation


def credit_batch(
    trajectories: Sequence[Trajectory],
    method: Method,
    max_response: int,
    reward: str = "success",
    token_entropy: Tensor | None = None,
) -> Credit:
    """Credit every step of the whole batch of an iteration, after group filtering and before any split.

    ``token_entropy`` ``[tokens]`` (nats) replaces the Shannon entropies that the sampler recorded. Raises
    ``ValueError`` for what the functions of the method refuse.
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
    batch = Batch(shaped, group, step_trajectory, _anchors(steps), _actions(steps), _histories(trajectories))
    advantages = advantages_of(method, batch)
    if method.level == "token":
        of_tokens = None if advantages.step is None else advantages.step[token_step]
        modulation = modulation_of(
            method, advantages._replace(step=of_tokens), batch.of_tokens(token_step), token_entropy
        )
    else:
        modulation = modulation_of(method, advantages, batch, step_entropy)
    return Credit(
        rewards, group, advantages.outcome, step_trajectory, step_entropy, token_step, method.level, modulation
    )


def _anchors(steps: Sequence[Step]) -> Tensor:
    """A number for each different observation, ``[steps]``."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(step.observation, len(numbers)) for step in steps])


def _actions(steps: Sequence[Step]) -> Tensor:
    """A number for each different action, ``[steps]``. Texts without an action have one number."""
    numbers: dict[str | None, int] = {}
    return torch.tensor([numbers.setdefault(step.action, len(numbers)) for step in steps])


def _histories(trajectories: Sequence[Trajectory]) -> Tensor:
    """A number for each different sequence of observations and actions that led to a step, ``[steps]``."""
    numbers: dict[tuple[int, str | None, str], int] = {}
    found = []
    for trajectory in trajectories:
        before: tuple[int, str | None] = (-1, None)
        for step in trajectory.steps:
            found.append(numbers.setdefault((*before, step.observation), len(numbers)))
            before = (found[-1], step.action)
    return torch.tensor(found)
