"""RTMC, GEPO and the controls of EMPG by hand, on numbers that can be checked on paper."""

import math

import pytest
import torch

from empg.core.advantages import Advantages, Batch
from empg.core.controls import empg_inverted, empg_shuffled
from empg.core.group_entropy import gepo
from empg.core.modulation import empg
from empg.core.rollout_tree import numbered, rtmc_advantages, rtmc_steps

LN2 = math.log(2)


def vec(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def index(*values):
    return torch.tensor(values, dtype=torch.int64)


def assert_vec(found, *expected, atol=1e-5):  # the standard deviation's ε is 1e-6
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=0, atol=atol)


# -------------------------------------------------------------------------------------------------------------- RTMC
# Trajectories (s₀, a)(s₁, a) | (s₀, a)(s₁, b) | (s₀, b) with rewards 1, 0, 0 and γ = ½: returns ½, 1 | 0, 0 | 0.
TREE = {
    "reward": vec(1, 0, 0),
    "group": index(7, 7, 7),
    "step_trajectory": index(0, 0, 1, 1, 2),
    "step_state": index(5, 6, 5, 6, 5),
    "step_action": index(0, 0, 0, 1, 1),
}


def test_rtmc_by_hand():
    """Q(s₀, a) = ¼ and Q(s₀, b) = 0, V(s₀) = ⅙ of 3 visits; Q(s₁, a) = 1 and Q(s₁, b) = 0, V(s₁) = ½ of 2.

    V₀ = ⅓ counts for 3 visits: V'(s₀) = (½ + 1) / 6 = ¼, V'(s₁) = (1 + 1) / 5 = 0.4.
    So A = 0, 0.6 | 0, −0.4 | −¼ with mean −0.01 and variance 0.1164.
    """
    found = rtmc_steps(**TREE, gamma=0.5, prior=3, eps=1e-12)
    assert_vec(found, *(a / math.sqrt(0.1164) for a in (0, 0.6, 0, -0.4, -0.25)))


def test_rtmc_counts_the_first_visit_of_a_trajectory_alone():
    """(s, a)(s, a)(s, b) with reward 1 and (s, b) with 0; γ = ½. Returns ¼, ½, 1 | 0; the second (s, a) does not count.

    Q(s, a) = ¼, Q(s, b) = ½, V = 5/12; A = −1/6, −1/6, 1/12 | 1/12 with standard deviation ⅛.
    """
    found = rtmc_steps(
        vec(1, 0), index(0, 0), index(0, 0, 0, 1), index(3, 3, 3, 3), index(0, 0, 1, 1), gamma=0.5, prior=0, eps=1e-12
    )
    assert_vec(found, -4 / 3, -4 / 3, 2 / 3, 2 / 3)


def test_rtmc_without_discount_in_a_state_of_its_own_shrinks_to_the_groups_mean():
    """Each trajectory is alone: Q = R and V' = (R + 2·½) / 3, so A = ±⅓, which is ±1 in standard deviations: GRPO's."""
    found = rtmc_steps(vec(1, 0), index(0, 0), index(0, 1), index(0, 1), index(0, 0), gamma=1.0, prior=2)
    assert_vec(found, 1, -1)


def test_rtmc_of_equal_rewards_is_nothing_whatever_the_lengths():
    found = rtmc_steps(vec(1, 1), index(0, 0), index(0, 0, 1), index(0, 1, 0), index(0, 0, 1))
    assert found.tolist() == [0, 0, 0]


def test_rtmc_keeps_groups_apart():
    twice = {name: torch.cat((value, value)) for name, value in TREE.items()}
    twice["group"] = index(7, 7, 7, 4, 4, 4)
    twice["step_trajectory"] = torch.cat((TREE["step_trajectory"], TREE["step_trajectory"] + 3))
    twice["reward"] = torch.cat((TREE["reward"], torch.zeros(3, dtype=torch.float64)))
    once = rtmc_steps(**TREE)
    assert_vec(rtmc_steps(**twice), *once.tolist(), *[0.0] * 5, atol=1e-12)


def test_rtmc_matches_histories_or_observations():
    """With other histories, s₁ of the two trajectories are two states."""
    batch = Batch(
        TREE["reward"],
        TREE["group"],
        TREE["step_trajectory"],
        TREE["step_state"],
        TREE["step_action"],
        index(5, 6, 5, 7, 5),
    )
    options = {"gamma": 0.5, "prior": 3}
    observed = rtmc_advantages(batch, state="observation", **options)
    assert observed.outcome.tolist() == [0, 0, 0]
    torch.testing.assert_close(observed.step, rtmc_steps(**TREE, **options))
    apart = rtmc_steps(**TREE | {"step_state": batch.history}, **options)
    torch.testing.assert_close(rtmc_advantages(batch, state="history", **options).step, apart)
    assert not torch.allclose(apart, observed.step)
    with pytest.raises(ValueError, match=r"expected actions and states \(history\) of the steps, found none"):
        rtmc_advantages(batch._replace(history=None), state="history", **options)


def test_numbers_of_combinations():
    assert numbered(index(9, 9, 2, 9), index(1, 5, 1, 1)).tolist() == [1, 2, 0, 1]


# -------------------------------------------------------------------------------------------------------------- GEPO
def test_gepo_by_hand():
    """Group entropies 0.2 and 1.0: μ = 0.6, σ = 0.4, thresholds 0.6 − 0.2·0.4 = 0.52 and 0.6 + 0.3·0.4 = 0.72."""
    batch = Batch(vec(1, 0, 1, 0), index(4, 4, 2, 2), index(0, 0, 1, 2, 3), index(0, 0, 0, 0, 0))
    entropy = vec(0.1, 0.3, 0.2, 0.5, 1.5)  # group 4 has the steps 0.1, 0.3, 0.2; group 2 has 0.5, 1.5
    found = gepo(Advantages(vec(2, -2, 2, -2)), entropy, batch.step_trajectory, batch)
    assert_vec(found.gradient_scale, 0.5, 0.5, 1, 1, 0.2)
    assert_vec(found.advantage, 1, 1, -2, 2, -0.4)
    assert found.clarity_bonus.tolist() == [0] * 5


def test_gepo_leaves_groups_between_the_thresholds_and_equal_groups():
    batch = Batch(vec(1, 0), index(0, 0), index(0, 1), index(0, 0))
    found = gepo(Advantages(vec(1, -1)), vec(0.1, 0.9), batch.step_trajectory, batch)
    assert found.advantage.tolist() == [1, -1], "one group is neither low nor high"


# ---------------------------------------------------------------------------------------------------------- controls
def test_inverted_by_hand():
    """h = 0, 1, 1; exp(k·h) = 1, 2, 2 with mean 5/3; f = ½, 0, 0. A·g + 0.2·f = 0.7, 1.2, −1.2 with mean 0.7 / 3."""
    options = {"k": LN2, "k_future": LN2, "zeta": 0.2}
    found = empg_inverted(Advantages(vec(1, -1)), vec(2, 5, 5), index(0, 0, 1), **options)
    assert_vec(found.gradient_scale, 0.6, 1.2, 1.2)
    assert_vec(found.clarity_bonus, 0.5, 0, 0)
    assert_vec(found.advantage, 0.7 - 0.7 / 3, 1.2 - 0.7 / 3, -1.2 - 0.7 / 3)


def test_shuffled_permutes_the_scale_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    entropy = torch.rand(60, dtype=torch.float64, generator=generator)
    trajectory, advantages = torch.arange(60) // 3, Advantages(torch.randn(20, generator=generator).double())
    options = {"k": 1.0, "k_future": 1.0, "zeta": 0.3}
    plain, found = (f(advantages, entropy, trajectory, **options) for f in (empg, empg_shuffled))
    torch.testing.assert_close(found.gradient_scale.sort().values, plain.gradient_scale.sort().values)
    torch.testing.assert_close(found.clarity_bonus, plain.clarity_bonus)
    expected = advantages.outcome[trajectory] * found.gradient_scale + 0.3 * found.clarity_bonus
    torch.testing.assert_close(found.advantage, expected - expected.mean())
    assert abs(torch.corrcoef(torch.stack((found.gradient_scale, entropy)))[0, 1]) < 0.3
    assert torch.corrcoef(torch.stack((plain.gradient_scale, entropy)))[0, 1] < -0.9


def test_shuffling_depends_on_the_entropies_alone():
    entropy, trajectory = torch.linspace(0, 1, 30, dtype=torch.float64), torch.arange(30)
    options = {"k": 1.0, "k_future": 1.0, "zeta": 0.0}
    ones = Advantages(torch.ones(30, dtype=torch.float64))

    def scale(advantages, values):
        return empg_shuffled(advantages, values, trajectory, **options).gradient_scale

    first = scale(ones, entropy)
    torch.testing.assert_close(scale(Advantages(-ones.outcome), entropy), first)
    assert not torch.allclose(scale(ones, entropy.flip(0)), first)
    assert not torch.allclose(scale(ones, entropy * 1.01), first)
