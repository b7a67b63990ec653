"""Registration of environments, and the settings of data sets and interfaces that each type of environment has.

An environment is one :class:`EnvironmentRegistration` behind an entry point of the group ``empg.environments``. The
name of the entry point is the ``type:`` of a data set in ``config/data.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import PlainValidator, SerializeAsAny, ValidationError

from empg.config.base import Model, Name, refuse
from empg.registry import Registry, did_you_mean


class DataSet(Model):
    """Settings of a data set, an entry of ``config/data.yaml``. Each type of environment has a model of its own."""

    type: Name


class Interface(Model):
    """What an agent sees and may do. Each type of environment has a model of its own; this one has no settings."""


@dataclass(frozen=True)
class EnvironmentRegistration:
    """The registration of an environment.

    Attributes:
        data: the model of the settings of its data sets.
        dataset: ``module:class`` of its :class:`~empg.environments.base.Dataset`, imported when it is needed.
        panels: the splits that evaluation plays unless a study says otherwise.
        interface: the model of the settings of what an agent sees and may do.
        tags: names of the tags in responses and observations. A trained tokenizer has a token for each.
        stop_reasons: the limits other than ``step_limit`` that end its episodes, each with a sentence for the reader.
        metrics: the metrics of its episodes other than success and score, each with a sentence for the reader.
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
    """The settings, validated by the model of the environment that ``type`` names."""
    if isinstance(value, DataSet):
        return value
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in ENVIRONMENTS:
        hint = did_you_mean(str(name), ENVIRONMENTS) or "; is its package installed?"
        raise refuse(("type",), f"expected one of the environments {', '.join(ENVIRONMENTS)}{hint}", name)
    return ENVIRONMENTS[name].data.model_validate(value)


#: The settings of a data set of any registered type.
Data = Annotated[SerializeAsAny[DataSet], PlainValidator(_data_set)]


def read_interface(data: DataSet, value: Mapping[str, Any]) -> Interface:
    """The interface settings of a data set's environment.

    Raises pydantic's ValidationError, whose places begin with ``interface``.
    """
    try:
        return ENVIRONMENTS[data.type].interface.model_validate(dict(value))
    except ValidationError as error:
        lines = [Interface._line("interface", *line["loc"], **line) for line in error.errors(include_url=False)]
        raise ValidationError.from_exception_data("interface", lines) from None
