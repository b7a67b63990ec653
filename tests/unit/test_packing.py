"""Packs hold every conversation once, in order, without padding, and know which tokens are theirs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from empg.training.packing import Conversation, packs

CPU = torch.device("cpu")


def conversation(first: int, mask: str) -> Conversation:
    """Ids first, first + 1, …; "x" marks the tokens that the loss is about."""
    return Conversation(np.arange(first, first + len(mask), dtype=np.int32), np.array([c == "x" for c in mask]))


CONVERSATIONS = [conversation(100, "..xx.x"), conversation(200, ".x..."), conversation(300, "...xxx..")]


def test_a_pack_by_hand():
    first, second = packs(CONVERSATIONS, 8, CPU)
    # Tokens after a conversation's last target are left out: 6, 2 and 6 tokens remain.
    assert first.ids.tolist() == [100, 101, 102, 103, 104, 105, 200, 201]
    assert first.lengths == [6, 2]
    assert first.target.tolist() == [2, 3, 5, 7]
    assert first.rows == slice(0, 4)
    assert second.ids.tolist() == [300, 301, 302, 303, 304, 305]
    assert second.target.tolist() == [3, 4, 5]
    assert second.rows == slice(4, 7)
    assert first.ids.dtype == torch.int64


@pytest.mark.parametrize("max_tokens", [1, 2, 6, 7, 8, 13, 14, 1000])
def test_any_limit_holds_every_target_once(max_tokens):
    made = list(packs(CONVERSATIONS, max_tokens, CPU))
    targets = torch.cat([pack.ids[pack.target] for pack in made])
    assert targets.tolist() == [102, 103, 105, 201, 303, 304, 305]
    rows = [row for pack in made for row in range(7)[pack.rows]]
    assert rows == list(range(7))
    for pack in made:
        assert sum(pack.lengths) == len(pack.ids)
        assert len(pack.lengths) == 1 or len(pack.ids) <= max_tokens
    assert len(made) == {1: 3, 2: 3, 6: 3, 7: 3, 8: 2, 13: 2, 14: 1, 1000: 1}[max_tokens]


def test_no_conversations_are_no_packs():
    assert list(packs([], 10, CPU)) == []
