"""The clipped surrogate, its weights and the k3 estimate, by hand."""

import math

import pytest
import torch

from empg.core.loss import AGGREGATIONS, clipped_tokens, entropy_bonus, kl_k3, policy_loss, token_weights


def vec(*values):
    return torch.tensor(values, dtype=torch.float64)


def index(*values):
    return torch.tensor(values, dtype=torch.int64)


def assert_vec(found, *expected, atol=1e-12):
    torch.testing.assert_close(found.double(), vec(*expected), rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("ratio", "advantage", "surrogate", "gradient"),
    [  # the gradient of the surrogate with respect to logπ is ρ·A where the clip is not active, 0 where it is
        (1.0, 2.0, 2.0, 2.0),
        (1.1, 2.0, 2.2, 2.2),
        (1.3, 2.0, 1.28 * 2, 0.0),  # above 1 + ε_high and better than average: clipped
        (1.3, -2.0, -2.6, -2.6),  # above it and worse: pushed down in full
        (0.7, -2.0, 0.8 * -2, 0.0),  # below 1 − ε_low and worse: clipped
        (0.7, 2.0, 1.4, 1.4),  # below it and better: pushed up in full
        (0.7, 0.0, 0.0, 0.0),
    ],
)
def test_clipped_surrogate_on_both_sides(ratio, advantage, surrogate, gradient):
    logprob = vec(math.log(ratio)).requires_grad_()
    bounds = {"clip_low": 0.2, "clip_high": 0.28}
    loss = policy_loss(logprob, vec(0), vec(advantage), vec(0.5), **bounds)
    loss.backward()
    assert loss.item() == pytest.approx(-0.5 * surrogate)
    assert logprob.grad.item() == pytest.approx(-0.5 * gradient)
    clipped = clipped_tokens(logprob, vec(0), vec(advantage), **bounds)
    assert clipped.tolist() == [gradient == 0.0 and advantage != 0.0]


def test_gradient_flows_through_logprob_alone():
    tensors = [vec(-1.0).requires_grad_() for _ in range(3)]
    policy_loss(*tensors, vec(1.0), clip_low=0.2, clip_high=0.2).backward()
    assert [t.grad is not None for t in tensors] == [True, False, False]


def test_on_policy_gradient_is_the_policy_gradient():
    # ρ = 1, whatever the bounds: ∇loss = −weight · A.
    logprob = vec(-1.0, -2.0, -3.0).requires_grad_()
    advantage, weight = vec(1, -2, 3), vec(0.1, 0.2, 0.3)
    policy_loss(logprob, logprob.detach(), advantage, weight, clip_low=0.2, clip_high=0.2).backward()
    assert_vec(logprob.grad, -0.1, 0.4, -0.9)


def test_entropy_bonus_by_hand():
    # −0.1 · (0.5 · 2 + 0.25 · 4) = −0.2: more entropy, less loss. Its gradient is −0.1 times the weights.
    entropy = vec(2, 4).requires_grad_()
    bonus = entropy_bonus(entropy, vec(0.5, 0.25), coef=0.1)
    bonus.backward()
    assert bonus.item() == pytest.approx(-0.2)
    assert_vec(entropy.grad, -0.05, -0.025)
    assert entropy_bonus(vec(2, 4), vec(0.5, 0.25), coef=-0.1).item() == pytest.approx(0.2)  # minimisation


def test_token_weights_by_hand():
    # Trajectory 0 has three tokens, trajectory 1 one.
    trajectory = index(0, 1, 0, 0)
    assert token_weights("token-mean", trajectory, 2).tolist() == [0.25] * 4
    assert_vec(token_weights("seq-mean-token-mean", trajectory, 2), 1 / 6, 1 / 2, 1 / 6, 1 / 6, atol=1e-7)
    assert token_weights("seq-mean-token-sum", trajectory, 2).tolist() == [0.5] * 4


def test_aggregations_agree_where_every_trajectory_has_one_token():
    weights = [token_weights(name, index(2, 0, 1), 3) for name in AGGREGATIONS]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_trap_the_denominator_is_the_whole_optimiser_step():
    # Two micro-batches of three tokens and one: averaging each on its own would give (2 + 10) / 2 = 6, not 16 / 4.
    values = vec(1, 2, 3, 10)
    weight = token_weights("token-mean", index(0, 0, 0, 1), 2)
    assert (weight[:3] * values[:3]).sum() + (weight[3:] * values[3:]).sum() == 4


def test_token_weights_refuse_unknown_names_and_empty_trajectories():
    with pytest.raises(ValueError, match=r"aggregation: expected one of token-mean, .*, found 'mean'"):
        token_weights("mean", index(0), 1)
    with pytest.raises(ValueError, match=r"token_trajectory: expected every index in \[0, 1\], found none equal to 1"):
        token_weights("token-mean", index(0, 0), 2)


def test_kl_k3_by_hand():
    # π / π_ref = 2: d = −ln 2, exp(d) − d − 1 = ½ + ln 2 − 1; equal: 0.
    found = kl_k3(vec(math.log(0.5), -1.0), vec(math.log(0.25), -1.0))
    assert_vec(found, math.log(2) - 0.5, 0)


def test_kl_k3_is_an_unbiased_estimate_of_the_divergence():
    policy, reference = vec(0.5, 0.3, 0.2), vec(0.2, 0.2, 0.6)
    expectation = (policy * kl_k3(policy.log(), reference.log())).sum()
    divergence = (policy * (policy / reference).log()).sum()
    assert expectation.item() == pytest.approx(divergence.item(), abs=1e-12)


def test_kl_k3_sends_no_gradient_to_the_reference():
    logprob, reference = vec(-1.0).requires_grad_(), vec(-2.0).requires_grad_()
    kl_k3(logprob, reference).sum().backward()
    assert reference.grad is None
    assert logprob.grad.item() == pytest.approx(1 - math.exp(-1))
