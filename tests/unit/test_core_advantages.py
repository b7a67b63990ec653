"""Outcome advantages, the group filter and the overlong punishment, by hand."""

import math

import pytest
import torch

from empg.core.advantages import (
    Advantages,
    Batch,
    gigpo_advantages,
    gigpo_steps,
    grpo,
    grpo_advantages,
    informative_groups,
    rloo,
    rloo_advantages,
    soft_overlong_punishment,
)


def vec(*values):
    return torch.tensor(values, dtype=torch.float64)


def index(*values):
    return torch.tensor(values, dtype=torch.int64)


def assert_vec(found, *expected, atol=1e-12):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=0, atol=atol)


def test_grpo_by_hand():
    # Rewards 1, 0, 0, 0: mean ¼, population variance 3/16. With the sample's it would be ¼ and 1.5, −0.5, −0.5, −0.5.
    std = math.sqrt(3) / 4
    assert_vec(grpo(vec(1, 0, 0, 0), index(3, 3, 3, 3), eps=0.0), 0.75 / std, *[-0.25 / std] * 3)
    assert_vec(grpo(vec(1, 0, 0, 0), index(3, 3, 3, 3), eps=0.5), 0.75 / (std + 0.5), *[-0.25 / (std + 0.5)] * 3)


def test_grpo_groups_are_apart_in_any_order_and_numbering():
    found = grpo(vec(1, 5, 0, 5, 1, 0), index(-4, 90, -4, 90, 7, 7), eps=1e-9)
    assert_vec(found, 1, 0, -1, 0, 1, -1, atol=1e-8)


def test_equal_rewards_and_groups_of_one_get_zero():
    assert grpo(vec(1, 1, 0, 0, 1), index(0, 0, 1, 1, 2)).tolist() == [0, 0, 0, 0, 0]


# Rewards 1, 0, 0 of one group: mean ⅓, population variance 2/9. Each trajectory has one step, two saw the same.
BATCH = Batch(vec(1, 0, 0), index(4, 4, 4), index(0, 1, 2), index(7, 7, 8))


def test_grpo_of_a_batch():
    found = grpo_advantages(BATCH)
    assert_vec(found.outcome, math.sqrt(2), *[-math.sqrt(0.5)] * 2, atol=1e-5)
    assert found.step is None


def test_rloo_of_a_batch():
    found = rloo_advantages(BATCH)
    assert_vec(found.outcome, 1, -0.5, -0.5)
    assert found.step is None


def test_gigpo_of_a_batch_is_grpo_and_a_term_for_each_step():
    found = gigpo_advantages(BATCH, omega=3.0, gamma=0.5)
    assert_vec(found.outcome, math.sqrt(2), *[-math.sqrt(0.5)] * 2, atol=1e-5)
    assert_vec(found.step, 3, -3, 0, atol=1e-4)


def test_gigpo_of_a_batch_discounts():
    """γ = ½: trajectory 0 saw anchor 7 with one step to go, so its return there is ½, as the failure's is 0."""
    batch = Batch(vec(1, 0, 1), index(4, 4, 4), index(0, 0, 1, 2), index(7, 9, 7, 7))
    returns = (0.5, 0, 1)  # at anchor 7: mean ½, population variance ⅙
    std = math.sqrt(1 / 6)
    expected = [(r - 0.5) / std for r in returns]
    assert_vec(gigpo_advantages(batch, omega=1.0, gamma=0.5).step, expected[0], 0, *expected[1:], atol=1e-5)


def test_the_advantage_of_a_step_is_the_sum_of_both_terms():
    outcome = vec(1, -1).requires_grad_()
    found = Advantages(outcome, vec(0.5, 0, 2)).of_steps(index(0, 1, 1))
    assert_vec(found, 1.5, -1, 1)
    assert not found.requires_grad
    assert_vec(Advantages(outcome).of_steps(index(1, 0, 1)), -1, 1, -1)


def test_rloo_by_hand():
    # Group 0: others' means are (0 + 0) / 2 and (1 + 0) / 2. Group 1: the other one's reward.
    assert_vec(rloo(vec(1, 0, 0.25, 0, 1), index(0, 0, 1, 0, 1)), 1, -0.5, -0.75, -0.5, 0.75)


def test_rloo_refuses_a_group_of_one():
    with pytest.raises(ValueError, match=r"group\[2\]: expected at least 2 trajectories in group 9, found 1"):
        rloo(vec(1, 0, 1), index(0, 0, 9))


def test_gigpo_steps_by_hand():
    # One group, γ = ½. Trajectory 0 wins in two steps: returns ½, 1. Trajectory 1 fails in two: 0, 0.
    # Anchor 10 was seen three times, with returns ½, 0, 0: mean ⅙, deviations ⅓, −⅙, −⅙, population variance 1/18.
    # Anchor 20 was seen once: 0.
    reward, group = vec(1, 0), index(5, 5)
    trajectory, anchor = index(0, 1, 0, 1), index(10, 10, 20, 10)
    found = gigpo_steps(reward, group, trajectory, anchor, omega=2.0, gamma=0.5, eps=0.5)
    scale = 2 / (math.sqrt(1 / 18) + 0.5)
    assert_vec(found, scale / 3, -scale / 6, 0, -scale / 6)


def test_gigpo_anchors_of_different_groups_do_not_mix():
    # The same anchor number in two groups of one trajectory each: two step groups of one.
    assert gigpo_steps(vec(1, 0), index(0, 1), index(0, 1), index(3, 3)).tolist() == [0, 0]
    assert gigpo_steps(vec(1, 0), index(0, 0), index(0, 1), index(3, 3)).tolist() == pytest.approx([1, -1], abs=1e-5)


def test_gigpo_return_of_the_last_step_is_the_undiscounted_reward():
    # Both at anchor 1: trajectory 0 with one step to go (γ·1), trajectory 1 at its last step (1): the later is better.
    found = gigpo_steps(vec(1, 1), index(0, 0), index(0, 0, 1), index(1, 2, 1), gamma=0.9)
    assert found[0] < 0 < found[2]
    assert found[1] == 0


def test_informative_groups_by_hand():
    reward, group = vec(1, 0, 1, 1, 0, 0, 0.5), index(4, 2, 4, 2, 9, 9, 1)
    assert informative_groups(reward, group).tolist() == [False, True, False, True, False, False, False]


def test_soft_overlong_punishment_by_hand():
    # DAPO's own numbers: 16,384 expected tokens and a cache of 4,096, so 20,480 at most.
    length = torch.tensor([1, 16_384, 17_408, 18_432, 20_480, 30_000])
    found = soft_overlong_punishment(length, max_length=20_480, cache=4_096)
    assert found.tolist() == [0, 0, -0.25, -0.5, -1, -1]


@pytest.mark.parametrize("cache", [0, 11])
def test_soft_overlong_punishment_refuses_an_impossible_cache(cache):
    with pytest.raises(ValueError, match=r"cache: expected a length in \[1, max_length = 10\]"):
        soft_overlong_punishment(torch.tensor([1]), max_length=10, cache=cache)


@pytest.mark.parametrize("function", [grpo, rloo, informative_groups])
@pytest.mark.parametrize(
    ("reward", "group", "message"),
    [
        (vec(1, math.nan), index(0, 0), r"reward\[1\]: expected a finite number, found nan"),
        (index(1, 0), index(0, 0), r"reward: expected float32 or float64, found torch.int64"),
        (vec(1, 0), index(0), r"group: expected 2 elements, found 1"),
        (vec(1, 0), vec(0, 0), r"group: expected int64, found torch.float64"),
    ],
)
def test_wrong_input_is_refused_by_name_and_place(function, reward, group, message):
    with pytest.raises(ValueError, match=message):
        function(reward, group)


def test_float32_rewards_give_float32_advantages():
    reward, group, trajectory = torch.tensor([1.0, 0.0]), index(0, 0), index(0, 1)
    assert grpo(reward, group).dtype == rloo(reward, group).dtype == torch.float32
    assert gigpo_steps(reward, group, trajectory, trajectory).dtype == torch.float32
