"""A world whose policy gradient is known exactly.

A task is a chain of steps. At each, a softmax policy takes one of a few actions. At *decisive* steps one action is
right; an episode is rewarded, once at its end, if all of them were. At other steps the action does not matter.

The logits of step s are ``b(s) + W φ(s)``. The base logits b are fixed and set the entropy; the features φ set the size
of gradients; so entropy and feature norm vary independently. ``W`` is shared by all steps of all tasks and is what
learns, from 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from empg.config.testbed import World as Settings
from empg.core.advantages import Batch

LOWEST_ENTROPY = 0.01  # nats
MIXER = 6364136223846793005  # Knuth's multiplier: numbers of different histories stay different


@dataclass(frozen=True, slots=True)
class World:
    """Tasks. ``right`` is the right action of a decisive step and −1 at others."""

    settings: Settings
    base: Tensor  # [tasks, steps, actions] float64: logits at W = 0
    features: Tensor  # [tasks, steps, width] float64
    right: Tensor  # [tasks, steps] int64

    @classmethod
    def draw(cls, settings: Settings, generator: torch.Generator) -> World:
        """Tasks with decisive steps at random places. The policy at W = 0 is calibrated: the right action is its own.

        A step's entropy is uniform within ``spread`` of its class. The right action is drawn from the policy, so that
        a confident policy is mostly right and an uncertain one often wrong. Features are random directions; those of
        decisive steps are ``norm_ratio`` times as long as those of others.
        """
        tasks, steps, actions = settings.tasks, settings.steps, settings.actions
        order = torch.rand(tasks, steps, generator=generator).argsort(dim=1)
        decisive = order < settings.decisive
        centre = torch.where(decisive, settings.decisive_entropy, settings.other_entropy).double()
        offset = settings.spread * (2 * torch.rand(tasks, steps, generator=generator, dtype=torch.float64) - 1)
        entropy = (centre + offset).clamp(LOWEST_ENTROPY, math.log(actions) - LOWEST_ENTROPY)
        direction = torch.randn(tasks, steps, actions, generator=generator, dtype=torch.float64)
        base = logits_of_entropy(direction, entropy)
        drawn = torch.multinomial(base.softmax(-1).flatten(0, 1), 1, generator=generator).view(tasks, steps)
        features = torch.randn(tasks, steps, settings.width, generator=generator, dtype=torch.float64)
        features = features / features.norm(dim=-1, keepdim=True)
        features = features * torch.where(decisive, settings.norm_ratio, 1.0)[..., None]
        return cls(settings, base, features, torch.where(decisive, drawn, -1))

    def log_policy(self, weight: Tensor) -> Tensor:
        """log π of every action, ``[tasks, steps, actions]``, with ``weight`` ``[actions, width]``."""
        return torch.log_softmax(self.base + self.features @ weight.T, dim=-1)

    def success(self, weight: Tensor) -> Tensor:
        """The exact probability that each task's episode is rewarded, ``[tasks]``."""
        decisive = self.right >= 0
        chosen = self.log_policy(weight).gather(-1, self.right.clamp(min=0)[..., None])[..., 0]
        return (chosen * decisive).sum(1).exp()

    def gradient(self, weight: Tensor) -> Tensor:
        """The exact gradient of the mean success, ``[actions, width]``: mean over tasks of P·Σ (e_right − π) φᵀ."""
        decisive = self.right >= 0
        one_hot = torch.nn.functional.one_hot(self.right.clamp(min=0), self.settings.actions)
        score = (one_hot - self.log_policy(weight).exp()) * decisive[..., None]
        per_task = torch.einsum("mta,mtd->mad", score, self.features)
        return (self.success(weight)[:, None, None] * per_task).mean(0)

    def decisiveness(self, weight: Tensor) -> Tensor:
        """The exact variance, over the actions of a step, of the expected reward, ``[tasks, steps]``.

        At a decisive step whose right action has probability p, the expected reward is P/p with probability p, else 0.
        """
        p = self.log_policy(weight).exp().gather(-1, self.right.clamp(min=0)[..., None])[..., 0]
        success = self.success(weight)[:, None]
        return torch.where(self.right >= 0, success.square() * (1 / p - 1), 0.0)


@dataclass(frozen=True, slots=True)
class Played:
    """Episodes: the trajectories of a group one after another, the steps of each in order; one action is one token."""

    batch: Batch
    hidden: Tensor  # [steps, width + actions]: features and base logits
    action: Tensor  # [steps]
    logprob: Tensor  # [steps], when sampled
    entropy: Tensor  # [steps], nats

    @property
    def episodes(self) -> int:
        return len(self.batch.reward)


def play(world: World, weight: Tensor, group_size: int, generator: torch.Generator, tasks: Tensor) -> Played:
    """``group_size`` episodes of each of the ``tasks`` ``[groups]``, which may repeat, with the policy ``weight``."""
    log_policy = world.log_policy(weight)[tasks]
    groups, steps, _ = log_policy.shape
    drawn = torch.multinomial(log_policy.exp().flatten(0, 1), group_size, replacement=True, generator=generator)
    action = drawn.view(groups, steps, group_size).transpose(1, 2)  # [groups, group_size, steps]
    right = world.right[tasks][:, None]
    reward = ((action == right) | (right < 0)).all(-1).double().flatten()

    def of_steps(values: Tensor) -> Tensor:
        """``[groups, steps, …]`` for each trajectory of the group, flat over steps."""
        return values[:, None].expand(-1, group_size, *(-1,) * (values.dim() - 1)).flatten(0, 2)

    logprob = log_policy[:, None].expand(-1, group_size, -1, -1).gather(-1, action[..., None])
    group = torch.arange(groups).repeat_interleave(group_size)
    trajectory = torch.arange(len(reward)).repeat_interleave(steps)
    anchor, history = _states(action, world.settings)
    return Played(
        Batch(reward, group, trajectory, anchor, action.flatten(), history),
        torch.cat((of_steps(world.features[tasks]), of_steps(world.base[tasks])), dim=1),
        action.flatten(),
        logprob.flatten(),
        of_steps(-(log_policy.exp() * log_policy).sum(-1)),
    )


def _states(action: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Anchor and history of every step, flat.

    An observation shows the step and the last ``window`` actions, as an environment's answer does; a window of 0 merges
    all trajectories, a long one keeps them apart once they have parted.
    """
    steps = action.shape[-1]
    anchor = torch.arange(steps).expand_as(action).clone()
    for back in range(1, min(settings.window, steps - 1) + 1):
        seen = torch.zeros_like(action)
        seen[..., back:] = action[..., :-back] + 1
        anchor = anchor * (settings.actions + 1) + seen
    history = torch.zeros_like(action)
    for step in range(1, steps):
        history[..., step] = history[..., step - 1] * MIXER + action[..., step - 1] + step
    return anchor.flatten(), history.flatten()


def logits_of_entropy(direction: Tensor, entropy: Tensor, steps: int = 60) -> Tensor:
    """Multiples of ``direction`` ``[…, actions]`` whose softmax has this entropy ``[…]`` (nats), by bisection."""
    low, high = torch.zeros_like(entropy), torch.full_like(entropy, 1e4)
    for _ in range(steps):
        middle = (low + high) / 2
        log_p = torch.log_softmax(middle[..., None] * direction, dim=-1)
        too_uncertain = -(log_p.exp() * log_p).sum(-1) > entropy
        low, high = torch.where(too_uncertain, middle, low), torch.where(too_uncertain, high, middle)
    return high[..., None] * direction
