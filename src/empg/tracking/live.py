"""Live curves: a running stage logs its metrics to MLflow."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from empg.config import Model
from empg.tracking.database import DATABASE, uri
from empg.tracking.system_metrics import save, start_monitor, system_history
from empg.tracking.tracker import MILLISECONDS_A_STEP, Identity, Tracker

FLUSH_SECONDS = 2.0

Metrics = Mapping[str, float | None]


class _Curves:
    """Logs one stage's metrics in batches. Metrics that MLflow has not taken yet wait for the next batch."""

    def __init__(self, study: Path, stage: str, config: Mapping[str, Any]) -> None:
        self.tracker = Tracker(study)
        identity = Identity.of(stage, config)
        self.stage, self.run = stage, self.tracker.resume(identity, config)
        self.system = self.tracker.system_file(identity)
        self.end_monitor = start_monitor(self.run, uri(self.tracker.root))
        self.waiting: list[Any] = []
        self.flushed = time.monotonic()

    def log(self, step: int, metrics: Metrics) -> None:
        from mlflow.entities import Metric

        time_of_step = self.run.info.start_time + MILLISECONDS_A_STEP * step
        named = {f"{self.stage}/{key}": value for key, value in metrics.items() if value is not None}
        self.waiting += [Metric(key, float(value), time_of_step, step) for key, value in named.items()]
        if time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        self.flushed = time.monotonic()
        while self.waiting:
            self.tracker.client.log_batch(self.run.info.run_id, metrics=self.waiting[:1000])
            del self.waiting[:1000]

    def close(self, status: str) -> None:
        self.end_monitor()
        self.flush()
        save(system_history(self.tracker.client, self.run.info.run_id), self.system)
        self.tracker.client.set_terminated(self.run.info.run_id, status)


@contextmanager
def live(study: Path, stage: str, config: Model) -> Iterator[Callable[[int, Metrics], None]]:
    """Yields ``log(step, metrics)``, which shows a running stage's curves in MLflow.

    If MLflow fails, stderr has one line about it and the stage goes on.
    :func:`~empg.tracking.rebuild.rebuild` logs the missing curves later.
    """
    curves: list[_Curves] = []

    def guarded(what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:  # no failure of MLflow may cost a result
            print(
                f"{study.parent / DATABASE}: no more live curves, `empg track` will log them: {error}", file=sys.stderr
            )
            curves.clear()

    def log(step: int, metrics: Metrics) -> None:
        if curves:
            guarded(lambda: curves[0].log(step, metrics))

    def close(status: str) -> None:
        if curves:
            guarded(lambda: curves[0].close(status))

    guarded(lambda: curves.append(_Curves(study, stage, config.model_dump(mode="json"))))
    try:
        yield log
    except BaseException as error:
        close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    close("FINISHED")
