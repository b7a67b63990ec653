"""Locks that the operating system releases, also those of a process that is killed."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from empg.errors import StorageError

WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(file: Path, waiting: str = "") -> Iterator[None]:
    """Hold the lock ``file``. Where another process holds it, print ``waiting`` to stderr and wait.

    Raises :class:`StorageError` on a file system without locks.
    """
    # A lock by a file's mere existence would outlive a killed process, so there is no falling back to one.
    lock = FileLock(file, fallback_to_soft=False)
    with locks_needed(file.parent):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting:
                print(waiting, file=sys.stderr, flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locks_needed(folder: Path) -> Iterator[None]:
    """Turn the refusal of a file system without locks into a message. Two processes would mix their results there."""
    try:
        yield
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        found = f"found one without ({os.strerror(error.errno)}); move the project to another disk"
        raise StorageError(f"{folder}: expected a file system with locks (flock), {found}") from error
