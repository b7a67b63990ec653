"""ALFWorld as the rest of the package knows it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from empg.config.base import Model, Positive
from empg.config.environments import DataSet, EnvironmentRegistration, Interface


class AlfworldSizes(Model):
    """Tasks written for each split. ``tune`` is for choosing hyperparameters and enters no report."""

    train: Positive = 2000
    valid_seen: Positive = 500
    valid_unseen: Positive = 500
    tune: Positive = 500


class AlfworldData(DataSet):
    """Games for ALFWorld: generated, or the official ones under ``$ALFWORLD_DATA/json_2.1.1``.

    The evaluation panels hold the generated tasks with the ids from ``panel_start`` on: another start, fresh panels.
    """

    type: Literal["alfworld"] = "alfworld"
    source: Literal["embedded", "official"] = "embedded"
    profile: Literal["small", "official"] = "small"
    seed: int = 0
    sizes: AlfworldSizes = AlfworldSizes()
    panel_start: Annotated[int, Field(ge=0)] = 0


class AlfworldInterface(Interface):
    """With ``history`` each turn shows the task, so many earlier turns and the admissible actions, as in the paper."""

    history: Positive | None = None


ENVIRONMENT = EnvironmentRegistration(
    data=AlfworldData,
    dataset="empg.environments.alfworld.dataset:AlfworldDataset",
    panels=("valid_seen", "valid_unseen"),
    interface=AlfworldInterface,
)
