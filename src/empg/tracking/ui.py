"""Serves MLflow's page quietly: one process, no background jobs, and the addresses of the studies once it answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from empg.errors import DataError
from empg.tracking.database import DATABASE, connect, uri
from empg.tracking.experiment import POLICIES, address, views

HOST = "127.0.0.1"
TIMEOUT = 300  # seconds until the server must answer
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # judges and prompt optimisation, which nothing here uses
    "PYTHONWARNINGS": "ignore",  # of MLflow about its own imports
}


def serve(results: Path, port: int) -> None:
    """Serve the database under ``results`` until Ctrl-C, and print the address of each study when it answers.

    Raises :class:`DataError` when there is no database or the server ends by itself.
    """
    if not (results / DATABASE).exists():
        raise DataError(f"{results / DATABASE}: expected MLflow's database, found none; `empg track` makes it")
    print("MLflow is starting; Ctrl-C ends it.", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the server too
    options = ["--workers", "1", "--uvicorn-opts", "--log-level warning"]
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), *options]
    (results / "logs").mkdir(exist_ok=True)
    with (results / "logs" / "mlflow.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--backend-store-uri", uri(results)], env=os.environ | QUIET, stdout=log, stderr=log
        )
    try:
        studies = addresses(results, port)
        _wait(server, port, log.name)
        print("\n".join(studies), flush=True)
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()
        server.wait()


def addresses(results: Path, port: int) -> list[str]:
    """A line for each study: its name and the address of its table of trained policies."""
    lines = []
    for experiment in connect(results).search_experiments():
        study = results / experiment.name
        if (study / "config" / "study.json").exists():
            (view,) = [view for view in views(study) if view.name == POLICIES]
            lines.append(f"{experiment.name}: http://{HOST}:{port}/{address(experiment.experiment_id, view)}")
    return lines


def _wait(server: subprocess.Popen[bytes], port: int, log: str) -> None:
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        if server.poll() is not None:
            raise DataError(f"port {port}: expected MLflow's server, found that it ended; its messages are in {log}")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise DataError(f"port {port}: expected an answer within {TIMEOUT} seconds, found none; messages are in {log}")
