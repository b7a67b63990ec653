"""What sampling yields: steps, trajectories and why each episode ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from empg.environments.base import Task


class StopReason(StrEnum):
    """Why an episode ended. An environment's registration may name limits of its own beside these."""

    SUCCESS = "success"  # the environment ended it with the full reward
    FAILURE = "failure"  # the environment ended it without
    STEP_LIMIT = "step_limit"  # the environment's limit of steps was reached
    REFUSED = "refused"  # too many invalid actions in a row
    CONTEXT_LIMIT = "context_limit"  # the next turn might not fit into the policy's context


@dataclass(frozen=True, slots=True)
class Episode:
    """What to play: a task, and the coordinates that make its randomness its own."""

    task: Task
    group: int
    trajectory: int
    seed: int


@dataclass(frozen=True, slots=True)
class Step:
    """One think-act turn.

    Attributes:
        observation: the text that the step answers.
        prompt_ids: ``[prompt]``, the ids that the conversation gained before the response (template and observation).
        response_ids: ``[response]``, the sampled ids with the end of turn.
        logprobs: ``[response]``, of the sampled ids under the sampling distribution of the policy's own forward pass.
        entropies: ``[response]``, of the sampling distributions, in nats.
        text: the response as text.
        action: the action in it; None if there is none.
        invalid: whether the environment refused the action.
        truncated: whether the response limit cut the response, which then has no end of turn.
        sampler_logprobs: ``[response]``, of the sampled ids as another engine reported them (NaN: it could not say);
            None where the policy's own forward pass sampled.
    """

    observation: str
    prompt_ids: NDArray[np.int32]
    response_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    entropies: NDArray[np.float32]
    text: str
    action: str | None
    invalid: bool
    truncated: bool
    sampler_logprobs: NDArray[np.float32] | None = None


@dataclass(slots=True)
class Trajectory:
    """One episode. ``reward`` is the outcome, 1.0 for success, else 0.0; ``score`` is the dense score at its end.

    ``metrics`` are the environment's own, by name; ``stop_reason`` is None while the episode runs.
    """

    episode: Episode
    steps: list[Step] = field(default_factory=list)
    reward: float = 0.0
    stop_reason: str | None = None
    score: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Length of the whole conversation in tokens."""
        return sum(len(step.prompt_ids) + len(step.response_ids) for step in self.steps)
