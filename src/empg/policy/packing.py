"""Conversations in micro-batches, each a prefix tree: no padding goes through the network, and no beginning twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empg.policy.network import Network
from empg.policy.prefix_tree import PrefixTree, tree_portions


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids of a whole conversation and the mask of those in the loss, ``[tokens]`` both."""

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pack:
    """Conversations as a prefix tree. A question is a token of the tree and a token that may follow it.

    Conversations that agree up to a masked token ask the same question about it, which is answered once.
    """

    tree: PrefixTree
    asked: Tensor  # [asked]: the tokens of the tree, ascending, whose hidden states are needed
    state: Tensor  # [questions]: the place of its hidden state among those asked for
    target: Tensor  # [questions]: the ids of the tokens that may follow
    question: Tensor  # [targets]: the question of each masked token, in the order of conversations and tokens
    rows: slice  # where this pack's masked tokens are in the per-token tensors of the batch

    @classmethod
    def of(cls, conversations: Sequence[Conversation], first: int, device: torch.device) -> Pack:
        """The pack of some conversations, before which the batch has ``first`` masked tokens."""
        targets = [np.flatnonzero(c.mask) for c in conversations]
        tree = PrefixTree.of([c.ids[: t[-1]] for c, t in zip(conversations, targets, strict=True)], device)
        place = np.concatenate([p[t - 1] for p, t in zip(tree.places, targets, strict=True)])
        follows = np.concatenate([c.ids[t] for c, t in zip(conversations, targets, strict=True)])
        questions, question = np.unique(place << 32 | follows, return_inverse=True)
        asked, state = np.unique(questions >> 32, return_inverse=True)
        places, states, target, of_target = (
            torch.from_numpy(x).to(device) for x in (asked, state, questions & 0xFFFFFFFF, question)
        )
        return cls(tree, places, states, target, of_target, slice(first, first + len(follows)))

    def statistics(self, network: Network, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probability and Shannon entropy (nats) of each masked token, ``[targets]``, with gradients."""
        hidden = network(self.tree, self.asked)[self.state]
        answers = network.statistics(hidden, self.target, temperature)
        logprob, entropy = (x[self.question] for x in answers)
        return logprob, entropy

    @torch.no_grad()
    def renyi2(self, network: Network, temperature: float = 1.0) -> Tensor:
        """Rényi-2 entropy (nats) of the distribution of each masked token, ``[targets]``, without gradient."""
        hidden = network(self.tree, self.asked)
        return network.renyi2(hidden, temperature)[self.state][self.question]


def packs(conversations: Sequence[Conversation], max_tokens: int, device: torch.device) -> Iterator[Pack]:
    """The conversations in order, in packs of at most ``max_tokens`` distinct tokens and at least one conversation.

    A conversation ends before its last masked token: no target depends on what comes after.
    """
    first = 0
    inputs = [c.ids[: np.flatnonzero(c.mask)[-1]] for c in conversations]
    for portion in tree_portions(inputs, max_tokens):
        pack = Pack.of(conversations[portion], first, device)
        yield pack
        first = pack.rows.stop
