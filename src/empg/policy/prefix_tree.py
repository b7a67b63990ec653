"""Token sequences as a prefix tree, so that the network computes what several of them begin with once.

Episodes of a group begin alike: the same opening, often the same first steps. A hidden state depends on the tokens
before it and on nothing else. So sequences with a common beginning share its hidden states, its keys and values, and in
the backward pass the sum of their gradients. The result is that of the sequences one by one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 — its customary name

# Queries that attend at once on a CPU. Their keys end with the last of them, so that short runs compute little that the
# causal mask discards. A GPU prefers few large products.
RUN = 128


class Run(NamedTuple):
    """Queries that are computed together: some tokens of one branch, in order."""

    branch: int
    mask: Tensor  # [queries, keys], added to the scores; the keys are the branch's first tokens


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """Distinct tokens of sequences in depth-first order: two tokens are one where all before them is equal too.

    A branch is a sequence that adds tokens to those before it. It adds its last ones; they lie side by side.
    """

    ids: Tensor  # [tokens]
    positions: Tensor  # [tokens]: in their sequence
    paths: Tensor  # [the branches' lengths together]: where all tokens of each branch are in ``ids``
    lengths: list[int]  # of the branches, with what they share
    added: list[int]  # tokens that each branch adds
    places: list[NDArray[np.int64]]  # of each given sequence: where its tokens are in ``ids``

    @classmethod
    def of(cls, sequences: Sequence[NDArray[np.int32]], device: torch.device) -> PrefixTree:
        """The tree of sequences of token ids, ``[length]`` each, of which one or more are not empty."""
        keys = [sort_key(sequence) for sequence in sequences]
        places: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(sequences)
        before, path = b"", np.empty(0, np.int64)
        paths, ids, positions, size = [], [], [], 0
        # In this order, a sequence has the most in common with the one before it.
        for number in sorted(range(len(sequences)), key=keys.__getitem__):
            sequence, shared = sequences[number], common(before, keys[number])
            new = len(sequence) - shared
            path = np.concatenate([path[:shared], np.arange(size, size + new)])
            places[number], before = path, keys[number]
            if new:
                paths.append(path)
                ids.append(sequence[shared:])
                positions.append(np.arange(shared, len(sequence)))
            size += new
        tokens, depths, where = (
            torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device) for parts in (ids, positions, paths)
        )
        lengths, added = ([len(part) for part in parts] for parts in (paths, ids))
        return cls(tokens, depths, where, lengths, added, places)

    def runs(self, dtype: torch.dtype, wanted: Tensor | None = None) -> list[Run]:
        """The queries of all tokens, or of the ``wanted`` ones (``[queries]``, ascending places in ``ids``)."""
        device = self.ids.device
        longest = RUN if device.type == "cpu" else len(self.ids)
        depths, counts = self.positions, self.added
        if wanted is not None:
            ends = torch.tensor(self.added, device=device).cumsum(0)
            depths, counts = depths[wanted], torch.searchsorted(wanted, ends).diff(prepend=ends.new_zeros(1)).tolist()
        keys = torch.arange(max(self.lengths), device=device)
        return [
            Run(branch, causal_mask(run, keys[: int(run[-1]) + 1], dtype))
            for branch, part in enumerate(torch.split(depths, counts))
            for run in torch.split(part, longest)
            if len(run)
        ]

    def attention(self, q: Tensor, k: Tensor, v: Tensor, runs: Sequence[Run]) -> Tensor:
        """Causal attention of each query over its own branch, ``[queries, heads * w]``.

        Args:
            q: ``[queries, heads, w]``, those of ``runs``.
            k: ``[tokens, kv_heads, w]``.
            v: alike.
            runs: from :meth:`runs`.
        """
        keys, values = (
            torch.split(t.index_select(0, self.paths).transpose(0, 1)[None], self.lengths, dim=2) for t in (k, v)
        )
        queries = torch.split(q.transpose(0, 1)[None], [len(run.mask) for run in runs], dim=2)
        grouped = q.shape[1] > k.shape[1]
        by_products = q.dtype == torch.bfloat16 and q.device.type == "cpu"
        attended = [q[:0]]  # there may be no query
        for q_i, (branch, mask) in zip(queries, runs, strict=True):
            k_i, v_i = (t[branch][:, :, : mask.shape[1]] for t in (keys, values))
            if by_products:
                found = attend_by_products(q_i[0], k_i[0], v_i[0], mask)
            else:
                found = F.scaled_dot_product_attention(q_i, k_i, v_i, mask, enable_gqa=grouped)[0]
            attended.append(found.transpose(0, 1))
        return torch.cat(attended).flatten(1)


def attend_by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention ``[heads, queries, w]`` as two products and a softmax. Heads that share keys are the rows of one.

    In bfloat16 on a CPU this is three times as fast, forward and backward, as ``scaled_dot_product_attention``, whose
    kernel computes in float32. The scores are rounded to bfloat16, as they are in decoding.

    Args:
        q: ``[heads, queries, w]``.
        k: ``[kv_heads, keys, w]``.
        v: alike.
        mask: ``[queries, keys]``, added to the scores.
    """
    heads, queries, width = q.shape
    kv_heads = len(k)
    together = (q * width**-0.5).reshape(kv_heads, -1, width)
    scores = (together @ k.transpose(1, 2)).view(heads, queries, -1) + mask
    weights = scores.softmax(dim=-1).view(kv_heads, -1, scores.shape[-1])
    attended: Tensor = weights @ v
    return attended.view(heads, queries, width)


def tree_portions(sequences: Sequence[NDArray[np.int32]], most: int) -> Iterator[slice]:
    """Slices of consecutive sequences whose tree has at most ``most`` tokens; a longer sequence has its own slice."""
    start, size = 0, 0
    keys: list[bytes] = []  # of the slice's sequences, ascending
    for number, sequence in enumerate(sequences):
        key = sort_key(sequence)
        place = bisect_left(keys, key)
        added = len(sequence) - max((common(key, near) for near in keys[max(place - 1, 0) : place + 1]), default=0)
        if keys and size + added > most:
            yield slice(start, number)
            start, size, keys, place, added = number, 0, [], 0, len(sequence)
        keys.insert(place, key)
        size += added
    if keys:
        yield slice(start, len(sequences))


def sort_key(sequence: NDArray[np.int32]) -> bytes:
    """Bytes whose order is the lexicographic order of sequences."""
    return sequence.astype(">i4").tobytes()


def common(a: bytes, b: bytes) -> int:
    """How many tokens two sequences, given by their sort keys, have in common before they differ."""
    n = min(len(a), len(b)) // 4
    different = np.flatnonzero(np.frombuffer(a, ">i4", n) != np.frombuffer(b, ">i4", n))
    return int(different[0]) if len(different) else n


def causal_mask(depths: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to the scores of queries at ``depths`` ``[queries]`` and ``keys`` ``[keys]``, depths alike."""
    hidden = keys > depths[:, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=keys.device).masked_fill_(hidden, -torch.inf)
