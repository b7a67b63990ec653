"""The base of all models of the configuration, and the types that they share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from empg.registry import did_you_mean

Positive = Annotated[int, Field(gt=0)]
NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME)]
UNKNOWN = "unknown_key"


class Model(BaseModel):
    """Frozen; refuses unknown keys and non-finite numbers. The error for an unknown key names the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _near_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            lines = [cls._line(*line["loc"], **line) for line in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, lines) from None

    @classmethod
    def _line(cls, *place: int | str, **error: Any) -> InitErrorDetails:
        kind, message = error["type"], error["msg"]
        if kind == "extra_forbidden" and len(place) == 1:
            kind, message = UNKNOWN, f"unknown{cls._hint(str(place[0]))}"
        details = PydanticCustomError(kind, "{message}", {"message": message})
        return InitErrorDetails(type=details, loc=place, input=error["input"])

    @classmethod
    def _hint(cls, key: str) -> str:
        """A hint for an unknown key: the nearest known key, or all of them."""
        known = list(cls.model_fields)
        expected = f"one of {', '.join(known)}" if known else "no key"
        return did_you_mean(key, known) or f"; expected {expected}"


def refuse(place: tuple[int | str, ...], message: str, found: Any) -> ValidationError:
    """An error for validators to raise about the value at ``place``, a path of keys in what is validated."""
    details = PydanticCustomError("refused", "{message}", {"message": message})
    return ValidationError.from_exception_data("refused", [InitErrorDetails(type=details, loc=place, input=found)])
