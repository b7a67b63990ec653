"""Data sets: the entries of ``config/data.yaml``, which DVC owns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from empg.config.base import Model, Positive


class Sizes(Model):
    """Tasks written for each split. ``tune`` is for choosing hyperparameters and enters no report."""

    train: Positive = 2000
    valid_seen: Positive = 500
    valid_unseen: Positive = 500
    tune: Positive = 500


class AlfworldData(Model):
    """Games for ALFWorld: generated, or the official ones under ``$ALFWORLD_DATA/json_2.1.1``.

    The evaluation panels hold the generated tasks with the ids from ``panel_start`` on: another start, fresh panels.
    """

    type: Literal["alfworld"] = "alfworld"
    source: Literal["embedded", "official"] = "embedded"
    profile: Literal["small", "official"] = "small"
    seed: int = 0
    sizes: Sizes = Sizes()
    panel_start: Annotated[int, Field(ge=0)] = 0


class ShopSizes(Model):
    """Goals written for each split; the splits share no product. ``tune`` enters no report."""

    train: Positive = 2000
    valid: Positive = 500
    test: Positive = 500
    tune: Positive = 500


class WebshopData(Model):
    """A shop and goals for WebShop: generated, or made from upstream's own files under ``$WEBSHOP_DATA``."""

    type: Literal["webshop"]
    source: Literal["embedded", "official"] = "embedded"
    seed: int = 0
    sizes: ShopSizes = ShopSizes()
    panel_start: Annotated[int, Field(ge=0)] = 0


class QuestionSizes(Model):
    """Questions written for each split: in distribution (``id``) and out of it (``ood``). ``tune`` enters no report."""

    train: Positive = 2000
    id: Positive = 500
    ood: Positive = 500
    tune: Positive = 500


class DeepsearchData(Model):
    """A corpus and questions for Deep Search: generated, or the user's own files under ``$DEEPSEARCH_DATA``."""

    type: Literal["deepsearch"]
    source: Literal["embedded", "official"] = "embedded"
    seed: int = 0
    sizes: QuestionSizes = QuestionSizes()
    panel_start: Annotated[int, Field(ge=0)] = 0


#: One of the three, told apart by ``type``.
Data = Annotated[AlfworldData | WebshopData | DeepsearchData, Field(discriminator="type")]
