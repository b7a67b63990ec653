"""Random draws that are the same on every machine.

They use ``Random.random`` alone: its sequence is the only one that Python promises to keep in every version.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


def pick(rng: Random, items: Sequence[T]) -> T:
    """One of the items, drawn uniformly. Raises IndexError if there is none."""
    return items[int(rng.random() * len(items))]


def between(rng: Random, least: int, greatest: int) -> int:
    """A whole number, drawn uniformly from [least, greatest]."""
    return least + int(rng.random() * (greatest - least + 1))


def shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    """The items in a random order, drawn uniformly."""
    keys = [rng.random() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]
