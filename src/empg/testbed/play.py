"""Batches of episodes as training collects them, with DAPO's dynamic sampling where a method has it."""

from __future__ import annotations

import torch
from torch import Tensor

from empg.config import Method
from empg.core.advantages import informative_groups
from empg.testbed.world import Played, World, play


def dynamic_tasks(world: World, weight: Tensor, group_size: int, method: Method, generator: torch.Generator) -> Played:
    """A group of episodes for each task. Groups with equal rewards are played again where the method asks for it.

    After ``dynamic_sampling`` further rounds, the groups that still have equal rewards are left out, or all are kept if
    no group has unequal ones.
    """
    tasks = torch.arange(world.settings.tasks)
    played = play(world, weight, group_size, generator, tasks)
    if not method.dynamic_sampling:
        return played
    kept: list[Played] = []
    for attempt in range(1 + method.dynamic_sampling):
        if attempt:
            played = play(world, weight, group_size, generator, tasks)
        informative = informative_groups(played.batch.reward, played.batch.group).view(-1, group_size)[:, 0]
        if informative.any():
            kept.append(select(played, informative))
        tasks = tasks[~informative]
        if not len(tasks):
            break
    return join(kept) if kept else played


def select(played: Played, groups: Tensor) -> Played:
    """The groups of a mask ``[groups]``, numbered anew."""
    trajectories = groups[played.batch.group]
    return _rows(played, trajectories)


def minibatch(played: Played, start: int, end: int) -> tuple[Played, Tensor]:
    """The trajectories from ``start`` to ``end``, and the mask of their steps ``[steps]``."""
    number = torch.arange(played.episodes)
    chosen = (number >= start) & (number < end)
    return _rows(played, chosen), chosen[played.batch.step_trajectory]


def join(parts: list[Played]) -> Played:
    """Several batches as one, with groups numbered on."""
    batches, groups, trajectories = [], 0, 0
    for part in parts:
        moved = {"group": part.batch.group + groups, "step_trajectory": part.batch.step_trajectory + trajectories}
        batches.append(part.batch._replace(**moved))
        groups, trajectories = groups + int(part.batch.group.max()) + 1, trajectories + part.episodes
    batch = type(batches[0])(*(torch.cat(columns) for columns in zip(*batches, strict=True)))
    names = ("hidden", "action", "logprob", "entropy")
    return Played(batch, *(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _rows(played: Played, trajectories: Tensor) -> Played:
    """The trajectories of a mask, with trajectories and groups numbered anew."""
    batch = played.batch
    steps = trajectories[batch.step_trajectory]
    of_steps = [None if x is None else x[steps] for x in batch[3:]]
    numbered = (
        torch.unique(x, return_inverse=True)[1] for x in (batch.group[trajectories], batch.step_trajectory[steps])
    )
    kept = type(batch)(batch.reward[trajectories], *numbered, *of_steps)
    return Played(kept, played.hidden[steps], played.action[steps], played.logprob[steps], played.entropy[steps])
