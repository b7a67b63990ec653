"""The MLflow database: SQLite beside the results."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from empg.locks import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
LOCK_SECONDS = 60  # how long a writer waits for the others


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
