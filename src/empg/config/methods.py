"""Methods: each composes an outcome advantage and a modulation, one registration each. The built-in ones are below."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from empg.config.base import Model
from empg.config.registrations import (
    ADVANTAGES,
    MODULATIONS,
    AdvantageRegistration,
    Aggregation,
    ModulationRegistration,
    NoSettings,
    SharedSettings,
    own_settings,
)
from empg.errors import ConfigError
from empg.registry import did_you_mean

UNMODULATED = "none"
Strength = Annotated[float, Field(ge=0)]


class Method(SharedSettings):
    """An outcome advantage times a modulation, with the settings of both.

    ``Method.model_validate`` and fields of this type give an instance of the subclass that :func:`method_model`
    composes from the value's advantage and modulation. Do not call ``Method(...)``.
    """

    advantage: str
    modulation: str = UNMODULATED

    def advantage_settings(self) -> dict[str, Any]:
        """The keyword arguments for the function of the outcome advantage."""
        return {name: getattr(self, name) for name in own_settings(ADVANTAGES[self.advantage])}

    def modulation_settings(self) -> dict[str, Any]:
        """The keyword arguments for the function of the modulation.

        Raises :class:`ConfigError` for a ``zeta`` of None, which :meth:`in_environment` replaces.
        """
        settings = {name: getattr(self, name) for name in own_settings(MODULATIONS[self.modulation])}
        if settings.get("zeta", 0.0) is None:
            raise ConfigError(
                f"modulation {self.modulation}: zeta: expected a number or an environment's, found neither"
            )
        return settings

    def unmodulated(self) -> dict[str, Any]:
        """Every setting except those of the modulation."""
        return self.model_dump(exclude={"modulation", "entropy", "level", *own_settings(MODULATIONS[self.modulation])})

    def comparing(self) -> str | None:
        """The setting by which it asks where several trajectories saw the same observation; None: it does not."""
        own: tuple[tuple[str, AdvantageRegistration | ModulationRegistration], ...] = (
            ("advantage", ADVANTAGES[self.advantage]),
            ("modulation", MODULATIONS[self.modulation]),
        )
        for key, registration in own:
            has_state = "state" in own_settings(registration)
            if registration.compares and (not has_state or getattr(self, "state", None) == "observation"):
                return "state" if has_state else key
        return None

    def in_environment(self, zeta: float) -> Method:
        """The same method, where the environment's ``zeta`` replaces a ``zeta`` of None."""
        return self.model_copy(update={"zeta": zeta}) if getattr(self, "zeta", zeta) is None else self

    def __reduce__(self) -> tuple[Any, ...]:
        return Method.model_validate, (self.model_dump(),)  # pickle cannot find a composed class by its name

    @classmethod
    def _hint(cls, key: str) -> str:
        owners = [f"advantage {name}" for name, entry in ADVANTAGES.items() if key in own_settings(entry)]
        owners += [f"modulation {name}" for name, entry in MODULATIONS.items() if key in own_settings(entry)]
        return f"; it is a setting of {', '.join(owners)}" if owners else super()._hint(key)

    @classmethod
    def _validated(cls, value: Any) -> Method:
        return _validate(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if SharedSettings not in cls.__bases__:  # a composed model, not Method itself, which does not exist yet
            return handler(source)
        dump = core_schema.plain_serializer_function_ser_schema(
            lambda method, info: method.model_dump(mode=info.mode), info_arg=True
        )
        return core_schema.no_info_plain_validator_function(cls._validated, serialization=dump)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _json_schema(handler) if SharedSettings in cls.__bases__ else handler(schema)


@cache
def method_model(advantage: str, modulation: str, /) -> type[Method]:
    """The model of a method, with the shared settings, those of the advantage and those of the modulation.

    Raises :class:`ConfigError` if advantage and modulation have a setting of the same name.
    """
    first, second = ADVANTAGES[advantage], MODULATIONS[modulation]
    if both := set(own_settings(first)) & set(own_settings(second)):
        raise ConfigError(
            f"advantage {advantage} and modulation {modulation}: expected settings with different names, "
            f"found {', '.join(sorted(both))} in both"
        )
    bases: list[Any] = list(dict.fromkeys((first.settings, second.settings, Method)))
    names: dict[str, Any] = {
        "advantage": (Literal[advantage], ...),
        "modulation": (Literal[modulation], UNMODULATED),
    }
    model: type[Method] = create_model(f"Method_{advantage}_{modulation}", __base__=tuple(bases), **names)
    return model


def _validate(value: Any) -> Method:
    """The method that a mapping describes; a method is returned as it is."""
    if isinstance(value, Method):
        return value
    if not isinstance(value, dict):
        raise PydanticCustomError("method", "expected the settings of a method, such as {advantage: grpo}")
    names = {"advantage": value.get("advantage"), "modulation": value.get("modulation", UNMODULATED)}
    wrong = [
        _error(key, f"expected one of {', '.join(known)}{did_you_mean(str(names[key]), known)}", names[key])
        for key, known in (("advantage", ADVANTAGES), ("modulation", MODULATIONS))
        if not isinstance(names[key], str) or names[key] not in known
    ]
    if wrong:
        raise ValidationError.from_exception_data("Method", wrong)
    return method_model(names["advantage"], names["modulation"]).model_validate(value)


def _error(key: Any, message: str, value: Any) -> InitErrorDetails:
    details = PydanticCustomError("method", "{message}", {"message": message})
    return InitErrorDetails(type=details, loc=(key,), input=value)


def _json_schema(handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    """One object schema with all registered settings, so that an editor completes each. Omits differing defaults.

    ``dependentSchemas`` says which advantages or modulations have a setting.
    """

    def fields(model: type[Model]) -> dict[str, JsonSchemaValue]:
        found: dict[str, JsonSchemaValue] = handler.resolve_ref_schema(handler(model.__pydantic_core_schema__)).get(
            "properties", {}
        )
        return found

    properties: dict[str, JsonSchemaValue] = {}
    owners: dict[str, JsonSchemaValue] = {}
    for kind, registry in (("advantage", ADVANTAGES), ("modulation", MODULATIONS)):
        properties[kind] = {"enum": list(registry), "title": kind.title(), "type": "string"}
        for name, registration in registry.items():
            for key, value in fields(registration.settings).items():
                properties[key] = _either(properties[key], value) if key in properties else value
            for key in own_settings(registration):
                owner = owners.setdefault(key, {"properties": {kind: {"enum": []}}, "required": [kind]})
                owner["properties"].setdefault(kind, {"enum": []})["enum"].append(name)
    properties["modulation"]["default"] = UNMODULATED
    for key, value in fields(SharedSettings).items():
        properties[key] = _either(properties[key], value) if key in properties else value
    return {
        "additionalProperties": False,
        "dependentSchemas": owners,
        "description": "An outcome advantage times a modulation, with the settings of both.",
        "properties": properties,
        "required": ["advantage"],
        "title": "Method",
        "type": "object",
    }


def _either(first: JsonSchemaValue, second: JsonSchemaValue) -> JsonSchemaValue:
    """The schema that allows what either schema of a key allows."""
    if first == second:
        return first
    plain, other = ({k: v for k, v in schema.items() if k != "default"} for schema in (first, second))
    return plain if plain == other else {"anyOf": [*plain.get("anyOf", [plain]), other]}


# ----------------------------------------------------------------------------------------------------------- built in
class DapoDefaults(Model):
    """DAPO's four parts: clip-higher, token mean, dynamic sampling (rounds at most), soft overlong punishment."""

    clip_high: Annotated[float, Field(gt=0)] = 0.28
    kl_coef: Annotated[float, Field(ge=0)] = 0.0
    aggregation: Aggregation = "token-mean"
    dynamic_sampling: Annotated[int, Field(ge=0)] = 2
    overlong_cache: Annotated[int, Field(ge=0)] = 8


class GigpoSettings(Model):
    """``omega`` is the weight of the step-level advantage, ``gamma`` the discount of the return of a step."""

    omega: Annotated[float, Field(ge=0)] = 1.0
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.95


class RtmcSettings(Model):
    """``state`` says what makes states equal, ``gamma`` discounts, ``prior`` counts as visits at the group's mean."""

    state: Literal["history", "observation"] = "history"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.99
    prior: Annotated[float, Field(ge=0)] = 2.0


class ScaleSettings(Model):
    """``k`` is the strength of the gradient scale."""

    k: Strength = 1.0


class BonusSettings(Model):
    """``k_future`` is the strength k' of the clarity bonus, ``zeta`` its weight ζ; left out, the environment's."""

    k_future: Strength = 1.0
    zeta: Strength | None = None


class CalibratedSettings(BonusSettings):
    """The strength and weight of the bonus; the rest is estimated. Evidence is of steps, and so is the modulation."""

    level: Literal["step"] = "step"


class DecisiveSettings(Model):
    """No settings: the weights are estimated. Evidence is of steps, and so is the modulation."""

    level: Literal["step"] = "step"


class EmpgSettings(BonusSettings, ScaleSettings):
    """Both terms of EMPG."""


class GepoSettings(Model):
    """Factors ``alpha`` of positive advantages in low and of negative ones in high-entropy groups, thresholds ``beta``.

    The thresholds are standard deviations of the groups' entropy below and above its mean.
    """

    alpha_low: Strength = 0.5
    alpha_high: Strength = 0.2
    beta_low: float = 0.2
    beta_high: float = 0.3


GRPO = AdvantageRegistration(NoSettings, "empg.core.advantages:grpo_advantages")
DAPO = AdvantageRegistration(DapoDefaults, "empg.core.advantages:grpo_advantages")
RLOO = AdvantageRegistration(NoSettings, "empg.core.advantages:rloo_advantages")
GIGPO = AdvantageRegistration(GigpoSettings, "empg.core.advantages:gigpo_advantages", title="GiGPO", compares=True)
RTMC = AdvantageRegistration(RtmcSettings, "empg.core.rollout_tree:rtmc_advantages", compares=True)

NONE = ModulationRegistration(NoSettings, "empg.core.modulation:unmodulated")
EMPG = ModulationRegistration(EmpgSettings, "empg.core.modulation:empg")
EMPG_SCALE = ModulationRegistration(ScaleSettings, "empg.core.modulation:empg_scale", title="EMPG (scale)")
EMPG_BONUS = ModulationRegistration(BonusSettings, "empg.core.modulation:empg_bonus", title="EMPG (bonus)")
EMPG_SHUFFLED = ModulationRegistration(EmpgSettings, "empg.core.controls:empg_shuffled", title="EMPG (shuffled)")
EMPG_INVERTED = ModulationRegistration(EmpgSettings, "empg.core.controls:empg_inverted", title="EMPG (inverted)")
GEPO = ModulationRegistration(GepoSettings, "empg.core.group_entropy:gepo", of_batch=True)
CALIBRATED = ModulationRegistration(
    CalibratedSettings, "empg.core.calibration:calibrated", of_batch=True, title="calibrated modulation", compares=True
)
DECISIVE = ModulationRegistration(
    DecisiveSettings, "empg.core.calibration:decisive", of_batch=True, title="decisiveness weights", compares=True
)
