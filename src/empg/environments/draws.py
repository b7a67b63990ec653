"""Random draws that are the same on every machine: only ``Random.random`` is promised to be so in every version."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


def pick(rng: Random, items: Sequence[T]) -> T:
    """One of the items, each as likely."""
    return items[int(rng.random() * len(items))]


def between(rng: Random, least: int, greatest: int) -> int:
    """A whole number in [least, greatest], each as likely."""
    return least + int(rng.random() * (greatest - least + 1))


def shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    """The items in a random order."""
    keys = [rng.random() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]
