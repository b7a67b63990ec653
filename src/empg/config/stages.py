"""The settings of each stage, as sections of an environment in a study."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from empg.config.base import Model, Name, Positive


class Optimiser(Model):
    """Muon on matrices and AdamW on the rest; ``muon_lr`` 0 leaves everything to AdamW."""

    lr: Annotated[float, Field(gt=0)] = 3e-4
    muon_lr: Annotated[float, Field(ge=0)] = 1.8e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0


class WarmStart(Model):
    """Supervised fine-tuning on expert demonstrations. The budget is in tokens of packed conversations.

    ``max_steps`` bounds a demonstration, which mistakes and detours make longer than an agent's episode.
    With probability ``gap_rate`` a demonstration leaves out a part of the task, which an imitator then does rarely.
    ``observation_weight`` is the weight of the mean loss on the environment's tokens; the demonstrator's has weight 1.
    """

    seed: int = 1
    tokens: Annotated[int, Field(ge=0)] = 2_200_000
    batch_tokens: Positive = 4096
    micro_batch_tokens: Positive = 16384
    max_steps: Positive = 20
    observation_weight: Annotated[float, Field(ge=0)] = 0.0
    mistake_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    mistake_rate: Annotated[float, Field(ge=0, le=1)] = 0.15
    detour_rate: Annotated[float, Field(ge=0, le=1)] = 0.15
    gap_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.03
    decay: Annotated[float, Field(ge=0, le=1)] = 1.0
    optimiser: Optimiser = Optimiser(lr=4e-3, muon_lr=2e-2)
    threads: Positive = 1


class Rollouts(Model):
    """Rollouts of the warm-start policy, which give the difficulty of tasks and the first batch of every run."""

    seed: int = 0
    tasks: Positive = 64


class Train(Model):
    """The reinforcement learning loop. One iteration collects a batch, credits it and updates the policy.

    ``reward`` of an episode is ``success`` (1 or 0) or ``score``, the environment's dense score.
    """

    iterations: Positive = 70
    groups: Positive = 16
    group_size: Annotated[int, Field(ge=2)] = 4
    updates: Positive = 2
    decay: Annotated[float, Field(ge=0, le=1)] = 0.3
    reward: Literal["success", "score"] = "success"
    micro_batch_tokens: Positive = 4096
    difficulty_floor: Annotated[float, Field(gt=0, le=1)] = 0.25
    checkpoint_every: Positive = 5
    optimiser: Optimiser = Optimiser()


class Gradients(Model):
    """How each method's estimate of the policy gradient is measured (:mod:`empg.analysis.gradient_quality`).

    Every method makes an estimate of each of ``batches`` batches, which are as large as in training. They are compared
    with the gradient of at least ``episodes`` other episodes.
    """

    batches: Annotated[int, Field(ge=3)] = 64
    episodes: Positive = 4096


class Decisiveness(Model):
    """How decisiveness is measured (:mod:`empg.analysis.decisiveness`): of the warm start, and of the policies of the
    ``methods`` (left out: the baseline), half-way and at the end of training.

    At each of ``steps`` states, drawn from the steps of ``episodes`` episodes of different training tasks, the policy
    gives ``responses`` responses, and each is continued ``continuations`` times. With ``gradients`` the estimates of
    all methods of the study are measured on the same policies.
    """

    seed: int = 0
    methods: tuple[Name, ...] | None = None
    episodes: Positive = 64
    steps: Positive = 300
    responses: Annotated[int, Field(ge=2)] = 8
    continuations: Annotated[int, Field(ge=2)] = 4
    gradients: Gradients | None = None


class Evaluate(Model):
    """Fixed panels: every task of each split, once greedy and ``episodes`` times sampled.

    No ``splits``: the environment's. The warm start is played at one of ``temperatures`` as well: the one with which it
    solves most of ``tune_tasks`` tasks of the split ``tune``.
    """

    seed: int = 0
    splits: tuple[Name, ...] = ()
    episodes: Positive = 1
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = ()
    tune_tasks: Positive = 200
