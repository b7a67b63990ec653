"""From a data set's settings to its tasks, whichever package registered its type."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from empg.config import ENVIRONMENTS, DataSet
from empg.config.environments import read_interface
from empg.environments.base import Dataset
from empg.registry import resolve


def open_dataset(data: DataSet, directory: Path, interface: Mapping[str, Any] | None = None) -> Dataset:
    """The data set whose files the data stage wrote to ``directory``, shown to agents as ``interface`` says."""
    dataset: Dataset = resolve(ENVIRONMENTS[data.type].dataset)(data, directory, read_interface(data, interface or {}))
    return dataset
