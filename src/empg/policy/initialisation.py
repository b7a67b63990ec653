"""Initialisation of a tiny policy: random weights, with heads that can already match, copy and repeat."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from empg.policy.elementwise import rotate
from empg.policy.transformer import Transformer, rotary_frequencies


def initialise(network: Transformer, generator: torch.Generator) -> None:
    """Draw normal weights in place: deviation 0.02 for the embedding, 1/sqrt(fan-in) for matrices.

    Matrices that write to the residual stream are smaller by sqrt(2 · layers), as in GPT-2.
    """
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2:
            continue
        std = 0.02 if name in ("embedding", "head") else parameter.shape[1] ** -0.5
        if name.endswith((".out", ".down")):
            std *= (2 * network.architecture.layers) ** -0.5
        with torch.no_grad():
            parameter.normal_(0.0, std, generator=generator)


def match_content(network: Transformer, share: float = 0.7) -> None:
    """Mimetic initialisation (Trockman and Kolter, arXiv 2305.09828), in place.

    A query is most like the key of the same content, and attention writes back what it reads, so training need not find
    copying and matching from noise. ``share`` in [0, 1] is the correlation of queries with keys and of outputs with
    values.
    """
    a = network.architecture
    own = (1 - share**2) ** 0.5
    with torch.no_grad():
        for layer in network.layers:
            q, k, v = (t.view(-1, a.head_width, a.width) for t in torch.split(layer.qkv, layer.sizes))
            repeats = a.heads // a.kv_heads
            q.copy_(share * k.repeat_interleave(repeats, 0) + own * q)
            out = layer.out.view(a.width, a.heads, a.head_width)
            scale = out.std() / v.std()
            out.copy_(share * scale * v.repeat_interleave(repeats, 0).permute(2, 0, 1) + own * out)


# An induction head with these settings works before any training; a test measures that.
PLACE_NORM = 7.0  # length of each rotated pair that finds the previous token
STEADY = 0.01  # radians per position: rotated pairs that turn less compare distant tokens
SHARPNESS = 4.0  # scale of the queries and keys of that comparison
WRITE = 0.02  # scale at which the previous token is written; embeddings have a deviation of 0.02
QUIET = 0.03  # scale of every block's output, small so that the embeddings dominate


def repeat_sequences(network: Transformer, generator: torch.Generator) -> None:
    """Write an induction head (Olsson et al., arXiv 2209.11895): after "A", attend to what followed "A" before.

    The last key-value group of the first layer attends to the previous token: its query and key biases differ by a turn
    of one position. It writes that token into directions that nothing else uses. In later layers the group compares
    these with the present token. So the policy can copy names of several tokens from the first step on.

    Call it after :func:`initialise`, :func:`match_content` and :func:`share_words`. A network without attention biases
    (Qwen2 has them) or with a single layer stays as it is.
    """
    a = network.architecture
    first, *later = network.layers
    if first.qkv_bias is None or not later:
        return
    group = slice((a.kv_heads - 1) * a.head_width, a.kv_heads * a.head_width)
    heads = slice((a.kv_heads - 1) * (a.heads // a.kv_heads), a.heads)
    basis, _ = torch.linalg.qr(torch.randn(a.width, a.width, generator=generator))
    before, read = basis[:, : a.head_width], basis[:, a.head_width : 2 * a.head_width].T
    steady = (rotary_frequencies(a.rope, a.head_width) < STEADY).repeat(2)[:, None]
    place = torch.zeros(2, a.head_width // 2)
    place[0, : a.head_width // 6] = PLACE_NORM  # the pairs that turn fastest tell neighbours apart
    with torch.no_grad():
        q, _, v = torch.split(first.qkv, first.sizes)
        q_bias, k_bias, _ = torch.split(first.qkv_bias, first.sizes)
        k_bias[group] = place.flatten()
        turned_back = rotate(place.flatten()[None], network.cos[1], -network.sin[1])
        q_bias.view(a.heads, a.head_width)[heads] = turned_back
        q.view(a.heads, a.head_width, a.width)[heads] *= 0.1  # the place decides, not the content
        v[group] = read
        for layer in network.layers:
            layer.out.mul_(QUIET)
            layer.down.mul_(QUIET)
        for writer in (network.embedding.mT, first.out, first.down):
            writer.sub_(before @ (before.T @ writer))
        first.out.view(a.width, a.heads, a.head_width)[:, heads] = WRITE * before[:, None]
        for layer in later:
            q, k, _ = torch.split(layer.qkv, layer.sizes)
            k[group] = SHARPNESS * steady * before.T
            q.view(a.heads, a.head_width, a.width)[heads] = SHARPNESS * steady * read


def scale_residual_stream(network: Transformer, scale: float) -> None:
    """Multiply embeddings and block outputs by ``scale``, in place. The network's function is unchanged.

    AdamW moves each coordinate by about its learning rate, whatever the coordinate's size. It overwrites small initial
    embeddings before the policy learns to copy with them; large ones last. Needs tied embeddings.
    """
    with torch.no_grad():
        for writer in (network.embedding, *(w for layer in network.layers for w in (layer.out, layer.down))):
            writer.mul_(scale)
        network.norm.div_(scale)


def word_counts(texts: Sequence[str]) -> Tensor:
    """How often each word is in each text, ``[texts, words]``: " mug 1" and " mug" both hold "mug".

    Words are runs of letters, runs of digits and single signs.
    """
    words = [re.findall(r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9\s]", text) for text in texts]
    number = {word: i for i, word in enumerate(dict.fromkeys(w for ws in words for w in ws))}
    counts = torch.zeros(len(texts), len(number))
    for row, ws in zip(counts, words, strict=True):
        for word in ws:
            row[number[word]] += 1
    return counts


def share_words(embedding: Tensor, words: Tensor, generator: torch.Generator) -> None:
    """Make tokens that share words alike, in place: a token's vector is the sum of its words' random vectors.

    A policy this small is slow to learn which tokens name the same kind of thing.

    Args:
        embedding: ``[vocabulary, width]``; rows of tokens without a word stay.
        words: of each token of the vocabulary, from :func:`word_counts`.
        generator: of the words' vectors, of deviation 0.02 a coordinate.
    """
    vectors = 0.02 * torch.randn(words.shape[1], embedding.shape[1], generator=generator)
    spoken = words.any(1)
    with torch.no_grad():
        embedding[spoken] = words[spoken] @ vectors
