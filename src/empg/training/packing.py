"""Conversations packed end to end, and split into micro-batches: no padding goes through the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empg.core.entropy import token_renyi2, token_statistics
from empg.policy.transformer import Transformer, portions


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids ``[tokens]`` of a whole conversation and which of them the loss is about."""

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pack:
    """Conversations end to end. ``target`` indexes the masked tokens in the pack; ``first`` is where they start among
    all masked tokens of the batch, whose per-token tensors this pack's slice is ``[first : first + len(target)]``."""

    ids: Tensor
    lengths: list[int]
    target: Tensor
    first: int

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + len(self.target))

    def statistics(self, network: Transformer, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy (nats) of each masked token, ``[targets]``, with gradients."""
        hidden = network(self.ids, self.lengths, self.target - 1)
        return token_statistics(hidden, network.output_weight, self.ids[self.target], temperature=temperature)

    @torch.no_grad()
    def renyi2(self, network: Transformer, temperature: float = 1.0) -> Tensor:
        """Rényi-2 entropy (nats) of the distribution of each masked token, ``[targets]``, without gradient."""
        hidden = network(self.ids, self.lengths, self.target - 1)
        return token_renyi2(hidden, network.output_weight, temperature=temperature)


def packs(conversations: Sequence[Conversation], max_tokens: int, device: torch.device) -> Iterator[Pack]:
    """The conversations in order, as packs of at most ``max_tokens`` tokens (one conversation at least).

    A conversation ends with its last masked token: what comes after is not looked at by any target.
    """
    first = 0
    lengths = [int(np.flatnonzero(c.mask)[-1]) + 1 for c in conversations]
    for portion in portions(lengths, max_tokens):
        part = list(zip(conversations[portion], lengths[portion], strict=True))
        ids = np.concatenate([c.ids[:n] for c, n in part]).astype(np.int64)
        mask = np.concatenate([c.mask[:n] for c, n in part])
        target = torch.from_numpy(np.flatnonzero(mask)).to(device)
        yield Pack(torch.from_numpy(ids).to(device), lengths[portion], target, first)
        first += len(target)
