"""Atomic writes: a reader sees the old file or the new one, never a part, even if the writer is killed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from empg.errors import DataError, EmpgError, StorageError

REFUSALS = {
    errno.ENOSPC: ("room to write", "a full disk"),
    errno.EDQUOT: ("room to write", "an exhausted quota"),
    errno.EFBIG: ("room to write", "a limit on the size of files"),
    errno.EROFS: ("a folder to write in", "a read-only file system"),
    errno.EACCES: ("a folder to write in", "one without permission to"),
    errno.EPERM: ("a folder to write in", "one without permission to"),
    errno.EIO: ("a disk to write on", "an input/output error"),
}
"""What a write that fails with this number expected and found."""
_FULL_BYTES = 64 << 10


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends without an error.

    Raises :class:`StorageError`, which names the file, where the disk refuses to be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with clear_refusals(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside ``path`` that takes its place when the block ends without an error.

    An older directory is removed first, so for a moment there is none. Raises :class:`StorageError`, which names the
    directory, where the disk refuses to be written.
    """
    with clear_refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        temporary.chmod(0o755)
    try:
        with clear_refusals(path):  # while the unfinished files still show how full the disk is
            yield temporary
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def clear_refusals(path: Path) -> Iterator[None]:
    """Turn what libraries raise for a disk that refuses to write ``path`` into one :class:`StorageError`."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        code = _refusal(error, path)
        if code is None:
            raise
        expected, found = REFUSALS[code]
        finished = "what was finished before is whole, and the same command goes on from there"
        raise StorageError(f"{path}: expected {expected}, found {found}; {finished}") from error


def _refusal(error: Exception, path: Path) -> int | None:
    """The number of a disk's refusal: as such, in a library's words, or by how full the disk is."""
    if isinstance(error, OSError) and error.errno is not None:
        ours = error.filename is None or str(path.parent) in str(error.filename)  # not a file that the block reads
        return error.errno if ours and error.errno in REFUSALS else None
    for code in REFUSALS:
        if f"os error {code})" in str(error):  # so do libraries in Rust: polars, safetensors, tokenizers
            return code
    with suppress(OSError):  # torch names no cause, and polars not always
        if not isinstance(error, EmpgError) and shutil.disk_usage(path.parent).free < _FULL_BYTES:
            return errno.ENOSPC
    return None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically: indented, with a final newline. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises :class:`DataError` that names the file when it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: expected a JSON file, found none") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of thousands of digits, too deep
        raise DataError(f"{path}: expected JSON, found {error}") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
