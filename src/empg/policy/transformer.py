"""A decoder-only transformer that runs Qwen2-, Qwen3- and Llama-family weights in two ways.

:meth:`Transformer.forward` scores the distinct tokens of sequences that form a prefix tree, with gradients: training
and scoring.
:meth:`Transformer.prefill` and :meth:`Transformer.decode` append to many cached conversations at once, without
gradients: sampling.

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


class Cache:
    """Keys and values of many conversations, for each layer ``[rows, kv_heads, length, head_width]``.

    Position p of conversation r lies in slot p of row r.

    A slot beyond a row's length may hold stale values: it is overwritten before any query may see it.
    """

    def __init__(self, a: Architecture, rows: int, length: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (rows, a.kv_heads, length, a.head_width)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(a.layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(a.layers)]

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order (a row may occur several times)."""
        self.keys = [k.index_select(0, rows) for k in self.keys]
        self.values = [v.index_select(0, rows) for v in self.values]

    def grow(self, length: int) -> None:
        """Make room for at least ``length`` tokens a row."""
        extra = length - self.keys[0].shape[2]
        if extra > 0:
            self.keys = [F.pad(k, (0, 0, 0, extra)) for k in self.keys]
            self.values = [F.pad(v, (0, 0, 0, extra)) for v in self.values]


class Transformer(nn.Module):
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
        """``[vocabulary, width]``."""
        return self.embedding if self.head is None else self.head

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

    def states(self, token_ids: Tensor) -> Tensor:
        """Final hidden states ``[tokens, width]`` of one sequence, ``token_ids`` ``[tokens]``."""
        return cast("Tensor", self(PrefixTree.of([token_ids.cpu().numpy()], token_ids.device)))

    @torch.no_grad()
    def prefill(
        self, token_ids: Tensor, lengths: Sequence[int], start: Sequence[int], cache: Cache, rows: Sequence[int]
    ) -> Tensor:
        """Append a chunk of tokens to some of the cached conversations.

        Returns the final hidden state of each chunk's last token, ``[chunks, width]``.

        Args:
            token_ids: ``[tokens]``, the chunks end to end, without padding.
            lengths: of the chunks.
            start: the length of each of those conversations before this call.
            cache: filled in place.
            rows: of the cache, one for each chunk.
        """
        device = token_ids.device
        places = [torch.arange(s, s + n, device=device) for s, n in zip(start, lengths, strict=True)]
        positions = torch.cat(places)
        row = torch.tensor(rows, device=device).repeat_interleave(torch.tensor(lengths, device=device))
        masks = [
            torch.arange(s + n, device=device) <= p[:, None] for s, n, p in zip(start, lengths, places, strict=True)
        ]
        cos, sin = self.cos[positions], self.sin[positions]
        x = F.embedding(token_ids, self.embedding)
        sizes, wanted = list(lengths), None
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            if layer is self.layers[-1]:
                wanted = torch.tensor(lengths, device=device).cumsum(0) - 1
                sizes, masks = [1] * len(lengths), [mask[-1:] for mask in masks]
            q, k, v = layer.project(x, cos, sin, wanted)
            keys[row, :, positions] = k
            values[row, :, positions] = v
            attended = [
                F.scaled_dot_product_attention(
                    q_i.transpose(0, 1)[None],
                    keys[r : r + 1, :, : s + n],
                    values[r : r + 1, :, : s + n],
                    attn_mask=mask,
                    enable_gqa=layer.heads > layer.kv_heads,
                )
                for q_i, r, s, n, mask in zip(torch.split(q, sizes), rows, start, lengths, masks, strict=True)
            ]
            x = x if wanted is None else x[wanted]
            x = layer.finish(x, torch.cat(attended, dim=2)[0].transpose(0, 1).flatten(1))
        return rms_norm(x, self.norm, self.architecture.norm_eps)

    @torch.no_grad()
    def decode(self, token_ids: Tensor, start: Tensor, cache: Cache) -> Tensor:
        """Append a token to every cached conversation. Returns final hidden states ``[rows, width]``.

        Args:
            token_ids: ``[rows]``.
            start: ``[rows]``, the length of each conversation before this call.
            cache: filled in place.
        """
        longest = int(start.max()) + 1
        cos, sin = self.cos[start], self.sin[start]
        visible = torch.arange(longest, device=start.device) <= start[:, None]
        bias = torch.zeros(visible.shape, dtype=self.embedding.dtype, device=start.device)
        bias = bias.masked_fill_(~visible, -torch.inf)[:, None]
        row = torch.arange(len(token_ids), device=start.device)
        x = F.embedding(token_ids, self.embedding)
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            q, k, v = layer.project(x, cos, sin)
            keys[row, :, start] = k
            values[row, :, start] = v
            x = layer.finish(x, grouped_attention(q, keys[:, :, :longest], values[:, :, :longest], bias))
        return rms_norm(x, self.norm, self.architecture.norm_eps)


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


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of a new token of each row over its cached conversation. Returns ``[rows, heads * w]``.

    Args:
        q: ``[rows, heads, w]``.
        k: ``[rows, kv_heads, length, w]``.
        v: ``[rows, kv_heads, length, w]``.
        bias: ``[rows, 1, length]``, added to the scores.
    """
    rows, heads, width = q.shape
    kv_heads = k.shape[1]
    q = q.view(rows, kv_heads, heads // kv_heads, width)
    scores = (q @ k.transpose(2, 3)).mul_(width**-0.5).add_(bias[:, None])
    return (scores.softmax(dim=-1) @ v).flatten(1)
