"""Packs ask for every masked token of every conversation, in order, and hold a common beginning once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from empg.policy.packing import Conversation, packs

CPU = torch.device("cpu")


def conversation(ids: str, mask: str) -> Conversation:
    """Ids are the letters' codes; "x" marks the tokens that the loss is about."""
    return Conversation(np.array([ord(c) for c in ids], dtype=np.int32), np.array([c == "x" for c in mask]))


CONVERSATIONS = [
    conversation("hello!", "..xx.x"),
    conversation("ab...", ".x..."),
    conversation("helping.", "...xxx.."),
    conversation("hello!", "..xx.x"),
]
TARGETS = "ll!" + "b" + "pin" + "ll!"


def text(ids: torch.Tensor) -> str:
    return "".join(map(chr, ids.tolist()))


def test_a_pack_by_hand():
    (pack,) = packs(CONVERSATIONS, 100, CPU)
    # A conversation ends before its last target: "hello", "a" and "helpi". In order: "a", "hello", "helpi".
    assert text(pack.tree.ids) == "a" + "hello" + "pi"
    assert pack.tree.positions.tolist() == [0, 0, 1, 2, 3, 4, 3, 4]
    # Questions: b after "a"; l after "he"; l and p after "hel"; i after "help"; ! after "hello"; n after "helpi".
    assert pack.asked.tolist() == [0, 2, 3, 5, 6, 7]
    assert pack.asked[pack.state].tolist() == [0, 2, 3, 3, 5, 6, 7]
    assert text(pack.target) == "bllp!in"
    assert text(pack.target[pack.question]) == TARGETS
    assert pack.rows == slice(0, 10)


def test_a_target_is_asked_for_after_all_that_precedes_it():
    (pack,) = packs(CONVERSATIONS, 100, CPU)
    before = {}  # the text up to each token of the tree
    for c, places in zip(CONVERSATIONS, pack.tree.places, strict=True):
        for length, place in enumerate(places, 1):
            assert before.setdefault(place, text(torch.from_numpy(c.ids[:length]))) == text(c.ids[:length])
    found = [before[int(place)] for place in pack.asked[pack.state[pack.question]]]
    assert found == ["he", "hel", "hello", "a", "hel", "help", "helpi", "he", "hel", "hello"]


@pytest.mark.parametrize("max_tokens", [1, 5, 6, 7, 8, 1000])
def test_any_limit_holds_every_target_once(max_tokens):
    made = list(packs(CONVERSATIONS, max_tokens, CPU))
    assert "".join(text(pack.target[pack.question]) for pack in made) == TARGETS
    assert [row for pack in made for row in range(10)[pack.rows]] == list(range(10))
    for pack in made:
        assert len(pack.tree.places) == 1 or len(pack.tree.ids) <= max_tokens
    # Distinct tokens count: "hello" and "a" are 6, with "helpi" 8, and "hello" again none.
    assert [len(pack.tree.places) for pack in made] == {
        1: [1, 1, 1, 1],
        5: [1, 1, 1, 1],
        6: [2, 1, 1],
        7: [2, 2],
        8: [4],
        1000: [4],
    }[max_tokens]


def test_no_conversations_are_no_packs():
    assert list(packs([], 10, CPU)) == []
