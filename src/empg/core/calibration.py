"""Calibrated modulation (ours): the batch itself says which entropies decide, and steps of those entropies weigh more.

EMPG trusts that confident steps deserve larger updates. Whether they do depends on where the *decisive* steps, those
whose action changes the reward, lie on the scale of entropy. Where several trajectories of a group pass the same
observation, the batch shows it: the variance of the reward between actions is the decisiveness of the step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from empg.core.advantages import Advantages, Batch, grpo, informative_groups
from empg.core.checks import check_modulation_inputs, require_number
from empg.core.modulation import Modulation, successors
from empg.core.rollout_tree import numbered

DEGREE = 2  # of the regression on ranks: decisive steps may lie in the middle
LEAST_STATES = DEGREE + 3  # fewer cannot tell a curve from noise
EVIDENCE = 2.0  # the curve counts for what exceeds so many times the share that noise explains
FLOOR = 0.05  # least weight of a step, as a share of the mean


class Evidence(NamedTuple):
    """What the visited states of a batch say of decisiveness; ``[states]`` each, where the batch can tell."""

    decisiveness: Tensor  # unbiased estimate of the variance of the standardised reward between actions; may be < 0
    rank: Tensor  # mean entropy rank of the state's steps
    weight: Tensor  # degrees of freedom within actions
    group: Tensor  # the state's group, 0, 1, …


@torch.no_grad()
def calibrated(
    advantages: Advantages, entropy: Tensor, trajectory: Tensor, batch: Batch, *, k_future: float, zeta: float
) -> Modulation:
    """A·g + ζ·(f − mean f) in groups that can rank, 0 in others (ours).

    1. r: the rank of a step's entropy among the steps of the batch, 0 to 1 (ties share the mean rank).
    2. d: the decisiveness of each state (:func:`evidence`).
    3. D(r): the quadratic regression of d on r, shrunk to its mean by its uncertainty (:func:`decisiveness_curve`).
    4. g = D(r) / mean(D(r)); 1 everywhere where the evidence is thin.
    5. f = exp(−k'·r) of the trajectory's next step, 0 at its last step; its mean is over the steps that have it.

    A group can rank if its rewards differ. ``normalised_entropy`` holds r. Raises ``ValueError`` for a batch without
    actions, and for what :func:`empg.core.modulation.modulate` refuses.
    """
    check_modulation_inputs(advantages.outcome, entropy, trajectory)
    require_number("k_future", k_future, minimum=0)
    require_number("zeta", zeta)
    r = ranks(entropy.double())
    D = decisiveness_curve(evidence(batch, r), r)  # noqa: N806 — the letters of the equations
    g = torch.ones_like(r) if D is None else D / D.mean()
    able = informative_groups(batch.reward, batch.group)[trajectory]
    step, next_step = successors(trajectory)
    f = torch.zeros_like(r)
    f[step] = torch.exp(-k_future * r[next_step])
    f = torch.where(able, f, 0.0)
    bonus = zeta * (f - f[able].mean()) if able.any() else f
    advantage = torch.where(able, advantages.of_steps(trajectory).double() * g + bonus, 0.0)
    return Modulation(*(x.to(advantages.outcome.dtype) for x in (advantage, g, f, r)))


@torch.no_grad()
def decisive(advantages: Advantages, entropy: Tensor, trajectory: Tensor, batch: Batch) -> Modulation:
    """A·g with weights by the measured decisiveness of each state, whatever its entropy (ours).

    g is max(0, 1 − 1/F) over its mean: the positive-part James–Stein factor of the state's between-action effects, with
    F = (SSB / (a − 1)) / s² and s² the mean square within actions, pooled over states. Steps of states that do not tell
    (:func:`evidence`) have g = 1. Groups with equal rewards get 0; there is no clarity bonus. Raises ``ValueError`` for
    a batch without actions.
    """
    check_modulation_inputs(advantages.outcome, entropy, trajectory)
    found = _analyse(batch)
    tells = found.tells[found.state]
    g = torch.ones_like(entropy, dtype=torch.float64)
    if tells.any():
        pooled = found.within[found.tells].sum() / found.spare[found.tells].sum()
        w = (1 - (found.actions - 1) * pooled / found.between.clamp(min=1e-12)).clamp(min=0)[found.state]
        mean = w[tells].mean()
        g = torch.where(tells, w / mean, g) if mean > 0 else g
    able = informative_groups(batch.reward, batch.group)[trajectory]
    advantage = torch.where(able, advantages.of_steps(trajectory).double() * g, 0.0)
    dtype = advantages.outcome.dtype
    return Modulation(advantage.to(dtype), g.to(dtype), torch.zeros_like(g, dtype=dtype), ranks(entropy).to(dtype))


def ranks(value: Tensor) -> Tensor:
    """Ranks from 0 to 1, ``[n]`` float64; equal values share the mean of their ranks. All are ½ where all are equal."""
    _, inverse, count = torch.unique(value, return_inverse=True, return_counts=True)
    middle = count.cumsum(0) - (count + 1) / 2
    return (middle[inverse] / (len(value) - 1)).double() if len(value) > 1 else torch.full_like(value, 0.5).double()


def evidence(batch: Batch, rank: Tensor) -> Evidence:
    """The decisiveness of every state that tells it: visited with at least two actions, one of them at least twice.

    A state is an anchor observation of a group, as GiGPO groups them. With n visits and a different actions,
    y the standardised reward (``grpo``) of a visit's trajectory, and SSB and SSW the sums of squares between and within
    actions, the one-way analysis of variance gives d = (SSB − (a − 1)·SSW / (n − a)) / n. Luck adds to SSB and SSW
    alike, so that d is 0 on average at a step that decides nothing. Only a trajectory's first visit of a state counts:
    its visits share one reward, so further ones would draw d below 0. States of groups with equal rewards are left out.
    """
    found = _analyse(batch)
    d = (found.between - (found.actions - 1) * found.within / found.spare.clamp(min=1)) / found.visits
    mean_rank = _sum(rank[found.first], found.state[found.first], len(d)) / found.visits
    return Evidence(*(x[found.tells] for x in (d, mean_rank, found.spare, found.group)))


class _Analysis(NamedTuple):
    """The one-way analysis of variance of the standardised reward at each state; ``[states]`` but for the first two."""

    state: Tensor  # [steps]: the state of each step
    first: Tensor  # [visits of all states]: the steps at which a trajectory is in a state for the first time
    visits: Tensor  # n, of different trajectories
    actions: Tensor  # a
    spare: Tensor  # n − a
    between: Tensor  # SSB
    within: Tensor  # SSW
    group: Tensor
    tells: Tensor  # bool


def _analyse(batch: Batch) -> _Analysis:
    if batch.action is None:
        raise ValueError("batch: expected actions of the steps, found none")
    step_group = numbered(batch.group)[batch.step_trajectory]
    state = numbered(step_group, batch.anchor)
    first = _first_of_each(numbered(state, batch.step_trajectory))
    visited, cell = state[first], numbered(state[first], batch.action[first])
    y = grpo(batch.reward.double(), batch.group)[batch.step_trajectory[first]]
    n, visits = torch.bincount(visited).double(), torch.bincount(cell).double()
    state_of_cell = torch.zeros_like(visits, dtype=torch.int64)
    state_of_cell[cell] = visited
    a = torch.bincount(state_of_cell, minlength=len(n)).double()
    mean, of_cell = _sum(y, visited, len(n)) / n, _sum(y, cell, len(visits)) / visits
    between = _sum(visits * (of_cell - mean[state_of_cell]).square(), state_of_cell, len(n))
    within = _sum((y - of_cell[cell]).square(), visited, len(n))
    group = torch.zeros_like(n, dtype=torch.int64)
    group[visited] = step_group[first]
    tells = (a > 1) & (n > a) & informative_groups(batch.reward, batch.group)[_first(batch.group, group)]
    return _Analysis(state, first, n, a, n - a, between, within, group, tells)


def _first_of_each(number: Tensor) -> Tensor:
    """The place of the first element with each number, ascending; ``number`` ``[n]`` is 0, 1, 2, … in any order."""
    place = torch.arange(len(number), device=number.device)
    first = torch.full((int(number.max()) + 1,), len(number), device=number.device)
    return first.scatter_reduce(0, number, place, "amin").sort().values


def decisiveness_curve(found: Evidence, rank: Tensor) -> Tensor | None:
    """D(r) at each ``rank`` ``[n]``, > 0; None where the batch shows no decisiveness.

    Weighted least squares of d on 1, r, r². With m the weighted mean of d, s the weighted mean square of the fitted
    curve about m, and v what the sampling error of the coefficients adds to it (covariance clustered by group), the
    curve is m + max(0, 1 − 2·v/s)·(fit − m), but at least 0.05·m.
    """
    d, w = found.decisiveness, found.weight
    if len(d) < LEAST_STATES or (mean := float((w * d).sum() / w.sum())) <= 0:
        return None
    X = _powers(found.rank)  # noqa: N806
    information = X.T @ (w[:, None] * X)
    inverse = torch.linalg.pinv(information)
    beta = inverse @ X.T @ (w * d)
    score = torch.zeros(int(found.group.max()) + 1, DEGREE + 1, dtype=d.dtype, device=d.device)
    score.index_add_(0, found.group, X * (w * (d - X @ beta))[:, None])
    covariance = inverse @ score.T @ score @ inverse
    centred = X - (w[:, None] * X).sum(0) / w.sum()
    noise = (w * torch.einsum("ni,ij,nj->n", centred, covariance, centred)).sum()
    curve = (w * (centred @ beta).square()).sum()
    trust = float((1 - EVIDENCE * noise / curve).clamp(min=0)) if curve > 0 else 0.0
    shrunk: Tensor = (mean + trust * (_powers(rank) @ beta - mean)).clamp(min=FLOOR * mean)
    return shrunk


def _powers(rank: Tensor) -> Tensor:
    return torch.stack([rank**power for power in range(DEGREE + 1)], dim=1)


def _sum(value: Tensor, index: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=value.dtype, device=value.device).index_add_(0, index, value)


def _first(group: Tensor, numbers: Tensor) -> Tensor:
    """A trajectory of each of these groups, which are numbered as ``numbered`` does."""
    index = numbered(group)
    place = torch.zeros(int(index.max()) + 1, dtype=torch.int64, device=group.device)
    place[index] = torch.arange(len(group), device=group.device)
    return place[numbers]
