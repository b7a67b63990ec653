"""Deep Search as the rest of the package knows it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from empg.config.base import Model, Positive
from empg.config.environments import DataSet, EnvironmentRegistration, Interface


class DeepsearchSizes(Model):
    """Questions written for each split: in distribution (``id``) and out of it (``ood``: known relations in new pairs,
    ``chains``: three and four relations). ``tune`` enters no report."""

    train: Positive = 2000
    id: Positive = 500
    ood: Positive = 500
    chains: Annotated[int, Field(ge=0)] = 0
    tune: Positive = 500


class DeepsearchData(DataSet):
    """A corpus and questions for Deep Search: generated, or the user's own files under ``$DEEPSEARCH_DATA``."""

    type: Literal["deepsearch"] = "deepsearch"
    source: Literal["embedded", "official"] = "embedded"
    seed: int = 0
    sizes: DeepsearchSizes = DeepsearchSizes()
    panel_start: Annotated[int, Field(ge=0)] = 0


class DeepsearchInterface(Interface):
    """``retriever`` is ``local``, the data set's own index, or the address of a server.

    A search shows ``top_k`` documents, in at most ``max_observation`` characters.
    """

    retriever: Annotated[str, Field(pattern=r"^(local|https?://\S+)$")] = "local"
    top_k: Positive = 3
    max_searches: Positive = 8
    max_observation: Positive = 2000


ENVIRONMENT = EnvironmentRegistration(
    data=DeepsearchData,
    dataset="empg.environments.deepsearch.dataset:DeepsearchDataset",
    panels=("id", "ood"),
    interface=DeepsearchInterface,
    tags=("think", "search", "access", "answer", "information"),
    stop_reasons={"search_limit": "The agent went on searching after its last search."},
    metrics={
        "em": "Exact match of the answer.",
        "f1": "Token F1 of the answer.",
        "searches": "Searches made.",
        "evidence_recall": "Share of the supporting pages that were shown.",
    },
)
