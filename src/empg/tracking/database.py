"""The MLflow database: SQLite beside the results."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from empg.errors import StorageError
from empg.locks import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
LOCK_SECONDS = 60  # how long a writer waits for the others
REFUSALS = {
    "database is locked": f"one that another program has held for {LOCK_SECONDS} seconds",
    "database or disk is full": "a full disk",
    "attempt to write a readonly database": "one that is read-only",
}
"""What SQLite says of a database that it cannot write, and what was found."""


def uri(root: Path) -> str:
    """The address of the database under ``root``, the folder that holds all studies' results."""
    return f"sqlite:///{(root / DATABASE).resolve()}?timeout={LOCK_SECONDS}"


def create(root: Path) -> None:
    """Create the database's tables if there are none. A lock lets one process do so, since several at once fail."""
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / f".{DATABASE}.lock"):
        connect(root).search_experiments(max_results=1)


def connect(root: Path) -> MlflowClient:
    """A client of the database under ``root``."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ASYNC_TRACE_LOGGING_MAX_WORKERS", "1")  # several only wait for each other's locks
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # importing mlflow sets a level of its own
    return MlflowClient(tracking_uri=uri(root))


def set_aside_if_damaged(root: Path) -> None:
    """Rename a database that SQLite cannot read, and say so, since all of it can be written anew from the results."""
    path = root / DATABASE
    found = _damage(path) if path.exists() else None
    if found is None:
        return
    names = (f"{DATABASE}.damaged{number}" for number in range(1, 1000))
    aside = next(root / name for name in names if not (root / name).exists())
    path.rename(aside)
    for suffix in ("-journal", "-wal", "-shm"):
        path.with_name(DATABASE + suffix).unlink(missing_ok=True)  # belongs to no other database
    other = "`empg track --results results/STUDY` brings back each other study"
    print(f"{path}: damaged ({found}); it is {aside.name} now, and {other}", file=sys.stderr)


def _damage(path: Path) -> str | None:
    """What SQLite finds wrong; None for a whole database, or one that another program holds."""
    try:
        with closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as connection:
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else found.splitlines()[-1]


@contextmanager
def clear_errors(root: Path) -> Iterator[None]:
    """Turn what MLflow raises for a database that cannot be written into :class:`StorageError`."""
    try:
        yield
    except Exception as error:
        found = next((found for words, found in REFUSALS.items() if words in str(error)), None)
        if found is None:
            raise
        again = "no result is lost, and the same command goes on"
        raise StorageError(f"{root / DATABASE}: expected a database to write in, found {found}; {again}") from error
