"""WebShop as the rest of the package knows it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from empg.config.base import Model, Positive
from empg.config.environments import DataSet, EnvironmentRegistration, Interface


class WebshopSizes(Model):
    """Goals written for each split; the splits share no product. ``tune`` enters no report."""

    train: Positive = 2000
    valid: Positive = 500
    test: Positive = 500
    tune: Positive = 500


class WebshopData(DataSet):
    """A shop and goals for WebShop: generated, or made from upstream's own files under ``$WEBSHOP_DATA``."""

    type: Literal["webshop"] = "webshop"
    source: Literal["embedded", "official"] = "embedded"
    seed: int = 0
    sizes: WebshopSizes = WebshopSizes()
    panel_start: Annotated[int, Field(ge=0)] = 0


class WebshopInterface(Interface):
    """``text_rich`` marks the buttons of a page, ``text`` lists what is seen.

    With ``history`` each turn shows the task, so many earlier turns and the admissible actions, as in the paper.
    """

    observation: Literal["text", "text_rich"] = "text_rich"
    history: Positive | None = None


ENVIRONMENT = EnvironmentRegistration(
    data=WebshopData,
    dataset="empg.environments.webshop.dataset:WebshopDataset",
    panels=("valid", "test"),
    interface=WebshopInterface,
    metrics={
        "r_type": "Score for the kind of product bought.",
        "r_att": "Share of the wanted attributes that the product has.",
        "r_option": "Share of the wanted options that were chosen.",
        "r_price": "Whether the price is within the limit.",
    },
)
