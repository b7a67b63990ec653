"""A prefix tree holds each distinct beginning once, and its sequences can be read back from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from empg.policy.prefix_tree import PrefixTree, tree_portions

CPU = torch.device("cpu")
# Few tokens, so that beginnings are often the same; one of two bytes, so that an order by bytes must be one by tokens.
TOKENS = st.sampled_from([0, 1, 2, 300])
SEQUENCES = st.lists(
    st.lists(TOKENS, min_size=1, max_size=6).map(lambda x: np.array(x, np.int32)), min_size=1, max_size=8
)


def beginnings(sequences) -> set[tuple[int, ...]]:
    return {tuple(s[:n].tolist()) for s in sequences for n in range(1, len(s) + 1)}


@given(SEQUENCES)
def test_every_sequence_is_a_path_and_every_beginning_one_token(sequences):
    tree = PrefixTree.of(sequences, CPU)
    assert len(tree.ids) == len(beginnings(sequences))
    for sequence, places in zip(sequences, tree.places, strict=True):
        assert tree.ids[places].tolist() == sequence.tolist()
        assert tree.positions[places].tolist() == list(range(len(sequence)))


@given(SEQUENCES)
def test_branches_add_every_token_once_and_end_with_what_they_add(sequences):
    tree = PrefixTree.of(sequences, CPU)
    added = []
    for path, count in zip(tree.paths.split(tree.lengths), tree.added, strict=True):
        assert tree.positions[path].tolist() == list(range(len(path)))
        assert count > 0
        added += path[-count:].tolist()
    assert added == list(range(len(tree.ids)))


@given(SEQUENCES, st.integers(1, 30))
def test_portions_are_as_large_as_the_limit_lets_them_be(sequences, most):
    portions = list(tree_portions(sequences, most))
    assert [n for portion in portions for n in range(len(sequences))[portion]] == list(range(len(sequences)))
    for portion in portions:
        assert len(beginnings(sequences[portion])) <= most or portion.stop - portion.start == 1
        if portion.stop < len(sequences):
            assert len(beginnings(sequences[portion.start : portion.stop + 1])) > most


@pytest.mark.parametrize("wanted", [None, [0, 2, 3, 5]])
def test_the_queries_of_a_tree_by_hand(wanted):
    tree = PrefixTree.of([np.array(s, np.int32) for s in ([1, 2, 3], [1, 2, 4, 5], [6])], CPU)
    assert tree.ids.tolist() == [1, 2, 3, 4, 5, 6]
    runs = tree.runs(torch.float32, None if wanted is None else torch.tensor(wanted))
    # What each query sees of its branch, whose tokens are 1 2 3, then 1 2 4 5, then 6.
    seen = [(run.branch, row) for run in runs for row in (run.mask == 0).sum(1).tolist()]
    everything = [(0, 1), (0, 2), (0, 3), (1, 3), (1, 4), (2, 1)]
    assert seen == [everything[n] for n in (wanted or range(6))]
