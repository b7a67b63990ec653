"""Model files are read by other libraries, which raise what they like when a file is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from empg.errors import DataError, EmpgError

LONGEST = 1000  # characters of a library's message, of which the first line is shown


@contextmanager
def reading(where: object, expected: str) -> Iterator[None]:
    """Raise :class:`DataError` for whatever a library raises within.

    ``where`` is what the message begins with.

    `tokenizers` raises plain ``Exception``, and a panic of Rust is no ``Exception`` at all, nor importable.
    """
    try:
        yield
    except EmpgError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error).strip().partition("\n")[0][:LONGEST]
        raise DataError(f"{where}: expected {expected}, found {type(error).__name__}: {reason}") from None
