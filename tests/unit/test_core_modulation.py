"""EMPG by hand: the five equations on numbers that can be checked on paper, and one test per known trap."""

import math

import pytest
import torch

from empg.core.advantages import Advantages
from empg.core.checks import check_step_index
from empg.core.entropy import step_mean
from empg.core.modulation import empg, empg_bonus, empg_scale, equal_reward_share, modulate, unmodulated

LN2 = math.log(2)  # with k = ln 2, exp(−k·h) is 1 at h = 0 and ½ at h = 1


def vec(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def index(*values):
    return torch.tensor(values, dtype=torch.int64)


def assert_vec(found, *expected, atol=1e-7):  # ε = 1e-8 in the min-max moves results by about that much
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=0, atol=atol)


def test_five_equations_by_hand():
    # h = 0, 1, 1; exp = 1, ½, ½ with mean ⅔; g = 1.5, 0.75, 0.75; f = ½, 0, 0.
    # A_mod = 1·1.5 + 0.2·½, 0.75, −0.75 = 1.6, 0.75, −0.75 with mean 1.6 / 3.
    result = modulate(vec(1, -1), vec(2, 5, 5), index(0, 0, 1), k=LN2, k_future=LN2, zeta=0.2)
    assert_vec(result.normalised_entropy, 0, 1, 1)
    assert_vec(result.gradient_scale, 1.5, 0.75, 0.75)
    assert_vec(result.clarity_bonus, 0.5, 0, 0)
    assert_vec(result.advantage, 1.6 - 1.6 / 3, 0.75 - 1.6 / 3, -0.75 - 1.6 / 3)


def test_k_and_k_future_are_apart():
    result = modulate(vec(1), vec(0, 1), index(0, 0), k=LN2, k_future=2 * LN2)
    assert_vec(result.gradient_scale, 4 / 3, 2 / 3)
    assert_vec(result.clarity_bonus, 0.25, 0)


def test_defaults_are_the_papers():
    args = (vec(1, -0.5), vec(0.3, 0.1, 0.8), index(0, 0, 1))
    explicit = modulate(*args, k=1.0, k_future=1.0, zeta=0.05, scale=True, eps=1e-8)
    for found, expected in zip(modulate(*args), explicit, strict=True):
        assert torch.equal(found, expected)


# The variants


def test_variant_none_is_the_outcome_advantage_uncentred():
    result = unmodulated(Advantages(vec(3, -1)), vec(0, 1, 1), index(0, 1, 0))
    assert_vec(result.advantage, 3, -1, 3)
    assert_vec(result.gradient_scale, 1, 1, 1)
    assert_vec(result.clarity_bonus, 0, 0, 0)
    assert_vec(result.normalised_entropy, 0, 1, 1)


def test_variant_scale_has_no_bonus_in_the_advantage():
    result = empg_scale(Advantages(vec(1, -1)), vec(2, 5, 5), index(0, 0, 1), k=LN2)
    assert_vec(result.advantage, 1.5 - 0.5, 0.75 - 0.5, -0.75 - 0.5)


def test_variant_bonus_has_g_one():
    result = empg_bonus(Advantages(vec(1, -1)), vec(2, 5, 5), index(0, 0, 1), k_future=LN2, zeta=0.2)
    assert_vec(result.gradient_scale, 1, 1, 1)
    mean = (1 + 0.1 + 1 - 1) / 3
    assert_vec(result.advantage, 1.1 - mean, 1 - mean, -1 - mean)


def test_variant_empg_has_both_terms_with_their_own_strengths():
    # As in the five equations, but f = exp(−2 ln 2) = ¼ at h = 1: A_mod = 1.5 + 0.2·¼, 0.75, −0.75 = 1.55, 0.75, −0.75.
    result = empg(Advantages(vec(1, -1)), vec(2, 5, 5), index(0, 0, 1), k=LN2, k_future=2 * LN2, zeta=0.2)
    mean = 1.55 / 3
    assert_vec(result.gradient_scale, 1.5, 0.75, 0.75)
    assert_vec(result.clarity_bonus, 0.25, 0, 0)
    assert_vec(result.advantage, 1.55 - mean, 0.75 - mean, -0.75 - mean)


# A for each step is (1 + 1, 1 + 0, −1 + 2) = (2, 1, 1): A·g is (3, 0.75, 0.75) with mean 1.5, A itself has mean 4/3.
STEP_TERM = (Advantages(vec(1, -1), vec(1, 0, 2)), vec(2, 5, 5), index(0, 0, 1))


def test_step_advantage_is_added_before_modulation():
    assert_vec(unmodulated(*STEP_TERM).advantage, 2, 1, 1)
    assert_vec(empg_scale(*STEP_TERM, k=LN2).advantage, 1.5, -0.75, -0.75)
    assert_vec(empg(*STEP_TERM, k=LN2, k_future=1.0, zeta=0.0).advantage, 1.5, -0.75, -0.75)
    assert_vec(empg_bonus(*STEP_TERM, k_future=1.0, zeta=0.0).advantage, 2 / 3, -1 / 3, -1 / 3)


# The traps


def test_trap_statistics_are_over_steps_not_tokens():
    # Step 0 has nine tokens, step 1 one: exp(−k·h) = 1 and ½. Over steps its mean is ¾, over tokens it would be 0.95.
    token_entropy = vec(*[0.0] * 9, 1.0)
    entropy = step_mean(token_entropy, index(*[0] * 9, 1), 2)
    result = modulate(vec(1, 1), entropy, index(0, 1), k=LN2, zeta=0.0)
    assert_vec(result.gradient_scale, 4 / 3, 2 / 3)
    assert_vec(result.advantage, 1 / 3, -1 / 3)  # centred over two steps; over ten tokens it would be 1/15, −3/5


def test_trap_statistics_are_over_steps_not_trajectories():
    # Trajectory 0 has three steps with exp = 1, trajectory 1 one with ½: the mean is 7/8, not ¾.
    result = modulate(vec(1, 1), vec(0, 0, 0, 1), index(0, 0, 0, 1), k=LN2, zeta=0.0)
    assert_vec(result.gradient_scale, 8 / 7, 8 / 7, 8 / 7, 4 / 7)


def test_trap_whole_batch_before_splitting():
    # The whole batch: h = 0, ⅓, ⅔, 1. Each half on its own would see h = 0, 1 twice.
    entropy, trajectory = vec(0, 1, 2, 3), index(0, 0, 1, 1)
    whole = modulate(vec(1, -1), entropy, trajectory)
    assert_vec(whole.normalised_entropy, 0, 1 / 3, 2 / 3, 1)
    half = modulate(vec(1), entropy[:2], trajectory[:2])
    assert_vec(half.normalised_entropy, 0, 1)
    assert not torch.allclose(half.advantage, whole.advantage[:2])


def test_trap_step_order_comes_from_the_trajectory_not_from_neighbours():
    # Rows alternate between two trajectories: row 0's next step is row 2, row 1's is row 3.
    result = modulate(vec(0, 0), vec(0, 0, 1, 0), index(0, 1, 0, 1), k_future=LN2)
    assert_vec(result.clarity_bonus, 0.5, 1, 0, 0)


def test_trap_duplicated_rows_are_forbidden():
    # A duplicate of trajectory 0's confident step would move both means.
    clean = modulate(vec(1, -1), vec(0, 1), index(0, 1), k=LN2, zeta=0.0)
    doubled = modulate(vec(1, -1), vec(0, 0, 1), index(0, 0, 1), k=LN2, zeta=0.0)
    assert not torch.allclose(clean.gradient_scale, doubled.gradient_scale[1:])
    check_step_index(index(0, 1, 0, 1, 0), index(0, 0, 1, 1, 2))
    with pytest.raises(ValueError, match=r"step_index\[1\], trajectory 0: expected step 1, found 0"):
        check_step_index(index(0, 0, 1), index(0, 0, 0))
    with pytest.raises(ValueError, match=r"step_index\[2\], trajectory 4: expected step 0, found 1"):
        check_step_index(index(2, 2, 4), index(0, 1, 1))


def test_trap_k_zero_and_zeta_zero_is_not_the_baseline():
    # Three steps of a success, one of a failure: the baseline keeps ±1, centring over steps moves them by ½.
    args = (vec(1, -1), vec(0, 1, 2, 3), index(0, 0, 0, 1))
    assert_vec(modulate(*args, k=0.0, zeta=0.0).advantage, 0.5, 0.5, 0.5, -1.5)
    assert_vec(unmodulated(Advantages(args[0]), *args[1:]).advantage, 1, 1, 1, -1)


def test_trap_all_entropies_equal():
    result = modulate(vec(1, -1), vec(0.7, 0.7, 0.7), index(0, 0, 1), zeta=0.3)
    assert result.normalised_entropy.tolist() == [0, 0, 0]
    assert result.gradient_scale.tolist() == [1, 1, 1]
    assert result.clarity_bonus.tolist() == [1, 0, 0]


def test_trap_no_bonus_at_the_last_step_however_the_episode_ended():
    # Trajectory 0 has one step, trajectory 1 three, as an episode cut by a step limit would: exactly 0 at each end.
    result = modulate(vec(1, 1), vec(0.2, 0.4, 0.1, 0.3), index(0, 1, 1, 1))
    assert result.clarity_bonus[0] == 0
    assert result.clarity_bonus[3] == 0
    assert (result.clarity_bonus[1:3] > 0).all()


def test_trap_equal_reward_group_keeps_its_bonus():
    # Group 8 failed twice: A = 0, but its first step keeps ζ·f. H = 0 everywhere: f is 1 before a next step, else 0.
    reward, group = vec(1, 0, 0, 0), index(7, 7, 8, 8)
    trajectory = index(0, 0, 1, 2, 2, 3)
    result = modulate(vec(1, -1, 0, 0), torch.zeros(6, dtype=torch.float64), trajectory, zeta=0.2)
    # A_mod = 1.2, 1, −1, 0.2, 0, 0 with mean 1.4 / 6 = 7/30.
    assert_vec(result.advantage, *(x - 7 / 30 for x in (1.2, 1, -1, 0.2, 0, 0)))
    # |A_final| of group 8: 1/30 + 7/30 + 7/30 = 15/30; in all (29 + 23 + 37 + 15) / 30.
    assert equal_reward_share(result.advantage, trajectory, reward, group) == pytest.approx(15 / 104)


def test_equal_reward_share_of_nothing_is_zero():
    zero = vec(0, 0)
    assert equal_reward_share(zero, index(0, 1), vec(1, 1), index(0, 0)) == 0.0


def test_trap_one_outlier_sets_the_scale():
    usual = modulate(vec(1), vec(0, 1), index(0, 0)).normalised_entropy
    with_outlier = modulate(vec(1), vec(0, 1, 100), index(0, 0, 0)).normalised_entropy
    assert_vec(usual, 0, 1)
    assert_vec(with_outlier, 0, 0.01, 1)


def test_trap_a_step_without_tokens_is_an_error():
    with pytest.raises(ValueError, match=r"token_step: expected every index in \[0, 2\], found none equal to 1"):
        step_mean(vec(1, 2), index(0, 2), 3)


# What goes in and what comes out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_has_the_advantages_dtype_and_no_gradient(dtype):
    advantage = torch.tensor([1.0, -1.0], dtype=dtype, requires_grad=True)
    entropy = torch.tensor([0.1, 0.2, 0.4], requires_grad=True)
    batch = (Advantages(advantage), entropy, index(0, 0, 1))
    results = (
        unmodulated(*batch),
        empg(*batch, k=1.0, k_future=1.0, zeta=0.1),
        empg_scale(*batch, k=1.0),
        empg_bonus(*batch, k_future=1.0, zeta=0.1),
    )
    for result in results:
        for field in result:
            assert field.dtype == dtype
            assert field.shape == (3,)
            assert not field.requires_grad


def test_arguments_are_not_mutated():
    args = (vec(1, -1), vec(2, 5, 5), index(0, 0, 1))
    copies = [a.clone() for a in args]
    modulate(*args)
    assert all(torch.equal(a, b) for a, b in zip(args, copies, strict=True))


def test_a_rounding_error_below_zero_is_an_entropy():
    assert torch.isfinite(modulate(vec(1), vec(-1e-6, 0.5), index(0, 0)).advantage).all()


GOOD = {"outcome_advantage": vec(1, -1), "step_entropy": vec(0.1, 0.2, 0.3), "step_trajectory": index(0, 0, 1)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"outcome_advantage": vec(1, -1)[None]}, r"outcome_advantage: expected one dimension .* shape \[1, 2\]"),
        ({"outcome_advantage": [1.0, -1.0]}, r"outcome_advantage: expected a torch.Tensor, found list"),
        ({"outcome_advantage": vec(1, math.nan)}, r"outcome_advantage\[1\]: expected a finite number, found nan"),
        ({"outcome_advantage": index(1, -1)}, r"outcome_advantage: expected float32 or float64, found torch.int64"),
        ({"outcome_advantage": vec(1, -1, 0)}, r"step_trajectory: expected every index in \[0, 2\], .* equal to 2"),
        ({"step_entropy": vec(0.1, 0.2)}, r"step_trajectory: expected 2 elements, found 3"),
        ({"step_entropy": vec()}, r"step_entropy: expected one dimension with at least one element, .* \[0\]"),
        ({"step_entropy": vec(0.1, math.inf, 0)}, r"step_entropy\[1\]: expected a finite number, found inf"),
        ({"step_entropy": vec(0.1, 0.2, -0.5)}, r"step_entropy\[2\]: expected an entropy ≥ 0, found -0.5"),
        ({"step_entropy": vec(0, 0, 0, dtype=torch.float16)}, r"step_entropy: expected float32 or float64, .*float16"),
        ({"step_entropy": vec(0, 0, 0).to("meta")}, r"step_entropy: expected device cpu, found meta"),
        ({"step_trajectory": index(0, 2, 1)}, r"step_trajectory\[1\]: expected an index in \[0, 1\], found 2"),
        ({"step_trajectory": index(0, 1, -1)}, r"step_trajectory\[2\]: expected an index in \[0, 1\], found -1"),
        ({"step_trajectory": index(0, 0, 1).int()}, r"step_trajectory: expected int64, found torch.int32"),
        ({"k": -1.0}, r"k: expected a finite number ≥ 0, found -1.0"),
        ({"k_future": math.nan}, r"k_future: expected a finite number ≥ 0, found nan"),
        ({"zeta": math.inf}, r"zeta: expected a finite number, found inf"),
        ({"eps": 0.0}, r"eps: expected a finite number > 0, found 0.0"),
    ],
)
def test_wrong_input_is_refused_by_name_and_place(wrong, message):
    with pytest.raises(ValueError, match=message):
        modulate(**(GOOD | wrong))


@pytest.mark.parametrize(
    ("step_advantage", "message"),
    [
        (vec(1, 2), "step_advantage: expected 3 elements, found 2"),
        (vec(1, math.nan, 2), r"step_advantage\[1\]: expected a finite number, found nan"),
    ],
)
def test_a_wrong_step_advantage_is_refused(step_advantage, message):
    with pytest.raises(ValueError, match=message):
        modulate(**GOOD, step_advantage=step_advantage)
