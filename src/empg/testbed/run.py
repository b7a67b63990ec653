"""The stage ``testbed``: one part of it, ``gradients`` or ``learning``, as a Parquet table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from empg.config.testbed import TestbedRun
from empg.provenance import stage
from empg.testbed import gradients, learning


def run(config: TestbedRun, out: Path, *, progress: Callable[[int, int], None]) -> None:
    """Write ``out/gradients.parquet`` or ``out/learning.parquet``: a row for each measurement."""
    measure = {"gradients": gradients.measure, "learning": learning.measure}[config.part]
    with stage("testbed", config, out, inputs={}) as record:
        record.write_frame(measure(config, progress), f"{config.part}.parquet")
