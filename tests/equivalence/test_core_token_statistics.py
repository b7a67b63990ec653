"""Chunked token statistics against autograd on the whole matrix, in value, gradient and memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from empg.core.entropy import token_renyi2, token_statistics

ROOT = Path(__file__).parents[2]
TOKENS, D, VOCABULARY = 37, 5, 11


def naive(hidden, weight, target, temperature):
    log_p = torch.log_softmax(hidden @ weight.T / temperature, dim=-1)
    return log_p.gather(1, target[:, None])[:, 0], -(log_p.exp() * log_p).sum(dim=-1)


def inputs(dtype=torch.float64, tokens=TOKENS, d=D, vocabulary=VOCABULARY):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, d, dtype=dtype, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, d, dtype=dtype, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (tokens,), generator=generator)


@pytest.mark.parametrize("uses", [(1.0, 0.0), (0.0, 1.0), (1.0, -0.3)], ids=["logprob", "entropy", "both"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk_size", [None, 1, 8, TOKENS])
def test_values_and_gradients_are_those_of_the_whole_matrix(uses, temperature, chunk_size):
    hidden, weight, target = inputs()
    coefficient = torch.linspace(-1, 2, TOKENS, dtype=torch.float64)
    results = []
    for function in (lambda *a: token_statistics(*a, temperature=temperature, chunk_size=chunk_size), None):
        logprob, entropy = function(hidden, weight, target) if function else naive(hidden, weight, target, temperature)
        terms = [u * (coefficient * x).sum() for u, x in zip(uses, (logprob, entropy), strict=True) if u]
        results.append((logprob, entropy, *torch.autograd.grad(sum(terms), (hidden, weight))))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.filterwarnings("ignore:Backwards compatibility:UserWarning")  # gradcheck about itself
def test_gradcheck(temperature):
    hidden, weight, target = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w: token_statistics(h, w, target, temperature=temperature, chunk_size=8), (hidden, weight)
    )


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_input_gets_no_gradient_and_the_other_its_own(frozen):
    hidden, weight, target = inputs()
    (hidden, weight)[frozen].requires_grad_(False)
    learning = (hidden, weight)[1 - frozen]
    logprob, entropy = token_statistics(hidden, weight, target, chunk_size=8)
    (found,) = torch.autograd.grad((logprob + entropy).sum(), learning)
    logprob, entropy = naive(hidden, weight, target, 1.0)
    (expected,) = torch.autograd.grad((logprob + entropy).sum(), learning)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_float32_is_within_rounding_of_float64():
    hidden, weight, target = inputs(torch.float32, tokens=200, d=16, vocabulary=500)
    found = token_statistics(hidden, weight, target, chunk_size=64)
    expected = naive(hidden.double(), weight.double(), target, 1.0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5)


def test_large_logits_neither_overflow_nor_lose_the_target():
    hidden, weight, target = inputs()
    found = token_statistics(hidden * 1e3, weight, target, chunk_size=8)
    expected = naive(hidden * 1e3, weight, target, 1.0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk_size", [None, 1, 8, TOKENS])
def test_renyi_entropies_are_those_of_the_whole_matrix(temperature, chunk_size):
    hidden, weight, _ = inputs()
    found = token_renyi2(hidden, weight, temperature=temperature, chunk_size=chunk_size)
    expected = -torch.softmax(hidden @ weight.T / temperature, dim=-1).square().sum(dim=-1).log()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Records the elements of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *(x.numel() for x in tensors)])
        return result


def largest_tensor(function, tokens=512, d=4, vocabulary=300):
    hidden, weight, target = inputs(torch.float32, tokens, d, vocabulary)
    with LargestTensor() as largest:
        logprob, entropy = function(hidden, weight, target)
        (logprob.sum() + entropy.sum()).backward()
    return largest.elements


def test_no_tensor_is_larger_than_one_chunk_in_forward_and_backward():
    assert largest_tensor(lambda h, w, t: naive(h, w, t, 1.0)) == 512 * 300  # the measure sees what it should
    assert largest_tensor(lambda h, w, t: token_statistics(h, w, t, chunk_size=16)) == 16 * 300


def test_renyi_entropies_need_no_larger_tensor_either():
    hidden, weight, _ = inputs(torch.float32, 512, 4, 300)
    with LargestTensor() as largest:
        token_renyi2(hidden, weight, chunk_size=16)
    assert largest.elements == 16 * 300


def test_the_default_chunk_is_bounded():
    # 20,000 words: 838 tokens at a time, 64 MiB.
    found = largest_tensor(token_statistics, tokens=1000, vocabulary=20_000)
    assert found == 838 * 20_000 <= 2**24


PEAK = """
import psutil, torch
from benchmarks.memory import peak
from empg.core.entropy import token_statistics

torch.set_num_threads(1)
hidden, weight = torch.randn(4000, 8, requires_grad=True), torch.randn(20_000, 8, requires_grad=True)
target = torch.zeros(4000, dtype=torch.long)
token_statistics(hidden[:1], weight, target[:1])[0].sum().backward()
before = psutil.Process().memory_info().rss / 2**20
logprob, entropy = token_statistics(hidden, weight, target)
(logprob.sum() + entropy.sum()).backward()
print(peak() - before)
"""


def test_two_chunks_are_the_most_that_exist_at_a_time():
    """Five chunks of 64 MiB: one's logits and probabilities are gone before the next one's come."""
    command = [sys.executable, "-c", PEAK]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 2 * 64 <= float(printed) < 2.5 * 64
