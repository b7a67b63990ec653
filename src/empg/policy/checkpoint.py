"""A policy's network as an ordinary Hugging Face folder: ``config.json`` and safetensors, nothing pickled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from empg.errors import DataError
from empg.files import read_json, write_json
from empg.policy.transformer import Architecture, Transformer, rotary_frequencies, rotate


def name_map(a: Architecture) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Pairs of our parameter's name and the Hugging Face tensors (name, rows) that it is stacked from."""
    q, kv = a.heads * a.head_width, a.kv_heads * a.head_width
    yield "embedding", [("model.embed_tokens.weight", a.vocab_size)]
    for i in range(a.layers):
        ours, theirs = f"layers.{i}.", f"model.layers.{i}."
        attention, mlp = theirs + "self_attn.", theirs + "mlp."
        yield ours + "attention_norm", [(theirs + "input_layernorm.weight", a.width)]
        yield ours + "qkv", [(attention + f"{x}_proj.weight", n) for x, n in (("q", q), ("k", kv), ("v", kv))]
        yield ours + "qkv_bias", [(attention + f"{x}_proj.bias", n) for x, n in (("q", q), ("k", kv), ("v", kv))]
        yield ours + "out", [(attention + "o_proj.weight", a.width)]
        yield ours + "out_bias", [(attention + "o_proj.bias", a.width)]
        yield ours + "q_norm", [(attention + "q_norm.weight", a.head_width)]
        yield ours + "k_norm", [(attention + "k_norm.weight", a.head_width)]
        yield ours + "mlp_norm", [(theirs + "post_attention_layernorm.weight", a.width)]
        yield ours + "gate_up", [(mlp + f"{x}_proj.weight", a.mlp_width) for x in ("gate", "up")]
        yield ours + "gate_up_bias", [(mlp + f"{x}_proj.bias", a.mlp_width) for x in ("gate", "up")]
        yield ours + "down", [(mlp + "down_proj.weight", a.width)]
        yield ours + "down_bias", [(mlp + "down_proj.bias", a.width)]
    yield "norm", [("model.norm.weight", a.width)]
    yield "head", [("lm_head.weight", a.vocab_size)]


def load_transformer(folder: Path, device: str = "cpu") -> Transformer:
    """The folder's network in float32, whatever its files hold.

    Raises :class:`DataError` when a file or tensor is missing, damaged or of another shape than the config says.
    """
    config = read_json(folder / "config.json")
    network = Transformer(Architecture.from_config(config, str(folder / "config.json")))
    tensors = read_tensors(folder)
    parameters = dict(network.named_parameters())
    for ours, theirs in name_map(network.architecture):
        if ours not in parameters:
            continue
        parts = []
        for name, rows in theirs:
            expected = (rows, *parameters[ours].shape[1:])
            if name not in tensors:
                raise DataError(f"{folder}: tensor {name}: expected shape {expected}, found none")
            if tuple(tensors[name].shape) != expected:
                raise DataError(
                    f"{folder}: tensor {name}: expected shape {expected}, found {tuple(tensors[name].shape)}"
                )
            parts.append(tensors[name])
        parameters[ours].data = torch.cat(parts).float()
    return network.to(device)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder}: expected *.safetensors files, found none")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                tensors.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{file}: expected a whole safetensors file, found {error}") from None
    return tensors


def save_transformer(network: Transformer, config: dict[str, Any], folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` under Hugging Face's names, in float32."""
    parameters = dict(network.named_parameters())
    tensors: dict[str, Tensor] = {}
    for ours, theirs in name_map(network.architecture):
        if ours in parameters:
            parts = torch.split(parameters[ours].detach().cpu(), [rows for _, rows in theirs])
            tensors |= {name: part.contiguous().clone() for (name, _), part in zip(theirs, parts, strict=True)}
    config = {key: value for key, value in config.items() if key != "torch_dtype"}  # an earlier name of "dtype"
    write_json(folder / "config.json", config | {"dtype": "float32"})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def tiny_config(
    family: str,
    vocab_size: int,
    end_id: int,
    pad_id: int,
    *,
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    mlp_width: int,
    max_positions: int,
    rope_theta: float,
) -> dict[str, Any]:
    """The ``config.json`` of a small network with tied embeddings, as `transformers` reads it."""
    return {
        "architectures": ["Qwen2ForCausalLM" if family == "qwen2" else "LlamaForCausalLM"],
        "model_type": family,
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": mlp_width,
        "max_position_embeddings": max_positions,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": rope_theta,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": end_id,
        "pad_token_id": pad_id,
    }


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
