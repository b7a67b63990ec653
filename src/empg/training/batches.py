"""Where the trajectories of an iteration come from: the draw of tasks, the first batch, dynamic sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from empg.config import TrainRun
from empg.core.advantages import informative_groups
from empg.environments.base import Task
from empg.errors import ConfigError, DataError
from empg.rollouts.collect import draw_tasks, draw_weights, group_episodes
from empg.rollouts.episodes import Episode, Trajectory
from empg.rollouts.table import from_table
from empg.schema import DIFFICULTY, STEPS, read_table
from empg.seeding import derive_seed
from empg.training.credit import groups_of


class Player(Protocol):
    """Plays episodes: :class:`~empg.rollouts.sampler.Sampler`, or several of them in as many processes."""

    def play(self, episodes: Sequence[Episode], /) -> list[Trajectory]:
        """One trajectory for each episode, in order."""


class Collected(NamedTuple):
    """The trajectories of an iteration: those to train on, and those that dynamic sampling dropped."""

    kept: list[Trajectory]
    dropped: list[Trajectory]


@dataclass(frozen=True, slots=True)
class WeightedTasks:
    """Tasks, and how often to draw each (``[tasks]``)."""

    tasks: Sequence[Task]
    weights: NDArray[np.float64]

    @classmethod
    def by_difficulty(cls, tasks: Sequence[Task], difficulty: pl.DataFrame, floor: float) -> WeightedTasks:
        """Weights by the success rate of the warm start: :func:`empg.rollouts.collect.draw_weights`."""
        return cls(tasks, draw_weights(tasks, difficulty, floor))

    def draw(self, count: int, seed: int) -> list[Task]:
        """``count`` different tasks."""
        return draw_tasks(self.tasks, self.weights, count, seed)


@dataclass(frozen=True, slots=True)
class Batches:
    """Collects the batch of an iteration: ``group_size`` episodes of each of ``groups`` tasks.

    The first batch is part of the collection of the rollout stage, which the warm start sampled. Its tasks are drawn
    uniformly. The weights of the other batches are made of the collection's outcomes, so they would prefer groups with
    mixed rewards among those very groups, and such groups are no sample of the policy's (ours).
    """

    config: TrainRun
    sampler: Player
    tasks: WeightedTasks
    collection: Sequence[Trajectory]

    @classmethod
    def open(cls, config: TrainRun, sampler: Player, tasks: Sequence[Task], rollouts: Path) -> Batches:
        """Batches of these training tasks, with the collection and the difficulty table of the rollout stage.

        Raises :class:`DataError` where the collection has too few tasks for the first batch.
        """
        train, path = config.train, rollouts / "rollouts.parquet"
        difficulty = read_table(rollouts / "difficulty.parquet", DIFFICULTY)
        collection = from_table(read_table(path, STEPS), config.environment)
        if (found := len(_tasks_of(collection))) < train.groups:
            raise DataError(f"{path}: expected at least {train.groups} tasks for the first batch, found {found}")
        drawn = WeightedTasks.by_difficulty(tasks, difficulty, train.difficulty_floor)
        return cls(config, sampler, drawn, collection)

    def collect(self, iteration: int) -> Collected:
        """The trajectories of an iteration.

        With dynamic sampling, groups with equal rewards are dropped and replaced, in so many more rounds at most.
        Raises :class:`ConfigError` where no opening fits into the context.
        """
        train, rounds = self.config.train, self.config.method.dynamic_sampling
        kept: list[Trajectory] = []
        dropped: list[Trajectory] = []
        for attempt in range(1 + rounds):
            missing = train.groups - len(kept) // train.group_size
            if missing == 0:
                break
            batch = self._groups(iteration, attempt, missing)
            if not rounds:
                return Collected(batch, [])
            informative = informative_groups(*groups_of(batch, train.reward)).tolist()
            kept += [t for t, good in zip(batch, informative, strict=True) if good]
            dropped += [t for t, good in zip(batch, informative, strict=True) if not good]
        if not kept:  # nothing to learn from: train on the last group rather than on none
            return Collected(dropped[-train.group_size :], dropped[: -train.group_size])
        return Collected(kept, dropped)

    def _groups(self, iteration: int, attempt: int, count: int) -> list[Trajectory]:
        """``count`` groups: those of the first batch from the collection, all others sampled."""
        seed, train, sampling = self.config.seed, self.config.train, self.config.sampling
        draw = derive_seed(seed, "tasks", iteration, attempt)
        if iteration == 0 and attempt == 0:
            return self._first_groups(count, draw)
        tasks = self.tasks.draw(count, draw)
        first = attempt * train.groups
        played = self.sampler.play(group_episodes(tasks, train.group_size, first, seed, "train", iteration, attempt))
        batch = [t for t in played if t.steps]  # without steps: the opening is too long for the context
        if not batch:
            raise ConfigError(
                f"sampling.max_context: expected room for an opening and {sampling.max_response} tokens, "
                f"found {sampling.max_context} tokens, which hold none of {count} tasks' openings"
            )
        return batch

    def _first_groups(self, count: int, draw: int) -> list[Trajectory]:
        """Groups of the collection, drawn whatever their outcomes and numbered anew in its order."""
        tasks = _tasks_of(self.collection)
        chosen = draw_tasks(tasks, np.ones(len(tasks)), count, draw)
        group = {task: number for number, task in enumerate(t for t in tasks if t in chosen)}
        return [
            replace(t, episode=replace(t.episode, group=group[t.episode.task], trajectory=number))
            for number, t in enumerate(t for t in self.collection if t.episode.task in group)
        ]


def _tasks_of(collection: Sequence[Trajectory]) -> list[Task]:
    return list(dict.fromkeys(t.episode.task for t in collection))
