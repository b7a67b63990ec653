"""Registrations of outcome advantages and modulations. Each is a config model and the name of a pure function.

A registration stands behind an entry point of the group ``empg.advantages`` or ``empg.modulations``. A study refers to
it by the name of the entry point. Functions are named, not imported, so reading a configuration does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from empg.config.base import Model
from empg.registry import Registry

Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"]


class SharedSettings(Model):
    """The settings that every method has.

    ``entropy`` is the kind of entropy H that modulates, ``level`` the granularity of the modulation. ``entropy_coef``
    is the weight of the mean token entropy in the loss: above 0 an entropy bonus, below 0 entropy minimisation.
    """

    entropy: Literal["shannon", "renyi2"] = "shannon"
    level: Literal["step", "token"] = "step"
    entropy_coef: float = 0.0
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    kl_coef: Annotated[float, Field(ge=0)] = 0.01
    aggregation: Aggregation = "seq-mean-token-mean"
    dynamic_sampling: Annotated[int, Field(ge=0)] = 0
    overlong_cache: Annotated[int, Field(ge=0)] = 0


class NoSettings(Model):
    """For an advantage or a modulation without settings of its own."""


@dataclass(frozen=True, slots=True)
class AdvantageRegistration:
    """An outcome advantage.

    Args:
        settings: the model of its own settings, which the function gets as keywords; :class:`NoSettings` for none. A
            field that :class:`SharedSettings` also has only changes the default there and does not reach the function.
        function: ``module:attribute`` of ``function(batch, **settings)``, from an :class:`empg.core.advantages.Batch`
            to :class:`empg.core.advantages.Advantages`.
        title: what people call it, such as "GiGPO"; left out, its name in capitals.
        compares: whether it asks where several trajectories saw the same observation; with a setting ``state``, only
            where that is ``observation``. Environments whose observations are whole prompts refuse it.
    """

    settings: type[Model]
    function: str
    title: str = ""
    compares: bool = False


@dataclass(frozen=True, slots=True)
class ModulationRegistration:
    """A modulation.

    Args:
        settings: the model of its own settings, as in :class:`AdvantageRegistration`. A setting ``zeta`` that is None
            takes the ``zeta`` of the environment.
        function: ``module:attribute`` of ``function(advantages, entropy, trajectory, **settings)``, from
            :class:`empg.core.advantages.Advantages` and, for every step (or token), its entropy in nats and the index
            of its trajectory, to :class:`empg.core.modulation.Modulation`.
        of_batch: whether the function takes the :class:`empg.core.advantages.Batch` as well, after the trajectory.
        title: what people call it; left out, its name in capitals.
        compares: as in :class:`AdvantageRegistration`.
    """

    settings: type[Model]
    function: str
    of_batch: bool = False
    title: str = ""
    compares: bool = False


ADVANTAGES = Registry("empg.advantages", AdvantageRegistration, "outcome advantage")
MODULATIONS = Registry("empg.modulations", ModulationRegistration, "modulation")


def own_settings(registration: AdvantageRegistration | ModulationRegistration) -> list[str]:
    """Names of a registration's own settings, without those that only change a shared default."""
    return [name for name in registration.settings.model_fields if name not in SharedSettings.model_fields]
