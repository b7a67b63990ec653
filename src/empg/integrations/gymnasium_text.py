"""The space of all texts, for gymnasium: any character, and vector environments that read it from shared memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, overload

import numpy as np
from gymnasium.spaces import Text
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory
from numpy.typing import NDArray

_CODE_POINTS = 0x110000
_SAMPLED = tuple(chr(code) for code in range(0x20, 0x7F))
_CODEC = ("utf-32-le", "surrogatepass")


class _Unicode(AbstractSet[str], Sequence[str]):
    """All characters, in the order of their code points, without a table of a million entries."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and len(value) == 1

    def __len__(self) -> int:
        return _CODE_POINTS

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(map(chr, range(*index.indices(_CODE_POINTS))))
        return chr(index)

    def __iter__(self) -> Iterator[str]:
        return map(chr, range(_CODE_POINTS))


class AnyText(Text):
    """All texts of at most ``max_length`` characters, whatever the characters. Samples are short and in ASCII."""

    def __init__(self, max_length: int, *, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(max_length, min_length=0, charset=frozenset(_SAMPLED), seed=seed)

    @property
    def character_set(self) -> Any:
        """Every character."""
        return _Unicode()

    @property
    def character_list(self) -> Any:
        """Every character at the place of its code point."""
        return _Unicode()

    def character_index(self, char: str) -> np.int32:
        """The character's code point."""
        return np.int32(ord(char))

    def contains(self, x: Any) -> bool:
        """Whether x is a text that is short enough."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A random text. Raises ValueError for a mask or probabilities, which would need a table of all characters."""
        if mask is not None or probability is not None:
            raise ValueError("AnyText.sample: expected neither mask nor probability")
        length = int(self.np_random.integers(1, min(self.max_length, 64) + 1))
        return "".join(self.np_random.choice(_SAMPLED, size=length))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText) and self.max_length == other.max_length

    __hash__ = None  # type: ignore[assignment]  # as all spaces: they are mutable

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"


class _SharedTexts(Sequence[str]):
    """The texts that worker processes write, read when they are asked for; a deep copy is a tuple of them.

    gymnasium 1.4 reads texts once, when the vector environment is made, and so shows none that is written later.
    """

    def __init__(self, codes: NDArray[np.int32]) -> None:
        self._codes = codes

    def __len__(self) -> int:
        return len(self._codes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        codes = self._codes[index]
        ends = np.flatnonzero(codes == _CODE_POINTS)
        text: str = codes[: ends[0] if len(ends) else len(codes)].tobytes().decode(*_CODEC)
        return text

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)


@create_shared_memory.register(AnyText)
def _create(space: AnyText, n: int = 1, ctx: Any = multiprocessing) -> Any:
    """Room for n texts, a 32-bit code for each character, each text ended by a code that no character has."""
    memory = ctx.Array("i", n * space.max_length)
    _codes(memory)[:: space.max_length] = _CODE_POINTS
    return memory


@read_from_shared_memory.register(AnyText)
def _read(space: AnyText, shared_memory: Any, n: int = 1) -> _SharedTexts:
    return _SharedTexts(_codes(shared_memory).reshape(n, space.max_length))


@write_to_shared_memory.register(AnyText)
def _write(space: AnyText, index: int, values: str, shared_memory: Any) -> None:
    row = _codes(shared_memory)[index * space.max_length : (index + 1) * space.max_length]
    row[: len(values)] = np.frombuffer(values.encode(*_CODEC), dtype="<i4")
    if len(values) < len(row):
        row[len(values)] = _CODE_POINTS


def _codes(memory: Any) -> NDArray[np.int32]:
    return np.frombuffer(memory.get_obj(), dtype=np.int32)
