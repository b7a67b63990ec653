"""A decoder-only transformer that runs Qwen2-, Qwen3- and Llama-family weights.

:meth:`Transformer.forward` scores the distinct tokens of sequences that form a prefix tree, with gradients: training
and scoring. Sampling appends to cached conversations with the same parameters (:mod:`empg.policy.decoding`).

Query, key and value projections are one matrix here, and so are gate and up: fewer, larger products. The folder on
disk keeps Hugging Face's names (see :mod:`empg.policy.weights`), so `transformers` loads what this trains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 — its customary name

from empg.errors import DataError
from empg.policy.elementwise import rms_norm, rotate, swiglu
from empg.policy.network import Network
from empg.policy.prefix_tree import PrefixTree, Run

FEW = 0.75  # share of wanted tokens below which the last layer skips the others
FAMILIES = ("qwen2", "qwen3", "llama")
# Keys of config.json that must hold numbers.
NUMBERS = (
    "num_attention_heads",
    "hidden_size",
    "vocab_size",
    "num_hidden_layers",
    "intermediate_size",
    "rms_norm_eps",
    "max_position_embeddings",
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes that the forward pass needs, read from a Hugging Face ``config.json``."""

    family: str
    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    norm_eps: float
    attention_bias: bool
    mlp_bias: bool
    tied: bool
    max_positions: int
    rope: dict[str, Any]

    @classmethod
    def from_config(cls, config: dict[str, Any], where: str) -> Architecture:
        """Read a ``config.json`` that ``where`` names in errors.

        Raises :class:`DataError` when the config is not of :data:`FAMILIES` or asks for an unsupported part.
        """
        family = config.get("model_type")
        if family not in FAMILIES:
            raise DataError(f"{where}: model_type: expected one of {', '.join(FAMILIES)}, found {family!r}")
        if config.get("use_sliding_window"):
            raise DataError(f"{where}: use_sliding_window: expected false, found true")
        if config.get("hidden_act", "silu") != "silu":
            raise DataError(f"{where}: hidden_act: expected 'silu', found {config['hidden_act']!r}")
        for name in NUMBERS:
            if not isinstance(config.get(name), int | float):
                raise DataError(f"{where}: {name}: expected a number, found {config.get(name, 'none')}")
        heads, width = config["num_attention_heads"], config["hidden_size"]
        rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        rope.setdefault("rope_type", rope.pop("type", "default"))
        rope.setdefault("rope_theta", config.get("rope_theta", 10_000.0))
        if rope["rope_type"] not in ("default", "llama3", "linear"):
            raise DataError(f"{where}: rope_type: expected default, linear or llama3, found {rope['rope_type']!r}")
        return cls(
            family=family,
            vocab_size=config["vocab_size"],
            width=width,
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_width=config.get("head_dim") or width // heads,
            mlp_width=config["intermediate_size"],
            norm_eps=config["rms_norm_eps"],
            attention_bias=family == "qwen2" or bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
            tied=bool(config.get("tie_word_embeddings", False)),
            max_positions=config["max_position_embeddings"],
            rope=rope,
        )


def rotary_frequencies(rope: dict[str, Any], head_width: int) -> Tensor:
    """Radians per position, ``[head_width / 2]``, of rotary embeddings (arXiv 2104.09864), scaled as ``rope`` says."""
    frequency: Tensor = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    if rope["rope_type"] == "linear":
        frequency /= rope["factor"]
    if rope["rope_type"] == "llama3":
        low, high, original = (
            rope["low_freq_factor"],
            rope["high_freq_factor"],
            rope["original_max_position_embeddings"],
        )
        wavelength = 2 * math.pi / frequency
        smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
        frequency *= (1 - smooth) / rope["factor"] + smooth
    return frequency


class Layer(nn.Module):
    """One pre-norm block: grouped-query attention (arXiv 2305.13245), then a SwiGLU network (arXiv 2002.05202)."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.sizes = [a.heads * a.head_width, a.kv_heads * a.head_width, a.kv_heads * a.head_width]
        self.heads, self.kv_heads, self.head_width, self.eps = a.heads, a.kv_heads, a.head_width, a.norm_eps
        self.attention_norm = nn.Parameter(torch.ones(a.width))
        self.qkv = nn.Parameter(torch.empty(sum(self.sizes), a.width))
        self.qkv_bias = nn.Parameter(torch.zeros(sum(self.sizes))) if a.attention_bias else None
        self.out = nn.Parameter(torch.empty(a.width, a.heads * a.head_width))
        # Qwen2 has no bias on the output projection; Llama's ``attention_bias`` sets one there too.
        self.out_bias = nn.Parameter(torch.zeros(a.width)) if a.attention_bias and a.family != "qwen2" else None
        self.q_norm = nn.Parameter(torch.ones(a.head_width)) if a.family == "qwen3" else None
        self.k_norm = nn.Parameter(torch.ones(a.head_width)) if a.family == "qwen3" else None
        self.mlp_norm = nn.Parameter(torch.ones(a.width))
        self.gate_up = nn.Parameter(torch.empty(2 * a.mlp_width, a.width))
        self.gate_up_bias = nn.Parameter(torch.zeros(2 * a.mlp_width)) if a.mlp_bias else None
        self.down = nn.Parameter(torch.empty(a.width, a.mlp_width))
        self.down_bias = nn.Parameter(torch.zeros(a.width)) if a.mlp_bias else None

    def project(
        self, x: Tensor, cos: Tensor, sin: Tensor, wanted: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries ``[..., heads, head_width]``, rotated keys and values ``[..., kv_heads, head_width]``.

        Args:
            x: ``[..., width]``, the block's input.
            cos: ``[..., 1, head_width / 2]``, of the tokens' positions.
            sin: alike.
            wanted: ``[wanted]``, places of the tokens that queries are computed for; None for all.
        """
        x = rms_norm(x, self.attention_norm, self.eps)
        if wanted is None:
            q, k, v = torch.split(F.linear(x, self.qkv, self.qkv_bias), self.sizes, dim=-1)
            q_cos, q_sin = cos, sin
        else:
            ends = [self.sizes[0], sum(self.sizes[1:])]
            q_weight, kv_weight = torch.split(self.qkv, ends)
            q_bias, kv_bias = (None, None) if self.qkv_bias is None else torch.split(self.qkv_bias, ends)
            q = F.linear(x[wanted], q_weight, q_bias)
            k, v = F.linear(x, kv_weight, kv_bias).chunk(2, dim=-1)
            q_cos, q_sin = cos[wanted], sin[wanted]
        q = torch.unflatten(q, -1, (self.heads, self.head_width))
        k, v = (torch.unflatten(t, -1, (self.kv_heads, self.head_width)) for t in (k, v))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = rms_norm(q, self.q_norm, self.eps), rms_norm(k, self.k_norm, self.eps)
        return rotate(q, q_cos, q_sin), rotate(k, cos, sin), v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The block's output ``[..., width]``.

        ``x`` ``[..., width]`` is its input, ``attended`` ``[..., heads * head_width]`` the attention's result.
        """
        x = x + F.linear(attended, self.out, self.out_bias)
        gate_up = F.linear(rms_norm(x, self.mlp_norm, self.eps), self.gate_up, self.gate_up_bias)
        return x + F.linear(swiglu(gate_up), self.down, self.down_bias)


class Transformer(Network):
    """The network. Parameters are uninitialised until loaded or drawn (:mod:`empg.policy.weights`)."""

    cos: Tensor
    sin: Tensor
    layers: Sequence[Layer]

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.embedding = nn.Parameter(torch.empty(a.vocab_size, a.width))
        self.layers = cast("Sequence[Layer]", nn.ModuleList(Layer(a) for _ in range(a.layers)))
        self.norm = nn.Parameter(torch.ones(a.width))
        self.head = None if a.tied else nn.Parameter(torch.empty(a.vocab_size, a.width))
        angles = torch.arange(a.max_positions).float()[:, None] * rotary_frequencies(a.rope, a.head_width)
        self.register_buffer("cos", angles.cos()[:, None], persistent=False)
        self.register_buffer("sin", angles.sin()[:, None], persistent=False)
        self.gradient_checkpointing = False

    @property
    def output_weight(self) -> Tensor:
        return self.embedding if self.head is None else self.head

    @property
    def max_positions(self) -> int:
        return self.architecture.max_positions

    def matrices(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if name.startswith("layers.") and p.dim() == 2]

    def freeze_embeddings(self) -> None:
        self.embedding.requires_grad_(False)
        if self.head is not None:
            self.head.requires_grad_(False)

    def forward(self, tree: PrefixTree, wanted: Tensor | None = None) -> Tensor:
        """Final hidden states ``[tokens, width]`` of the tokens of a prefix tree.

        With ``wanted``, ascending places of tokens in the tree, the states of those only: where they are few, the last
        layer computes nothing but keys and values for the others.
        """
        cos, sin = self.cos[tree.positions], self.sin[tree.positions]
        x = F.embedding(tree.ids, self.embedding)
        pruned = wanted if wanted is not None and len(wanted) < FEW * len(tree.ids) else None
        runs = tree.runs(x.dtype)
        saves_memory = self.gradient_checkpointing and torch.is_grad_enabled()
        block = (
            partial(torch.utils.checkpoint.checkpoint, tree_block, use_reentrant=False) if saves_memory else tree_block
        )
        for layer in self.layers:
            if layer is self.layers[-1] and pruned is not None:
                x = block(layer, x, cos, sin, tree, runs=tree.runs(x.dtype, pruned), wanted=pruned)
            else:
                x = block(layer, x, cos, sin, tree, runs=runs)
        x = rms_norm(x, self.norm, self.architecture.norm_eps)
        return x if wanted is None or pruned is not None else x[wanted]


def portions(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Slices of consecutive sequences with at most ``most`` tokens together; a longer sequence has its own slice."""
    start = 0
    while start < len(lengths):
        end, total = start + 1, lengths[start]
        while end < len(lengths) and total + lengths[end] <= most:
            total += lengths[end]
            end += 1
        yield slice(start, end)
        start = end


def tree_block(
    layer: Layer,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    tree: PrefixTree,
    *,
    runs: list[Run],
    wanted: Tensor | None = None,
) -> Tensor:
    """One block over a prefix tree. Returns the output of the queries of ``runs``: of the ``wanted`` tokens, or all."""
    q, k, v = layer.project(x, cos, sin, wanted)
    return layer.finish(x if wanted is None else x[wanted], tree.attention(q, k, v, runs))
