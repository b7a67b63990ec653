"""Methods are composed from registrations: what a study may say, what an error says, what a run gets."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Annotated

import jsonschema
import pytest
from pydantic import Field, TypeAdapter

from empg.config import ADVANTAGES, MODULATIONS, Method, Model, ModulationRegistration, Study, method_model, parse
from empg.errors import ConfigError
from empg.registry import resolve


def study(**method: object) -> Study:
    return parse(Study, {"seeds": [1], "methods": {"grpo": method}, "environments": {"alfworld": {}}}, "x.yaml")


def test_every_registration_has_its_function():
    assert list(ADVANTAGES) == ["dapo", "gigpo", "grpo", "rloo", "rtmc"]
    assert list(MODULATIONS) == [
        "calibrated",
        "decisive",
        "empg",
        "empg_bonus",
        "empg_inverted",
        "empg_scale",
        "empg_shuffled",
        "gepo",
        "none",
    ]
    for registry in (ADVANTAGES, MODULATIONS):
        for registration in registry.values():
            assert callable(resolve(registration.function))


def test_a_method_has_the_settings_of_its_advantage_and_of_its_modulation():
    method = Method.model_validate({"advantage": "gigpo", "modulation": "empg", "k": 2, "omega": 0.5})
    assert method.advantage_settings() == {"omega": 0.5, "gamma": 0.95}
    assert method.in_environment(0.1).modulation_settings() == {"k": 2.0, "k_future": 1.0, "zeta": 0.1}
    assert isinstance(method, method_model("gigpo", "empg"))


def test_an_own_zeta_is_not_the_environments():
    own = Method.model_validate({"advantage": "grpo", "modulation": "empg_bonus", "zeta": 0.0})
    assert own.in_environment(0.1).modulation_settings() == {"k_future": 1.0, "zeta": 0.0}
    none = Method.model_validate({"advantage": "grpo"})
    assert none.in_environment(0.1) == none
    assert none.modulation_settings() == {}


def test_dapo_has_its_own_defaults_of_shared_settings():
    dapo, grpo = (Method.model_validate({"advantage": name}) for name in ("dapo", "grpo"))
    names = ("clip_high", "kl_coef", "aggregation", "dynamic_sampling", "overlong_cache")
    assert [getattr(dapo, name) for name in names] == [0.28, 0.0, "token-mean", 2, 8]
    assert [getattr(grpo, name) for name in names] == [0.2, 0.01, "seq-mean-token-mean", 0, 0]
    assert dapo.advantage_settings() == {}, "they are the loop's and not the function's"


def test_without_its_modulation_a_method_is_the_same_whatever_modulates():
    options = {"advantage": "gigpo", "omega": 2.0}
    others = [{"modulation": "empg", "k": 3, "zeta": 1, "entropy": "renyi2", "level": "token"}, {}]
    others += [{"modulation": "empg_scale", "k": 2}, {"modulation": "empg_bonus"}]
    unmodulated = [Method.model_validate(options | other).unmodulated() for other in others]
    assert all(found == unmodulated[0] for found in unmodulated)
    assert unmodulated[0]["omega"] == 2.0
    assert Method.model_validate(options | {"omega": 1.0}).unmodulated() != unmodulated[0]


def test_a_method_survives_json_pickling_and_validation():
    found = study(advantage="gigpo", modulation="empg", k=2, gamma=0.5).methods["grpo"]
    assert Study.model_validate_json(study(**found.model_dump()).model_dump_json()).methods["grpo"] == found
    assert study(**found.model_dump(mode="json")).methods["grpo"] == found
    assert pickle.loads(pickle.dumps(found)) == found
    assert Method.model_validate(found) is found


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            {"advantage": "grop"},
            "advantage: expected one of dapo, gigpo, grpo, rloo, rtmc; did you mean grpo?, found 'grop'",
        ),
        ({}, "advantage: expected one of dapo, gigpo, grpo, rloo, rtmc, found None"),
        (
            {"advantage": "grpo", "modulation": "emgp"},
            "modulation: expected one of calibrated, decisive, empg, .*did you mean empg?",
        ),
        (
            {"advantage": "grpo", "modulation": ["empg"]},
            r"modulation: expected one of calibrated, decisive, empg, .* found \['empg'\]",
        ),
        (
            {"advantage": "grpo", "modulation": "empg", "zetta": 0.1},
            "zetta: unknown; did you mean zeta?$",
        ),
        (
            {"advantage": "grpo", "k": 1},
            "k: unknown; it is a setting of modulation empg, modulation empg_inverted, modulation empg_scale, .*$",
        ),
        (
            {"advantage": "rloo", "omega": 1},
            "omega: unknown; it is a setting of advantage gigpo$",
        ),
        (
            {"advantage": "grpo", "modulation": "empg", "k": -1},
            "k: Input should be greater than or equal to 0, found -1",
        ),
        ({"advantage": "grpo", "clip_low": "x"}, "clip_low: Input should be a valid number"),
    ],
)
def test_a_mistake_is_named(method, message):
    with pytest.raises(ConfigError, match=r"x\.yaml: methods\.grpo\." + message.replace("?", r"\?")):
        study(**method)


def test_all_mistakes_of_a_method_are_named_at_once():
    with pytest.raises(ConfigError) as error:
        study(advantage="grpo", kl_coeff=1, clip=2)
    assert "kl_coeff: " in str(error.value)
    assert "clip: " in str(error.value)


def test_a_name_that_both_have_is_refused(monkeypatch):
    class Clash(Model):
        gamma: Annotated[float, Field(gt=0)] = 0.5

    monkeypatch.setitem(MODULATIONS._loaded, "empg_scale", ModulationRegistration(Clash, "x:y"))
    with pytest.raises(ConfigError, match=r"gigpo and modulation empg_scale: expected .* different names, found gamma"):
        method_model.__wrapped__("gigpo", "empg_scale")


@pytest.mark.parametrize(
    ("method", "good"),
    [
        ({"advantage": "grpo"}, True),
        ({"advantage": "dapo", "modulation": "empg", "k": 2, "k_future": 1, "zeta": None}, True),
        ({"advantage": "gigpo", "omega": 2, "modulation": "empg_scale", "k": 1}, True),
        ({"modulation": "empg"}, False),
        ({"advantage": "grpo", "omega": 2}, False),
        ({"advantage": "grpo", "k": 2}, False),
        ({"advantage": "grpo", "modulation": "empg_scale", "zeta": 1}, False),
        ({"advantage": "grpo", "modulation": "empg", "k": -2}, False),
        ({"advantage": "rtmc", "state": "observation", "modulation": "gepo", "alpha_low": 0.1}, True),
        ({"advantage": "rtmc", "state": "text"}, False),
        ({"advantage": "grpo", "modulation": "calibrated", "level": "step"}, True),
        ({"advantage": "grpo", "zetta": 1}, False),
        ({"advantage": "grop"}, False),
    ],
)
def test_schema_and_models_agree(method, good):
    schema = TypeAdapter(Method).json_schema()
    assert jsonschema.validators.validator_for(schema)(schema).is_valid(method) == good
    if good:
        study(**method)
    else:
        with pytest.raises(ConfigError):
            study(**method)


def test_reading_a_study_imports_no_torch():
    code = (
        "import sys; from empg.config import Study; "
        "Study.model_validate({'seeds': [1], 'environments': {'alfworld': {}}, "
        "'methods': {'grpo': {'advantage': 'gigpo', 'modulation': 'empg'}}}); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_calibration_is_of_steps():
    with pytest.raises(ConfigError, match=r"methods\.grpo\.level: Input should be 'step', found 'token'"):
        study(advantage="grpo", modulation="calibrated", level="token")
