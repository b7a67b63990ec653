"""A policy's network as an ordinary Hugging Face folder: ``config.json`` and safetensors, nothing pickled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from empg.errors import DataError
from empg.files import read_json, write_json
from empg.policy.transformer import Architecture, Transformer


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


def load_transformer(folder: Path, device: str = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """The folder's network in ``dtype``; without one, in bfloat16 if the folder's config says so, else in float32.

    Raises :class:`DataError` when a file or tensor is missing, damaged, not finite or of another shape than the config
    says.
    """
    config = read_json(folder / "config.json")
    dtype = dtype or own_dtype(config)
    network = Transformer(Architecture.from_config(config, str(folder / "config.json"))).to(dtype)
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
            if not tensors[name].isfinite().all():
                raise DataError(f"{folder}: tensor {name}: expected finite numbers, found NaN or infinity")
            parts.append(tensors[name])
        parameters[ours].data = torch.cat(parts).to(dtype)
    return network.to(device)


def own_dtype(config: dict[str, Any]) -> torch.dtype:
    """The precision that a model's ``config.json`` asks for: bfloat16, or float32 for all others."""
    written = config.get("dtype", config.get("torch_dtype"))
    return torch.bfloat16 if written == "bfloat16" else torch.float32


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's safetensors files, by name. Raises :class:`DataError` for none or a damaged file."""
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


def write_config(config: dict[str, Any], dtype: torch.dtype, folder: Path) -> None:
    """Write ``config.json`` of a model in this precision."""
    kept = {key: value for key, value in config.items() if key != "torch_dtype"}  # an earlier name of "dtype"
    write_json(folder / "config.json", kept | {"dtype": str(dtype).removeprefix("torch.")})


def save_transformer(network: Transformer, config: dict[str, Any], folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` under Hugging Face's names, in the network's precision."""
    parameters = dict(network.named_parameters())
    tensors: dict[str, Tensor] = {}
    for ours, theirs in name_map(network.architecture):
        if ours in parameters:
            parts = torch.split(parameters[ours].detach().cpu(), [rows for _, rows in theirs])
            tensors |= {name: part.contiguous().clone() for (name, _), part in zip(theirs, parts, strict=True)}
    write_config(config, network.embedding.dtype, folder)
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
