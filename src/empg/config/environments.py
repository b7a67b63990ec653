"""Types of environments: what one registers, and the settings of a data set, which are its type's.

An environment is one :class:`EnvironmentRegistration` behind an entry point of the group ``empg.environments``. The
rest finds it there by its name, which is the ``type:`` of a data set in ``config/data.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import PlainValidator, SerializeAsAny, ValidationError

from empg.config.base import Model, Name, refuse
from empg.registry import Registry, did_you_mean


class DataSet(Model):
    """An entry of ``config/data.yaml``: the settings of a data set. Each type of environment has a model of its own."""

    type: Name


class Interface(Model):
    """What an agent sees and may do. Each type of environment has a model of its own; this one leaves no choice."""


@dataclass(frozen=True)
class EnvironmentRegistration:
    """An environment as it is registered.

    Attributes:
        data: the settings of its data sets.
        dataset: ``module:class`` of its :class:`~empg.environments.base.Dataset`, imported when it is needed.
        panels: the splits that evaluation plays where a study does not say.
        interface: the settings of what an agent sees and may do.
        tags: names of the tags that agents and observations use, tokens of their own in a trained tokenizer.
        stop_reasons: the limits that end its episodes beside ``step_limit``, each with a sentence for the reader.
        metrics: the metrics of its episodes beside success and score, each with a sentence for the reader.
    """

    data: type[DataSet]
    dataset: str
    panels: tuple[str, ...]
    interface: type[Interface] = Interface
    tags: tuple[str, ...] = ("think", "action")
    stop_reasons: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)


ENVIRONMENTS = Registry("empg.environments", EnvironmentRegistration, "environment")


def _data_set(value: Any) -> DataSet:
    """The settings, validated by the model that the environment called ``type`` registered."""
    if isinstance(value, DataSet):
        return value
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in ENVIRONMENTS:
        hint = did_you_mean(str(name), ENVIRONMENTS)
        raise refuse(("type",), f"expected one of the environments {', '.join(ENVIRONMENTS)}{hint}", name)
    return ENVIRONMENTS[name].data.model_validate(value)


#: The settings of a data set of any registered type.
Data = Annotated[SerializeAsAny[DataSet], PlainValidator(_data_set)]


def read_interface(data: DataSet, value: Mapping[str, Any]) -> Interface:
    """The interface settings of a data set's environment.

    Raises pydantic's ValidationError with places that begin with ``interface``.
    """
    try:
        return ENVIRONMENTS[data.type].interface.model_validate(dict(value))
    except ValidationError as error:
        lines = [Interface._line("interface", *line["loc"], **line) for line in error.errors(include_url=False)]
        raise ValidationError.from_exception_data("interface", lines) from None
