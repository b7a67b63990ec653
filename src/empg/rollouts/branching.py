"""Branching rollouts: other responses at a state of a played episode, each continued several times.

An environment's state cannot be copied in general, but a task and its actions always lead to the same state. So a
branch resets the task and plays the recorded actions again; the policy then reads the recorded conversation and goes on
with random numbers of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from empg.errors import DataError
from empg.rollouts.episodes import Episode, Step, Trajectory
from empg.rollouts.sampler import Row, Sampler
from empg.seeding import derive_seed


@dataclass(frozen=True, slots=True)
class Branch(Episode):
    """An episode that begins with the steps of ``prefix``, as they were played, and goes on with its own ``seed``."""

    prefix: tuple[Step, ...] = ()


class Player(Protocol):
    """Plays branches to their ends: :class:`BranchingSampler`."""

    def play(self, episodes: Sequence[Episode], progress: Callable[[int], None] = ..., /) -> list[Trajectory]:
        """One trajectory for each, in order, with the steps of its prefix."""


class BranchingSampler(Sampler):
    """A sampler that plays branches too. The steps of a prefix are part of the trajectory, with their prompts.

    The first step after a prefix has the whole conversation so far as its ``prompt_ids``.
    """

    def _open(self, episode: Episode) -> Row:
        """Raises :class:`DataError` where the environment answers a prefix otherwise than recorded."""
        row = super()._open(episode)
        if not isinstance(episode, Branch) or not episode.prefix:
            return row
        conversation: list[int] = []
        for number, step in enumerate(episode.prefix):
            if row.observation != step.observation:
                raise DataError(
                    f"{episode.task}: step {number}: expected the recorded observation when its actions are played "
                    f"again, found {row.observation[:100]!r}"
                )
            (result,) = self.arena.step_all([row.environment], [step.action])
            if result.done:
                raise DataError(f"{episode.task}: step {number}: expected an episode that goes on, found its end")
            row.observation = result.observation
            conversation += [*step.prompt_ids.tolist(), *step.response_ids.tolist()]
        if self.arena.apart:
            row.prompt = self.chat.opening(row.observation)
        else:
            cut = episode.prefix[-1].truncated
            row.prompt = conversation + [self.chat.end_of_turn] * cut + self.chat.reply(row.observation)
        row.trajectory.steps = list(episode.prefix)
        return row


class State(NamedTuple):
    """A state: step ``step`` of ``trajectory``, before its response."""

    trajectory: Trajectory
    step: int


class Branches(NamedTuple):
    """What was played from a state. ``ended`` counts the responses that ended the episode at once."""

    state: State
    responses: list[Step]
    returns: list[list[float]]  # [responses][continuations]
    ended: int


def draw_states(played: Sequence[Trajectory], count: int, seed: int) -> list[State]:
    """``count`` different states of all steps of the trajectories (all if there are fewer), in their order."""
    states = [State(trajectory, step) for trajectory in played for step in range(len(trajectory.steps))]
    random = np.random.Generator(np.random.Philox(key=seed))
    chosen = random.choice(len(states), size=min(count, len(states)), replace=False)
    return [states[i] for i in np.sort(chosen)]


def branch(
    player: Player,
    states: Sequence[State],
    *,
    responses: int,
    continuations: int,
    seed: int,
    value: Callable[[Trajectory], float],
    progress: Callable[[int], None] = lambda _: None,
) -> list[Branches]:
    """Draw ``responses`` responses of the policy at each state and continue each ``continuations`` times.

    ``value`` is the return of a trajectory. A response and its first continuation are one branch; the others begin
    after the response. A response that ends the episode leaves nothing to luck: its return stands for all of its
    continuations. ``progress`` is called with numbers of branches that are done.
    """
    firsts = [
        Branch(state.trajectory.episode.task, number, b, derive_seed(seed, "branch", number, b, 0), before(state))
        for number, state in enumerate(states)
        for b in range(responses)
    ]
    played = player.play(firsts, progress)
    drawn = [_response(states[i // responses], trajectory) for i, trajectory in enumerate(played)]
    goes_on = [len(t.steps) > states[i // responses].step + 1 for i, t in enumerate(played)]
    more = [
        replace(first, seed=derive_seed(seed, "branch", first.group, first.trajectory, c), prefix=(*first.prefix, step))
        for first, step, on in zip(firsts, drawn, goes_on, strict=True)
        for c in range(1, continuations)
        if on
    ]
    progress((continuations - 1) * goes_on.count(False))
    others = iter(player.play(more, progress))
    returns = [
        [value(t), *(value(next(others)) if on else value(t) for _ in range(1, continuations))]
        for t, on in zip(played, goes_on, strict=True)
    ]
    parts = (slice(i * responses, (i + 1) * responses) for i in range(len(states)))
    return [
        Branches(state, drawn[part], returns[part], goes_on[part].count(False))
        for state, part in zip(states, parts, strict=True)
    ]


def before(state: State) -> tuple[Step, ...]:
    """The steps that lead to a state."""
    return tuple(state.trajectory.steps[: state.step])


def _response(state: State, trajectory: Trajectory) -> Step:
    """The first step after the prefix, with the prompt of the turn alone, as a prefix needs it."""
    return replace(trajectory.steps[state.step], prompt_ids=state.trajectory.steps[state.step].prompt_ids)
