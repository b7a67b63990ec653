"""What a data set's type stands for: its environment, tasks and demonstrations.

An environment's modules import no other environment's, so a stage depends on the source of its own environment only.
"""

from __future__ import annotations

from pathlib import Path

from empg.config import AlfworldData, Data, WebshopData
from empg.environments.base import Dataset


def open_dataset(data: Data, directory: Path) -> Dataset:
    """The data set whose files the data stage wrote to ``directory``."""
    if isinstance(data, AlfworldData):
        from empg.environments.alfworld.dataset import AlfworldDataset

        return AlfworldDataset(data, directory)
    if isinstance(data, WebshopData):
        from empg.environments.webshop.dataset import WebshopDataset

        return WebshopDataset(data, directory)
    from empg.environments.deepsearch.dataset import DeepsearchDataset

    return DeepsearchDataset(data, directory)
