"""Conversations packed end to end and split into micro-batches, so that no padding goes through the network."""

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
    """Token ids of a whole conversation and the mask of those in the loss, ``[tokens]`` both."""

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pack:
    """Conversations end to end."""

    ids: Tensor  # [tokens]
    lengths: list[int]  # of the conversations
    target: Tensor  # [targets]: where the masked tokens are in ``ids``
    first: int  # how many masked tokens of the batch come in earlier packs

    @property
    def rows(self) -> slice:
        """Where this pack's masked tokens are in the per-token tensors of the batch."""
        return slice(self.first, self.first + len(self.target))

    def statistics(self, network: Transformer, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probability and Shannon entropy (nats) of each masked token, ``[targets]``, with gradients."""
        hidden = network(self.ids, self.lengths, self.target - 1)
        return token_statistics(hidden, network.output_weight, self.ids[self.target], temperature=temperature)

    @torch.no_grad()
    def renyi2(self, network: Transformer, temperature: float = 1.0) -> Tensor:
        """Rényi-2 entropy (nats) of the distribution of each masked token, ``[targets]``, without gradient."""
        hidden = network(self.ids, self.lengths, self.target - 1)
        return token_renyi2(hidden, network.output_weight, temperature=temperature)


def packs(conversations: Sequence[Conversation], max_tokens: int, device: torch.device) -> Iterator[Pack]:
    """The conversations in order, in packs of at most ``max_tokens`` tokens and at least one conversation.

    Tokens after the last masked one of a conversation are left out: no target depends on them.
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
