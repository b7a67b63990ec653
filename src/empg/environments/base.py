"""What every environment shares: tasks, step results, the protocol and the agent's text format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Task:
    """One task: (environment, split, id) always names the same task, on every machine and in every process."""

    environment: str
    split: str
    id: int
    type: str


@dataclass(frozen=True, slots=True)
class StepResult:
    """The answer to one action. ``reward`` is the outcome reward, 0.0 until the episode ends."""

    observation: str
    reward: float
    done: bool
    invalid: bool


class Expert(Protocol):
    """Solves an embedded task from observations alone."""

    def act(self, observation: str) -> tuple[str, str]:
        """The next (thought, action), given the observation that followed the last action."""
        ...


class Environment(Protocol):
    """One episode at a time; holds no global state, so hundreds of instances run in one process."""

    max_steps: int

    def reset(self, task: Task) -> str:
        """Start the task's episode and return its first observation."""
        ...

    def step(self, action: str) -> StepResult:
        """Play one action. Raises :class:`~empg.errors.EnvironmentStateError` once the episode has ended."""
        ...


class DemonstrationStep(NamedTuple):
    """One step: what was read, and what was thought and done then. A mistake is to be kept out of the loss."""

    observation: str
    thought: str
    action: str
    is_mistake: bool
