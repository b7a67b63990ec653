"""What training, scoring and sampling need of a network, whoever wrote its forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from empg.core.entropy import token_renyi2, token_statistics
from empg.policy.prefix_tree import PrefixTree


class ConversationCache(Protocol):
    """Keys and values of many conversations, one a row."""

    @property
    def length(self) -> int:
        """Tokens that a row has room for."""

    def select(self, rows: Tensor, /) -> None:
        """Keep these rows, in this order (a row may occur several times)."""

    def grow(self, length: int, /) -> None:
        """Make room for at least ``length`` tokens a row."""

    def prefill(
        self, token_ids: Tensor, lengths: Sequence[int], start: Sequence[int], rows: Sequence[int], /
    ) -> Tensor:
        """:func:`empg.policy.decoding.prefill` into this cache."""

    def decode(self, token_ids: Tensor, start: Tensor, /) -> Tensor:
        """:func:`empg.policy.decoding.decode` into this cache."""


class Network(nn.Module):
    """A causal language model: hidden states of a prefix tree's tokens, and a head over the vocabulary.

    The head is one matrix, ``output_weight``, unless a subclass overrides the methods that use it.
    """

    gradient_checkpointing: bool

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.output_weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its hidden states."""
        return self.output_weight.dtype

    @property
    def output_weight(self) -> Tensor:
        """The head, ``[vocabulary, width]``."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Numbers in a hidden state."""
        return self.output_weight.shape[1]

    @property
    def max_positions(self) -> int:
        """The longest conversation, in tokens."""
        raise NotImplementedError

    def matrices(self) -> list[nn.Parameter]:
        """The parameters that Muon may train: the layers' matrices."""
        raise NotImplementedError

    def freeze_embeddings(self) -> None:
        """Keep the tokens' embeddings, and the head where it is another matrix, as they are."""
        raise NotImplementedError

    def open_cache(self, rows: int, length: int) -> ConversationCache:
        """An empty cache for so many conversations; :func:`empg.policy.decoding.open_cache` has that of our own."""
        raise NotImplementedError

    def save(self, config: dict[str, Any], folder: Path) -> None:
        """Write a Hugging Face folder, ``config`` being that of the folder which the network was loaded from.

        Our own network's is :func:`empg.policy.weights.save_transformer`.
        """
        raise NotImplementedError

    def states(self, token_ids: Tensor) -> Tensor:
        """Final hidden states ``[tokens, width]`` of one sequence, ``token_ids`` ``[tokens]``."""
        return cast("Tensor", self(PrefixTree.of([token_ids.cpu().numpy()], token_ids.device)))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``[tokens, vocabulary]`` of final hidden states ``[tokens, width]``, in float32."""
        return (hidden @ self.output_weight.T).float()

    def statistics(self, hidden: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """:func:`empg.core.entropy.token_statistics` of final hidden states."""
        return token_statistics(hidden, self.output_weight, target, temperature=temperature)

    def renyi2(self, hidden: Tensor, temperature: float) -> Tensor:
        """:func:`empg.core.entropy.token_renyi2` of final hidden states."""
        return token_renyi2(hidden, self.output_weight, temperature=temperature)
