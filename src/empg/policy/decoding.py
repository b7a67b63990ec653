"""Sampling's two passes over cached conversations: :func:`prefill` appends chunks of tokens, :func:`decode` one each.

Both give the hidden states that :meth:`empg.policy.transformer.Transformer.forward` gives, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 — its customary name

from empg.policy.elementwise import rms_norm
from empg.policy.network import ConversationCache, Network
from empg.policy.prefix_tree import attend_by_products
from empg.policy.transformer import Layer, Transformer

# Chunks of at most so many tokens are attended to together, padded, if a conversation's keys are at most so many
# numbers a layer: longer chunks lose more by padding, and longer conversations by being copied, than calls cost.
SHORT, COPIED = 48, 20_000


class Cache:
    """Keys and values of many conversations, position p of conversation r in slot p of row r.

    For each layer, keys are ``[rows, kv_heads, head_width, length]``: a new token's query then meets them in the layout
    in which small matrix products are fastest. Values are ``[rows, kv_heads, length, head_width]``.

    A slot beyond a row's length may hold stale values: it is overwritten before any query may see it.
    """

    def __init__(self, network: Transformer, rows: int, length: int) -> None:
        self.network = network
        a, dtype, device = network.architecture, network.dtype, network.device
        shapes = (rows, a.kv_heads, a.head_width, length), (rows, a.kv_heads, length, a.head_width)
        self.keys, self.values = (
            [torch.zeros(shape, dtype=dtype, device=device) for _ in range(a.layers)] for shape in shapes
        )

    @property
    def length(self) -> int:
        """Tokens that a row has room for."""
        return self.values[0].shape[2]

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order (a row may occur several times)."""
        self.keys = [k.index_select(0, rows) for k in self.keys]
        self.values = [v.index_select(0, rows) for v in self.values]

    def grow(self, length: int) -> None:
        """Make room for at least ``length`` tokens a row."""
        extra = length - self.length
        if extra > 0:
            self.keys = [F.pad(k, (0, extra)) for k in self.keys]
            self.values = [F.pad(v, (0, 0, 0, extra)) for v in self.values]

    def prefill(self, token_ids: Tensor, lengths: Sequence[int], start: Sequence[int], rows: Sequence[int]) -> Tensor:
        return prefill(self.network, token_ids, lengths, start, cache=self, rows=rows)

    def decode(self, token_ids: Tensor, start: Tensor) -> Tensor:
        return decode(self.network, token_ids, start, self)


def open_cache(network: Network, rows: int, length: int) -> ConversationCache:
    """An empty cache for so many conversations of any network."""
    return Cache(network, rows, length) if isinstance(network, Transformer) else network.open_cache(rows, length)


@torch.no_grad()
def prefill(
    network: Transformer,
    token_ids: Tensor,
    lengths: Sequence[int],
    start: Sequence[int],
    *,
    cache: Cache,
    rows: Sequence[int],
) -> Tensor:
    """Append a chunk of tokens to some of the cached conversations.

    Returns the final hidden state of each chunk's last token, ``[chunks, width]``.

    Args:
        network: the policy.
        token_ids: ``[tokens]``, the chunks end to end, without padding.
        lengths: of the chunks.
        start: the length of each of those conversations before this call.
        cache: filled in place.
        rows: of the cache, one for each chunk.
    """
    a, device = network.architecture, token_ids.device
    size = torch.tensor(lengths, device=device)
    row = torch.tensor(rows, device=device)
    token_row = row.repeat_interleave(size)
    ends = size.cumsum(0)
    positions = torch.arange(len(token_ids), device=device)
    positions += (torch.tensor(start, device=device) - ends + size).repeat_interleave(size)
    cos, sin = network.cos[positions], network.sin[positions]
    longest = max(s + n for s, n in zip(start, lengths, strict=True))
    are_copied = a.kv_heads * a.head_width * longest <= COPIED
    by_products = network.dtype == torch.bfloat16 and device.type == "cpu"
    apart = ApartByProducts if by_products else Apart
    attend = Together if are_copied and max(lengths) <= SHORT else apart
    attention = attend(lengths, start, rows, positions)
    x = F.embedding(token_ids, network.embedding)
    for layer, keys, values in zip(network.layers, cache.keys, cache.values, strict=True):
        wanted = None
        if layer is network.layers[-1]:  # the last tokens' queries alone are left
            wanted = ends - 1
            start = [s + n - 1 for s, n in zip(start, lengths, strict=True)]
            attention = (Together if are_copied else apart)([1] * len(rows), start, rows, positions[wanted])
        q, k, v = layer.project(x, cos, sin, wanted)
        keys[token_row, :, :, positions] = k
        values[token_row, :, positions] = v
        x = layer.finish(x if wanted is None else x[wanted], attention(layer, q, keys, values))
    return rms_norm(x, network.norm, a.norm_eps)


class Apart:
    """Attention of chunks of queries to their conversations, one conversation after the other.

    Args:
        lengths: of the chunks.
        start: positions of their first tokens.
        rows: of the cache, one for each chunk.
        positions: ``[tokens]``, of all tokens.
    """

    def __init__(self, lengths: Sequence[int], start: Sequence[int], rows: Sequence[int], positions: Tensor) -> None:
        self.lengths, self.rows = list(lengths), rows
        self.longest = [s + n for s, n in zip(start, lengths, strict=True)]
        slots = torch.arange(max(self.longest), device=positions.device)
        parts = zip(torch.split(positions, self.lengths), self.longest, strict=True)
        self.masks = [slots[:n] <= part[:, None] for part, n in parts]

    def __call__(self, layer: Layer, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """``[tokens, heads * w]`` of queries ``q`` ``[tokens, heads, w]``; keys and values as in :class:`Cache`."""
        parts = zip(torch.split(q, self.lengths), self.rows, self.longest, self.masks, strict=True)
        attended = [
            F.scaled_dot_product_attention(
                q_i.transpose(0, 1)[None],
                keys[r : r + 1, :, :, :n].transpose(2, 3).contiguous(),
                values[r : r + 1, :, :n],
                attn_mask=mask,
                enable_gqa=layer.heads > layer.kv_heads,
            )
            for q_i, r, n, mask in parts
        ]
        return torch.cat(attended, dim=2)[0].transpose(0, 1).flatten(1)


class ApartByProducts:
    """The same by :func:`~empg.policy.prefix_tree.attend_by_products`, which is faster in bfloat16 on a CPU.

    Takes what :class:`Apart` takes.
    """

    def __init__(self, lengths: Sequence[int], start: Sequence[int], rows: Sequence[int], positions: Tensor) -> None:
        self.lengths, self.rows = list(lengths), rows
        parts = zip(torch.split(positions, self.lengths), start, lengths, strict=True)
        self.biases = [causal_bias(part, s + n).bfloat16() for part, s, n in parts]

    def __call__(self, layer: Layer, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """``[tokens, heads * w]`` of queries ``q`` ``[tokens, heads, w]``; keys and values as in :class:`Cache`."""
        parts = zip(torch.split(q.transpose(0, 1), self.lengths, dim=1), self.rows, self.biases, strict=True)
        attended = [
            attend_by_products(q_i, keys[r, ..., : bias.shape[1]].mT, values[r, :, : bias.shape[1]], bias)
            for q_i, r, bias in parts
        ]
        return torch.cat(attended, dim=1).transpose(0, 1).flatten(1)


class Together:
    """The same, of all chunks at once: their queries are padded to one length and their conversations copied.

    Takes what :class:`Apart` takes.
    """

    def __init__(self, lengths: Sequence[int], start: Sequence[int], rows: Sequence[int], positions: Tensor) -> None:
        device = positions.device
        self.chunks, self.most = len(lengths), max(lengths)
        self.rows = torch.tensor(rows, device=device)
        self.longest = max(s + n for s, n in zip(start, lengths, strict=True))
        first = torch.tensor(start, device=device)
        size = torch.tensor(lengths, device=device)
        chunk = torch.arange(self.chunks, device=device).repeat_interleave(size)
        self.place = chunk * self.most + positions - first[chunk]  # of each token among the padded ones
        padded = first[:, None] + torch.arange(self.most, device=device)
        self.bias = causal_bias(padded, self.longest)[:, None]

    def __call__(self, layer: Layer, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """``[tokens, heads * w]`` of queries ``q`` ``[tokens, heads, w]``; keys and values as in :class:`Cache`."""
        keys, values = keys[..., : self.longest], values[:, :, : self.longest].index_select(0, self.rows)
        bias = self.bias.to(q.dtype)
        if self.most == 1:
            return grouped_attention(q, keys.index_select(0, self.rows), values, bias[:, 0])
        padded = q.new_zeros(self.chunks * self.most, *q.shape[1:]).index_copy_(0, self.place, q)
        attended = F.scaled_dot_product_attention(
            padded.view(self.chunks, self.most, *q.shape[1:]).transpose(1, 2),
            keys.transpose(2, 3).index_select(0, self.rows),
            values,
            attn_mask=bias,
            enable_gqa=layer.heads > layer.kv_heads,
        )
        return attended.transpose(1, 2).reshape(self.chunks * self.most, -1)[self.place]


@torch.no_grad()
def decode(network: Transformer, token_ids: Tensor, start: Tensor, cache: Cache) -> Tensor:
    """Append a token to every cached conversation. Returns final hidden states ``[rows, width]``.

    Args:
        network: the policy.
        token_ids: ``[rows]``.
        start: ``[rows]``, the length of each conversation before this call.
        cache: filled in place.
    """
    longest = int(start.max()) + 1
    cos, sin = network.cos[start], network.sin[start]
    cos, sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    bias = causal_bias(start[:, None], longest).to(network.embedding.dtype)
    row = torch.arange(len(token_ids), device=start.device)
    x = F.embedding(token_ids, network.embedding)
    for layer, keys, values in zip(network.layers, cache.keys, cache.values, strict=True):
        q, k, v = _project(layer, x, cos, sin)
        keys[row, :, :, start] = k
        values[row, :, start] = v
        x = layer.finish(x, grouped_attention(q, keys[..., :longest], values[:, :, :longest], bias))
    return rms_norm(x, network.norm, network.architecture.norm_eps)


def causal_bias(positions: Tensor, length: int) -> Tensor:
    """0 for slots up to a token's own and -inf beyond, ``[..., length]``, for ``positions`` ``[...]``."""
    hidden = torch.arange(length, device=positions.device) > positions[..., None]
    return torch.zeros(hidden.shape, device=positions.device).masked_fill_(hidden, -torch.inf)


def _project(layer: Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:meth:`Layer.project` of few tokens, in fewer calls: queries and keys are rotated as one.

    ``cos`` and ``sin`` ``[tokens, 1, w]`` are those of both halves, the sine of the first half negative.
    """
    x = F.linear(rms_norm(x, layer.attention_norm, layer.eps), layer.qkv, layer.qkv_bias)
    parts = x.view(len(x), -1, layer.head_width)
    ends = [layer.heads + layer.kv_heads, layer.kv_heads]
    qk, v = torch.split(parts, ends, dim=1)
    if layer.q_norm is not None and layer.k_norm is not None:
        q, k = qk[:, : layer.heads], qk[:, layer.heads :]
        qk = torch.cat((rms_norm(q, layer.q_norm, layer.eps), rms_norm(k, layer.k_norm, layer.eps)), dim=1)
    qk = torch.addcmul(qk * cos, qk.roll(layer.head_width // 2, -1), sin)
    return qk[:, : layer.heads], qk[:, layer.heads :], v


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of one token of each row over its cached conversation. Returns ``[rows, heads * w]``.

    The heads that share keys are the rows of one product.

    Args:
        q: ``[rows, heads, w]``.
        k: ``[rows, kv_heads, w, length]``.
        v: ``[rows, kv_heads, length, w]``.
        bias: ``[rows, 1, length]``, added to the scores.
    """
    rows, heads, width = q.shape
    kv_heads = k.shape[1]
    q = (q * width**-0.5).view(rows, kv_heads, heads // kv_heads, width)
    scores = (q @ k).add_(bias[:, None])
    return (scores.softmax(dim=-1) @ v).flatten(1)
