"""Token statistics, step entropies and Proposition 1, by hand and by sampling."""

import math

import pytest
import torch

from empg.core.entropy import (
    expected_score_norm_squared,
    renyi2_entropy,
    score_norm_squared,
    step_mean,
    token_renyi2,
    token_statistics,
)


def vec(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_token_statistics_by_hand():
    # One hidden unit; logits ln 1, ln 2, ln 1 give p = ¼, ½, ¼ and H = 1.5 bits.
    weight = vec(0, math.log(2), 0)[:, None]
    logprob, entropy = token_statistics(vec(1, 1)[:, None], weight, torch.tensor([1, 2]))
    torch.testing.assert_close(logprob, vec(math.log(1 / 2), math.log(1 / 4)))
    torch.testing.assert_close(entropy, vec(1.5, 1.5) * math.log(2))


def test_temperature_divides_the_logits():
    # At temperature 2 the logits 0, ln 4, 0 are those of the test above.
    weight = vec(0, math.log(4), 0)[:, None]
    logprob, entropy = token_statistics(vec(1)[:, None], weight, torch.tensor([1]), temperature=2.0)
    torch.testing.assert_close(logprob, vec(math.log(1 / 2)))
    torch.testing.assert_close(entropy, vec(1.5) * math.log(2))


def test_entropy_spans_zero_to_log_vocabulary_and_is_never_negative():
    hidden = torch.tensor([[0.0], [1e-3], [1.0], [30.0], [1e4], [-1e4]])
    weight = torch.linspace(-3, 3, 101)[:, None]
    _, entropy = token_statistics(hidden, weight, torch.zeros(6, dtype=torch.int64))
    assert entropy[0].item() == pytest.approx(math.log(101), abs=1e-6)
    assert entropy[4].item() == 0
    assert (entropy >= 0).all()
    assert torch.isfinite(entropy).all()


def test_statistics_of_a_bfloat16_model_are_float32():
    hidden, weight = torch.randn(5, 4).bfloat16().requires_grad_(), torch.randn(7, 4).bfloat16().requires_grad_()
    logprob, entropy = token_statistics(hidden, weight, torch.zeros(5, dtype=torch.int64), chunk_size=2)
    assert logprob.dtype == entropy.dtype == torch.float32
    (logprob + entropy).sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("hidden", "weight", "target"), [((3, 4), (7, 5), (3,)), ((3, 4), (7, 4), (2,)), ((3,), (7, 4), (3,))]
)
def test_wrong_shapes_are_refused(hidden, weight, target):
    with pytest.raises(ValueError, match=r"token_statistics: expected hidden \[tokens, d\].* found"):
        token_statistics(torch.zeros(hidden), torch.zeros(weight), torch.zeros(target, dtype=torch.int64))


def test_wrong_temperature_is_refused():
    with pytest.raises(ValueError, match="temperature: expected a finite number > 0, found 0"):
        token_statistics(torch.zeros(1, 1), torch.zeros(2, 1), torch.tensor([0]), temperature=0)


def test_token_renyi2_by_hand():
    # p = ¼, ½, ¼: Σ p² = 3/8. A second token is certain, a third uniform over three.
    hidden = vec(1, 1e4, 0)[:, None].requires_grad_()
    found = token_renyi2(hidden, vec(0, math.log(2), 0)[:, None], chunk_size=2)
    torch.testing.assert_close(found, vec(math.log(8 / 3), 0, math.log(3)))
    assert not found.requires_grad


def test_token_renyi2_at_another_temperature_and_precision():
    # At temperature 2 the logits 0, ln 4, 0 are those of the test above.
    weight = torch.tensor([0, math.log(4), 0])[:, None].bfloat16()
    found = token_renyi2(torch.ones(1, 1).bfloat16(), weight, temperature=2.0)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(math.log(8 / 3), abs=1e-2)


def test_token_renyi2_refuses_what_it_cannot_mean():
    with pytest.raises(ValueError, match=r"token_renyi2: expected hidden \[tokens, d\].* found \[3, 4\] and \[7, 5\]"):
        token_renyi2(torch.zeros(3, 4), torch.zeros(7, 5))
    with pytest.raises(ValueError, match="temperature: expected a finite number > 0, found -1"):
        token_renyi2(torch.zeros(1, 1), torch.zeros(2, 1), temperature=-1)


def test_step_mean_is_unweighted_over_a_steps_tokens_in_any_order():
    found = step_mean(torch.tensor([1.0, 10.0, 2.0, 6.0]), torch.tensor([1, 0, 1, 1]), 2)
    assert found.tolist() == [10, 3]
    assert found.dtype == torch.float32


def test_step_mean_is_differentiable():
    values = vec(1, 2, 3).requires_grad_()
    step_mean(values, torch.tensor([0, 0, 1]), 2).sum().backward()
    assert values.grad.tolist() == [0.5, 0.5, 1]


@pytest.mark.parametrize(
    ("token_step", "message"),
    [
        ([0, 1, 3], r"token_step\[2\]: expected an index in \[0, 2\], found 3"),
        ([0, 2, 2], r"token_step: expected every index in \[0, 2\], found none equal to 1"),
        ([0, 1], r"token_step: expected 3 elements, found 2"),
    ],
)
def test_step_mean_refuses_wrong_indices(token_step, message):
    with pytest.raises(ValueError, match=message):
        step_mean(vec(1, 2, 3), torch.tensor(token_step), 3)


# Proposition 1: E ‖∇_z log π(a)‖² = 1 − Σ p² = 1 − exp(−H₂)


def logits_of_varied_entropy():
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0], dtype=torch.float64)
    return scale[:, None] * torch.randn(7, 11, dtype=torch.float64, generator=generator)


def autograd_scores(logits):
    """∇_z log π(a) of every action a by autograd; [actions, vocabulary]."""
    z = logits.expand(len(logits), -1).clone().requires_grad_()
    torch.log_softmax(z, dim=-1).diagonal().sum().backward()
    return z.grad


def test_proposition_1_by_hand():
    # p = ½, ¼, ¼: Σ p² = 3/8. Sampling the first: (½)² + 2·(¼)² = 3/8; another: ½² + ¾² + ¼² = 7/8.
    logits = vec(0.5, 0.25, 0.25).log()
    assert renyi2_entropy(logits).item() == pytest.approx(-math.log(3 / 8))
    assert expected_score_norm_squared(logits).item() == pytest.approx(5 / 8)
    norms = score_norm_squared(logits.expand(3, -1), torch.arange(3))
    torch.testing.assert_close(norms, vec(3 / 8, 7 / 8, 7 / 8))


def test_proposition_1_exactly_over_autograd_scores():
    for logits in logits_of_varied_entropy():
        p = torch.softmax(logits, dim=-1)
        norms = autograd_scores(logits).square().sum(dim=-1)
        torch.testing.assert_close(norms, score_norm_squared(logits.expand(11, -1), torch.arange(11)))
        expectation = (p * norms).sum()
        torch.testing.assert_close(expectation, 1 - p.square().sum())
        torch.testing.assert_close(expectation, 1 - torch.exp(-renyi2_entropy(logits)))
        torch.testing.assert_close(expectation, expected_score_norm_squared(logits))


def test_proposition_1_by_sampling():
    generator = torch.Generator().manual_seed(1)
    for logits in logits_of_varied_entropy():
        p = torch.softmax(logits, dim=-1)
        actions = torch.multinomial(p, 20_000, replacement=True, generator=generator)
        norms = autograd_scores(logits).square().sum(dim=-1)[actions]
        standard_error = norms.std().item() / math.sqrt(len(norms))
        expected = expected_score_norm_squared(logits).item()
        assert norms.mean().item() == pytest.approx(expected, abs=4 * standard_error + 1e-12)


def test_score_norm_grows_with_renyi_entropy():
    logits = logits_of_varied_entropy()
    order = renyi2_entropy(logits).argsort()
    expected = expected_score_norm_squared(logits)[order]
    assert (expected.diff() >= 0).all()
    assert expected[-1].item() == pytest.approx(1 - 1 / 11)  # the uniform distribution
