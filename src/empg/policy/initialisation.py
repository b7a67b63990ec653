"""How a tiny policy starts: random weights, with heads that can already match, copy and repeat."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from empg.policy.transformer import Transformer, rotary_frequencies, rotate


def initialise(network: Transformer, generator: torch.Generator) -> None:
    """Normal weights: 0.02 for the embedding, 1/sqrt(fan-in) for matrices; residual outputs start small."""
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2:
            continue
        std = 0.02 if name in ("embedding", "head") else parameter.shape[1] ** -0.5
        if name.endswith((".out", ".down")):
            std *= (2 * network.architecture.layers) ** -0.5
        with torch.no_grad():
            parameter.normal_(0.0, std, generator=generator)


def match_content(network: Transformer, generator: torch.Generator, share: float = 0.7) -> None:
    """Mimetic initialisation (Trockman and Kolter, arXiv 2305.09828): a query is most like the key of the same content,
    and what attention reads it writes back, so that copying and matching need not be found from noise."""
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


# Of an induction head, chosen so that it works before any training (a test measures it).
PLACE_NORM = 7.0  # length of each rotated pair that finds the previous token
STEADY = 0.01  # turn per position, in radians, of the rotated pairs that compare distant tokens
SHARPNESS = 4.0  # of that comparison
WRITE = 0.02  # how strongly the previous token is written, beside embeddings of 0.02
QUIET = 0.03  # what every block's output is scaled by, so that the embeddings are heard


def repeat_sequences(network: Transformer, generator: torch.Generator) -> None:
    """Begin with an induction head (Olsson et al., arXiv 2209.11895): after "A" attend to what followed "A" before.

    In the first layer the last key-value group looks at the previous token, by biases that differ by a turn of one
    position, and writes what it reads into directions that nothing else uses; in later layers that group compares them
    with the present token. So names of several tokens can be copied from the first step on. Call it last. It needs
    biases (Qwen2) and two layers, and does nothing without.
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
    """The same function with a residual stream ``scale`` times as large: embeddings and all that blocks add to them.

    AdamW moves a coordinate by about its rate whatever the coordinate's size, so it overwrites initial embeddings that
    are small before copying, which begins with them, is learnt; large ones last. It needs tied embeddings.
    """
    with torch.no_grad():
        for writer in (network.embedding, *(w for layer in network.layers for w in (layer.out, layer.down))):
            writer.mul_(scale)
        network.norm.div_(scale)


def share_words(embedding: Tensor, texts: Sequence[str], generator: torch.Generator) -> None:
    """Make tokens that share words start out alike: " mug 1" and " mug" both hold the vector of "mug".

    ``embedding`` ``[vocabulary, width]`` is overwritten for each of the ``texts`` of its tokens that has a word; norms
    stay. A policy this small finds out only slowly by itself which tokens name the same kind of thing.
    """
    words = [re.findall(r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9\s]", text) for text in texts]
    number = {word: i for i, word in enumerate(dict.fromkeys(w for ws in words for w in ws))}
    vectors = torch.randn(len(number), embedding.shape[1], generator=generator)
    with torch.no_grad():
        for row, ws in zip(embedding, words, strict=True):
            if ws:
                total = vectors[[number[w] for w in ws]].sum(0)
                row.copy_(total * (row.norm() / total.norm()))
