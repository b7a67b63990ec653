"""The mimetic initialisation of a policy that must copy names of several tokens."""

from __future__ import annotations

import math

import pytest
import torch

from empg.policy.elementwise import rms_norm
from empg.policy.initialisation import (
    initialise,
    match_content,
    repeat_sequences,
    scale_residual_stream,
    share_words,
    word_counts,
)
from empg.policy.transformer import Architecture, Transformer
from empg.policy.weights import tiny_config

VOCABULARY, LENGTH = 500, 60


def network(family: str, layers: int = 2, *, induction: bool = True, eps: float = 1e-6) -> Transformer:
    config = tiny_config(
        family,
        VOCABULARY,
        0,
        1,
        width=96,
        layers=layers,
        heads=4,
        kv_heads=2,
        mlp_width=256,
        max_positions=256,
        rope_theta=1e6,
    )
    made = Transformer(Architecture.from_config(config | {"rms_norm_eps": eps}, "here"))
    generator = torch.Generator().manual_seed(0)
    initialise(made, generator)
    match_content(made)
    if induction:
        repeat_sequences(made, generator)
    return made


@torch.no_grad()
def attention(made: Transformer, token_ids: torch.Tensor) -> list[torch.Tensor]:
    """Each layer's attention weights ``[heads, tokens, tokens]``, computed without the network's own code."""
    n = len(token_ids)
    x, cos, sin = made.embedding[token_ids], made.cos[:n], made.sin[:n]
    weights = []
    for layer in made.layers:
        q, k, v = layer.project(x, cos, sin)
        repeats = layer.heads // layer.kv_heads
        q, k, v = q.transpose(0, 1), *(t.transpose(0, 1).repeat_interleave(repeats, 0) for t in (k, v))
        scores = q @ k.mT / math.sqrt(layer.head_width)
        weights.append(scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf).softmax(-1))
        x = layer.finish(x, (weights[-1] @ v).transpose(0, 1).reshape(n, -1))
    final = rms_norm(x, made.norm, made.architecture.norm_eps)
    torch.testing.assert_close(final, made.states(token_ids), atol=1e-4, rtol=1e-4)
    return weights


@pytest.fixture
def repeated() -> torch.Tensor:
    sequence = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(1))[:LENGTH]
    return torch.cat([sequence, sequence])


@pytest.mark.parametrize("layers", [2, 3])
def test_the_head_looks_at_what_followed_the_same_token_before(repeated, layers):
    first, *later = attention(network("qwen2", layers), repeated)
    here = torch.arange(1, 2 * LENGTH)
    assert first[2:, here, here - 1].mean() > 0.7, "the previous token"
    again = torch.arange(LENGTH, 2 * LENGTH - 1)
    assert later[0][2:, again, again - LENGTH + 1].mean() > 0.6, "what followed it before"
    plain = attention(network("qwen2", layers, induction=False), repeated)[1]
    assert plain[2:, again, again - LENGTH + 1].mean() < 0.05, "which does not come by itself"


def test_without_biases_or_with_one_layer_nothing_changes(repeated):
    for family, layers in (("llama", 2), ("qwen2", 1)):
        with_it, without = (network(family, layers, induction=on) for on in (True, False))
        assert torch.equal(with_it.states(repeated), without.states(repeated))


def test_tokens_that_share_words_are_alike():
    counts = word_counts([" mug 1", " mug", "two mugs, two cups", " ", "1"])
    # mug, 1, two, mugs, comma, cups
    assert counts.tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 0, 2, 1, 1, 1],
        [0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
    ]
    embedding = torch.full((5, 96), 7.0)
    share_words(embedding, counts, torch.Generator().manual_seed(0))
    torch.testing.assert_close(embedding[0], embedding[1] + embedding[4])
    assert (embedding[3] == 7.0).all(), "a token without a word stays as it was"
    assert embedding[1].std() == pytest.approx(0.02, rel=0.2)


def test_a_larger_residual_stream_is_the_same_function(repeated):
    made = network("qwen2", eps=0.0).double()
    embedding = made.embedding.detach().clone()
    logits = (made.states(repeated) @ embedding.T).detach()
    scale_residual_stream(made, 30)
    torch.testing.assert_close(made.embedding.detach(), 30 * embedding)
    torch.testing.assert_close((made.states(repeated) @ made.embedding.T).detach(), logits)
