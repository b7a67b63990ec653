"""What the benchmarks compute beside time: counted operations, turns, targets, and the page's table."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def sizes():
    return importlib.import_module("benchmarks.sizes")


def test_the_counted_products_are_those_that_the_forward_pass_computes(sizes):
    network, batch = sizes.Size(32, 3, 4, 2, 48).network(), sizes.made_up(200, 4)
    (pack,) = sizes.packs(batch.conversations[:4], 16_384, torch.device("cpu"))
    assert len(pack.asked) < sizes.FEW * len(pack.tree.ids), "the last layer computes only what is asked for"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pack.statistics(network)
    counts = counter.get_flop_counts()["Global"]
    a, keys = network.architecture, pack.tree.positions + 1
    attended = 2 * float(keys.sum()) + float(keys[pack.asked].sum())
    attention = 4 * a.heads * a.head_width * attended
    expected = sizes.products(a, pack) - attention
    found = sum(value for op, value in counts.items() if op in (torch.ops.aten.mm, torch.ops.aten.addmm))
    assert found == expected


def test_the_made_up_groups_share_an_opening(sizes):
    batch = sizes.made_up(500, 4)
    opening = [c.ids[:125].tolist() for c in batch.conversations]
    assert opening[:4] == [opening[0]] * 4
    assert opening[4] != opening[0]


def test_sides_take_turns_and_the_first_turn_does_not_count():
    measure = importlib.import_module("benchmarks.measure")
    calls = []
    taken = measure.in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert [len(values) for values in taken.values()] == [2, 2]
    assert measure.times(np.array([2.0, 9.0, 4.0]), np.array([1.0, 1.0, 4.0])) == 2.0


def test_a_missed_target_is_said():
    measure, page = (importlib.import_module(f"benchmarks.{name}") for name in ("measure", "page"))
    lines = [
        measure.Line("a", "1", "2", 3.0, target=3.0),
        measure.Line("b", "1", "2", 2.9, target=3.0),
        measure.Line("c", "1", "2", 0.021, target=0.02, at_most=True),
        measure.Line("d", "1", "2", 1234.5),
    ]
    ends = [row.split("|")[-3:-1] for row in map(page.row, lines)]
    assert ends == [
        [" 3.00 ", " ≥ 3: holds "],
        [" 2.90 ", " ≥ 3: **missed** "],
        [" 2.1% ", " ≤ 2%: **missed** "],
        [" 1,234 ", "  "],
    ]


def test_an_unfinished_study_is_named(tmp_path, monkeypatch):
    measure = importlib.import_module("benchmarks.measure")
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="expected the finished default study, found none"):
        measure.DefaultStudy.read(tmp_path, tmp_path)
