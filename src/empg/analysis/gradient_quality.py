"""How good each method's estimate of the policy gradient is, on a policy that does not change.

An estimate is what an iteration of training makes of its whole batch: the trainer's own collection, with dynamic
sampling where a method has it, then its credit and its loss. It is compared with the gradient g of the expected return.

g is known from other episodes only, as a mean of estimates r of batches of the same size. They are REINFORCE with the
mean of the other episodes of the group as baseline, summed over the tokens of an episode. Such a baseline does not
depend on the episode, so E[(R − baseline)·∇ log π(episode)] = ∇ E[R]: r is unbiased. Estimates of GRPO and DAPO are
not. They divide by a group's standard deviation and by numbers of tokens, and DAPO drops groups with equal rewards. So
a mean of theirs tends to another vector than g.

Three numbers describe an estimator whose estimates are x:

* ``cosine``: the mean cosine of x to g, which is what an update gets.
* ``direction``: the cosine of the mean of x to g, which no number of episodes improves.
* ``noise``: the trace of the covariance of x over the squared norm of its mean, between batches of separate episodes.

About ``cosine = direction / √(1 + noise)``. None of the three changes where all advantages are multiplied by a number.
Batches are whole, so correlation within trajectories and groups counts as it does in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empg.analysis.crossed import crossed_mean
from empg.analysis.decisiveness_summary import Relation
from empg.config import DecisivenessRun, Method, TrainRun
from empg.environments.base import Task
from empg.environments.prompts import turns_apart
from empg.policy.network import Network
from empg.rollouts.episodes import Episode, Trajectory
from empg.seeding import derive_seed
from empg.training.batches import Batches, Player, WeightedTasks
from empg.training.update import accumulate_gradients, credit_of, token_batch

Array = NDArray[np.float64]

REINFORCE = "REINFORCE"  # the row of the unbiased estimator; no method can have this name
UNBIASED = {"advantage": "rloo", "aggregation": "seq-mean-token-sum", "kl_coef": 0.0}


def measure(
    network: Network,
    player: Player,
    tasks: Sequence[Task],
    config: DecisivenessRun,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """A row for each of ``config.estimators`` and one for the unbiased estimator, as :func:`rows` makes them.

    Tasks are drawn uniformly. All estimators see the same batches, except what dynamic sampling adds. A KL penalty is
    left out: its gradient is 0 at the warm start. Calls ``progress(batches done, in all)``.
    """
    settings = config.decisiveness.gradients
    assert settings is not None
    some = next(iter(config.estimators.values()))
    unbiased = some.model_copy(update={"method": Method.model_validate(UNBIASED)})
    parts = max(2, math.ceil(settings.episodes / (some.train.groups * some.train.group_size)))
    total = parts + settings.batches
    seed = config.decisiveness.seed
    part = partial(estimates, network, player, tasks)
    reference = part(
        {REINFORCE: unbiased},
        count=parts,
        seed=derive_seed(seed, "gradients", "reference"),
        progress=lambda done: progress(done, total),
    )[REINFORCE]
    made = part(
        {REINFORCE: unbiased, **config.estimators},
        count=settings.batches,
        seed=derive_seed(seed, "gradients", "batches"),
        progress=lambda done: progress(parts + done, total),
    )
    return rows(made, reference, config.compared)


def estimates(
    network: Network,
    player: Player,
    tasks: Sequence[Task],
    runs: Mapping[str, TrainRun],
    *,
    count: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Tensor]:
    """The gradient of each run's loss for ``count`` batches, ``[count, parameters]`` on the CPU.

    Episodes of different batches, and of different seeds, have different random numbers. Their tasks may be the same:
    g is the mean over tasks as well, and each batch draws its own.
    """
    uniform, size = WeightedTasks(tasks, np.ones(len(tasks))), sum(p.numel() for p in _trained(network))
    made = {name: torch.empty(count, size) for name in runs}
    for number in range(count):
        shared = _Shared(player)
        for name, run in runs.items():
            batches = Batches(run.model_copy(update={"seed": seed}), shared, uniform, ())
            kept = batches.collect(1 + number).kept  # the batch of iteration 0 would come from a collection
            made[name][number] = gradient(network, kept, run)
        progress(number + 1)
    return made


class _Shared:
    """Plays every episode once, for all methods that ask for it."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self.played: dict[Episode, Trajectory] = {}

    def play(self, episodes: Sequence[Episode], /) -> list[Trajectory]:
        missing = [episode for episode in episodes if episode not in self.played]
        if missing:
            self.played.update(zip(missing, self.player.play(missing), strict=True))
        return [self.played[episode] for episode in episodes]


def _trained(network: Network) -> list[torch.nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def gradient(network: Network, trajectories: list[Trajectory], run: TrainRun) -> Tensor:
    """The gradient of the loss of a whole batch, ``[parameters]``, at the policy that played it: nothing is clipped."""
    batch = token_batch(
        trajectories,
        credit_of(run, network, trajectories).token_advantage,
        run.method.aggregation,
        network.device,
        apart=turns_apart(run.interface),
    )
    network.zero_grad()
    accumulate_gradients(
        network,
        None,
        batch,
        run.method,
        temperature=run.sampling.temperature,
        micro_batch_tokens=run.train.micro_batch_tokens,
    )
    parts = (torch.zeros_like(p) if p.grad is None else p.grad for p in _trained(network))
    return torch.cat([part.flatten() for part in parts]).cpu()


# --------------------------------------------------------------------------------------------------------- statistics
def rows(made: Mapping[str, Tensor], reference: Tensor, compared: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each estimator: method, batches, ``parts`` of the reference, and four values with 95 % intervals.

    They are ``cosine``, ``direction``, ``noise`` and ``difference``: the cosine minus that of the method in
    ``compared``, on the same batches. Intervals are for other batches and another reference. A value that the episodes
    do not tell is null.

    Args:
        made: ``[batches, parameters]`` for each estimator.
        reference: ``[parts, parameters]``, unbiased estimates of g from other episodes.
    """
    cosines = {name: cosine(gradients, reference) for name, gradients in made.items()}
    found = []
    for name, gradients in made.items():
        own, other = cosines[name], cosines.get(compared.get(name, ""))
        values = {
            "cosine": own,
            "difference": None if own is None or other is None else own - other,
            "direction": direction(gradients, reference),
            "noise": noise(gradients),
        }
        row: dict[str, Any] = {"method": name, "batches": len(gradients), "parts": len(reference)}
        for quantity, value in values.items():
            ends = estimate(value)
            row |= {quantity: ends.value, f"{quantity}_low": ends.low, f"{quantity}_high": ends.high}
        found.append(row | {"compared": compared.get(name)})
    return found


def cosine(gradients: Tensor, reference: Tensor) -> Array | None:
    """Values ``[batches, parts]`` whose mean is the mean cosine to g. None where g is not shown to differ from 0.

    The cosine of x to the mean of the reference would be too small, since noise lengthens that mean. Here x·r / |x| has
    the mean x·g / |x|, and |g|² has an unbiased estimate: :func:`agreement`. The error of the latter is in the values
    too (its influence function), so that their variance is that of the mean cosine. An x of 0 has cosine 0.
    """
    near = agreement(reference)
    square = near.mean()
    if not _positive(near):
        return None
    along, length = _products(gradients, reference), _norms(gradients)
    along = along / np.where(length, length, 1.0)[:, None] / math.sqrt(square)
    values: Array = along - along.mean() * (near / square - 1)
    return values


def direction(gradients: Tensor, reference: Tensor) -> Array | None:
    """Values ``[batches, parts]`` whose mean is the cosine of the mean estimate to g, likewise."""
    near, own = agreement(reference), agreement(gradients)
    if not (_positive(near) and _positive(own)):
        return None
    along = _products(gradients, reference) / math.sqrt(near.mean() * own.mean())
    values: Array = along - along.mean() * (near / near.mean() - 1 + (own / own.mean() - 1)[:, None])
    return values


def noise(gradients: Tensor) -> Array | None:
    """Values ``[1, batches]`` whose mean is trace(covariance) / |mean|²: E|x|² / |E x|² − 1, likewise."""
    own, square = agreement(gradients), _norms(gradients) ** 2
    if not _positive(own):
        return None
    ratio = square.mean() / own.mean()
    values: Array = square / own.mean() - 1 - 2 * ratio * (own / own.mean() - 1)
    return values[None]


def agreement(gradients: Tensor) -> Array:
    """The inner product of each gradient with the mean of the others, ``[n]``.

    The mean of all is an unbiased estimate of the squared norm of the expected gradient (a U-statistic), which the
    squared norm of the mean is not.
    """
    products = _products(gradients, gradients)
    found: Array = (products.sum(1) - products.diagonal()) / (len(products) - 1)
    return found


def _norms(gradients: Tensor) -> Array:
    found: Array = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64).numpy()
    return found


def _products(first: Tensor, second: Tensor) -> Array:
    found: Array = (first @ second.T).double().numpy()
    return found


def _positive(near: Array) -> bool:
    """Whether the squared norm is shown to be above 0; the influence of each gradient on it is twice its deviation."""
    low, _ = crossed_mean((2 * near - near.mean())[None]).interval()
    return bool(near.mean() > 0 if low is None else low > 0)


def estimate(values: Array | None) -> Relation:
    """The mean with its interval for other rows and other columns."""
    if values is None:
        return Relation(None, None, None)
    mean = crossed_mean(values)
    return Relation(mean.value, *mean.interval())
