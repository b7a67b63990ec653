"""Calibrated modulation by hand: ranks, the analysis of variance of a state, the regression, and what is left out."""

import math

import pytest
import torch

from empg.core.advantages import Advantages, Batch, grpo_advantages
from empg.core.calibration import Evidence, calibrated, decisive, decisiveness_curve, evidence, ranks

OPTIONS = {"k_future": 1.0, "zeta": 0.0}


def vec(*values):
    return torch.tensor(values, dtype=torch.float64)


def index(*values):
    return torch.tensor(values, dtype=torch.int64)


def assert_vec(found, *expected, atol=1e-5):  # the standard deviation's ε is 1e-6
    torch.testing.assert_close(found, vec(*expected), rtol=0, atol=atol)


def test_ranks_share_ties():
    assert_vec(ranks(vec(3, 1, 7, 3, 9)), 0.375, 0, 0.75, 0.375, 1)
    assert_vec(ranks(vec(2, 2, 2)), 0.5, 0.5, 0.5)
    assert_vec(ranks(vec(4)), 0.5)


def one_group(anchor, action, rewards=(1, 1, 0, 0)):
    """Trajectories of one group with two steps each; anchors and actions of each trajectory in turn."""
    n = len(rewards)
    trajectory = torch.arange(n).repeat_interleave(2)
    return Batch(vec(*rewards), torch.zeros(n, dtype=torch.int64), trajectory, index(*anchor), index(*action))


def test_evidence_by_hand():
    """y = 1, 1, −1, −1. At 10, actions a, a, b, b separate the rewards: SSB = 4, SSW = 0, d = 4 / 4 = 1.

    At 20, actions a, b, a, b do not: SSB = 0, SSW = 4, n − a = 2, so d = (0 − 1·4/2) / 4 = −½. Ranks are 0 and 1.
    """
    batch = one_group([10, 20] * 4, [0, 0, 0, 1, 1, 0, 1, 1])
    found = evidence(batch, vec(0, 1, 0, 1, 0, 1, 0, 1))
    assert_vec(found.decisiveness, 1, -0.5)
    assert_vec(found.rank, 0, 1)
    assert_vec(found.weight, 2, 2)


def test_evidence_needs_two_actions_and_one_of_them_twice():
    same = one_group([10, 20] * 4, [0, 0, 0, 1, 0, 2, 0, 3])  # at 10 one action, at 20 four different ones
    assert len(evidence(same, torch.zeros(8).double()).decisiveness) == 0
    alone = one_group([1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 1, 1, 0, 1, 1])
    assert len(evidence(alone, torch.zeros(8).double()).decisiveness) == 0
    equal = one_group([10, 20] * 4, [0, 0, 0, 1, 1, 0, 1, 1], rewards=(1, 1, 1, 1))
    assert len(evidence(equal, torch.zeros(8).double()).decisiveness) == 0


def test_a_trajectory_counts_once_at_a_state():
    """The first visits are those of the case by hand; one trajectory comes back to 10 and does something else."""
    batch = one_group([10, 20] * 4, [0, 0, 0, 1, 1, 0, 1, 1])
    trajectory, anchor, action = (
        torch.cat([x, index(*more)])
        for x, more in (
            (batch.step_trajectory, [3]),
            (batch.anchor, [10]),
            (batch.action, [0]),
        )
    )
    again = Batch(batch.reward, batch.group, trajectory, anchor, action)
    found = evidence(again, vec(0, 1, 0, 1, 0, 1, 0, 1, 0.7))
    assert_vec(found.decisiveness, 1, -0.5)
    assert_vec(found.rank, 0, 1)


def test_nothing_is_decided_where_rewards_are_drawn_anew():
    """Trajectories that come back to a state and do the other thing; the mean of d over random rewards is 0."""
    random = torch.Generator().manual_seed(0)
    trajectories, steps = 8, 4
    step_trajectory = torch.arange(trajectories).repeat_interleave(steps)
    found = []
    for _ in range(2000):
        reward = (torch.rand(trajectories, generator=random) < 0.5).double()
        anchor = torch.zeros(trajectories * steps, dtype=torch.int64)
        at_first = torch.randint(2, (trajectories, 1), generator=random)
        action = ((at_first + torch.arange(steps)) % 2).flatten()
        batch = Batch(reward, torch.zeros(trajectories, dtype=torch.int64), step_trajectory, anchor, action)
        found.append(evidence(batch, torch.zeros(trajectories * steps).double()).decisiveness)
    d = torch.cat(found)
    assert abs(d.mean()) < 4 * d.std() / len(d) ** 0.5


def test_evidence_keeps_groups_apart_and_leaves_out_those_with_equal_rewards():
    batch = Batch(
        vec(1, 1, 0, 1, 1), index(7, 7, 7, 3, 3), index(0, 1, 2, 3, 4), index(5, 5, 5, 5, 5), index(0, 0, 1, 0, 1)
    )
    found = evidence(batch, vec(0, 0.25, 0.5, 0.75, 1))
    # Group 7 at 5: y = √½, √½ | −√2 with actions a, a | b: mean 0, SSB = 2·½ + 2 = 3, SSW = 0, n = 3.
    assert_vec(found.decisiveness, 1)
    assert_vec(found.rank, 0.25)


def test_luck_is_subtracted():
    """At a state whose actions do not matter, the estimate is 0 on average, however few visits the actions have."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(1500):
        reward = torch.zeros(8, dtype=torch.float64)
        reward[torch.randperm(8, generator=generator)[:3]] = 1
        action = torch.randint(4, (8,), generator=generator)
        same = torch.zeros(8, dtype=torch.int64)
        found.append(evidence(Batch(reward, same, torch.arange(8), same, action), same.double()).decisiveness)
    values = torch.cat(found)
    assert len(values) > 1400
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
    assert values.std() > 0.1


def states(decisiveness, rank, groups):
    return Evidence(decisiveness, rank, torch.ones_like(rank), groups)


def test_a_clear_curve_is_trusted():
    """d = 1 − r without noise: D(r) is the line itself; where it would fall below 0.05 of its mean ½, it stops."""
    rank = torch.linspace(0, 1, 21, dtype=torch.float64)
    found = decisiveness_curve(states(1 - rank, rank, torch.arange(21) % 5), vec(0, 0.5, 0.9, 1))
    assert_vec(found, 1, 0.5, 0.1, 0.025)


def test_thin_evidence_changes_nothing():
    """The same values in random order: no relation to the rank, and mostly a flat curve."""
    generator = torch.Generator().manual_seed(1)
    rank = torch.linspace(0, 1, 20, dtype=torch.float64)
    flat = 0
    for _ in range(40):
        shuffled = rank[torch.randperm(20, generator=generator)]
        found = decisiveness_curve(states(shuffled, rank, torch.arange(20) // 2), rank)
        flat += bool((found - 0.5).abs().max() < 1e-9)
    assert flat > 20
    assert decisiveness_curve(states(-rank, rank, torch.arange(20)), rank) is None, "nothing decides"
    assert decisiveness_curve(states(rank[:4], rank[:4], torch.arange(4)), rank) is None, "four states"


def test_without_evidence_it_is_the_advantage_in_groups_that_can_rank():
    batch = Batch(
        vec(1, 0, 1, 1), index(0, 0, 1, 1), index(0, 0, 1, 2, 3), torch.arange(5), torch.zeros(5, dtype=torch.int64)
    )
    entropy = vec(0.1, 0.4, 0.2, 0.3, 0.5)
    plain = calibrated(grpo_advantages(batch), entropy, batch.step_trajectory, batch, **OPTIONS)
    assert_vec(plain.advantage, 1, 1, -1, 0, 0)
    assert plain.gradient_scale.tolist() == [1] * 5
    # Ranks 0, ¾, ¼ | ½, 1. The first step's bonus is 2^(−¾); its mean over the three steps of group 0 is a third of it.
    bonus = calibrated(grpo_advantages(batch), entropy, batch.step_trajectory, batch, k_future=math.log(2), zeta=0.3)
    f = 2**-0.75
    assert_vec(bonus.clarity_bonus, f, 0, 0, 0, 0)
    assert_vec(bonus.advantage, 1 + 0.3 * f * 2 / 3, 1 - 0.1 * f, -1 - 0.1 * f, 0, 0)


@pytest.mark.parametrize("decisive_first", [True, False])
def test_steps_of_the_entropy_that_decides_weigh_more(decisive_first):
    """Sixteen groups of eight; the reward is the first action's (entropy near 0.2), the second's (near 1) is idle."""
    generator = torch.Generator().manual_seed(2)
    action = torch.randint(2, (128, 2), generator=generator)
    group = torch.arange(16).repeat_interleave(8)
    reward = action[:, 0 if decisive_first else 1].double()
    entropy = torch.tensor([0.2, 1.0]) + 0.1 * torch.rand(128, 2, generator=generator)
    batch = Batch(reward, group, torch.arange(128).repeat_interleave(2), torch.tensor([0, 1] * 128), action.flatten())
    found = calibrated(grpo_advantages(batch), entropy.flatten(), batch.step_trajectory, batch, **OPTIONS)
    first, second = found.gradient_scale.view(128, 2).mean(0)
    assert (first > 3 * second) == decisive_first
    assert (second > 3 * first) == (not decisive_first)
    torch.testing.assert_close(found.gradient_scale.mean(), torch.tensor(1.0, dtype=torch.float64))


def test_actions_are_needed():
    batch = Batch(vec(1, 0), index(0, 0), index(0, 1), index(0, 0))
    with pytest.raises(ValueError, match="batch: expected actions of the steps, found none"):
        calibrated(Advantages(vec(1, -1)), vec(0.1, 0.2), batch.step_trajectory, batch, **OPTIONS)


def test_weights_by_measured_decisiveness_by_hand():
    """y = 1, 1, 1, −1, −1, −1 with actions a, a, b, a, b, b at 10: means ⅓ and −⅓, SSB = ⅔, SSW = 16/3.

    At 20, a, a, a, b, b, b: SSB = 6, SSW = 0. Pooled s² = (16/3) / 8 = ⅔: F = 1 and 9, w = 0 and 8/9 with mean 4/9.
    """
    batch = one_group([10, 20] * 6, [0, 0, 0, 0, 1, 0, 0, 1, 1, 1, 1, 1], rewards=(1, 1, 1, 0, 0, 0))
    found = decisive(grpo_advantages(batch), vec(*[0.1] * 12), batch.step_trajectory, batch)
    assert_vec(found.gradient_scale, *[0, 2] * 6)
    assert_vec(found.advantage, *[0, 2] * 3, *[0, -2] * 3)


def test_without_evidence_weights_are_one():
    batch = Batch(vec(1, 0, 1, 1), index(0, 0, 1, 1), index(0, 1, 2, 3), torch.arange(4), torch.arange(4))
    found = decisive(grpo_advantages(batch), vec(0.1, 0.2, 0.3, 0.4), batch.step_trajectory, batch)
    assert_vec(found.advantage, 1, -1, 0, 0)
