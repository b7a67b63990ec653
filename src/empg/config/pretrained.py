"""What differs for a pretrained policy: its own vetted settings, and what its folder must hold before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from empg.config.base import Model
from empg.config.policy import PretrainedPolicy
from empg.errors import ConfigError
from empg.files import read_json

# Settings that are made for a policy: one of another type does not take them over from a base.
OF_THE_POLICY = ("policy", "sampling", "warmstart", "rollouts", "train")
# Vetted on SmolLM2-135M-Instruct (docs/pretrained.md). They replace the defaults of the sections.
DEFAULTS: dict[str, dict[str, Any]] = {
    "sampling": {"max_response": 64, "max_context": 2048, "rows": 64},
    "warmstart": {
        "tokens": 300_000,
        "batch_tokens": 2048,
        "micro_batch_tokens": 2048,
        "mistake_rate": 0.05,
        "detour_rate": 0.1,
        "decay": 0.5,
        "optimiser": {"lr": 6e-4, "muon_lr": 0.0},
    },
    "rollouts": {"tasks": 32},
    "train": {
        "iterations": 20,
        "groups": 8,
        "updates": 1,
        "micro_batch_tokens": 2048,
        "optimiser": {"lr": 2e-4, "muon_lr": 0.0},
    },
}


def with_defaults(value: Any) -> Any:
    """An environment's settings as written, completed by :data:`DEFAULTS` if its policy is a pretrained one."""
    if not isinstance(value, Mapping):
        return value
    policy = value.get("policy")
    kind = policy.get("type") if isinstance(policy, Mapping) else getattr(policy, "type", None)
    return {**value, **_filled(value, DEFAULTS)} if kind == "pretrained" else value


def _filled(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` where it says something, ``defaults`` where it does not, at every depth."""
    filled = dict(given)
    for key, default in defaults.items():
        if key not in given:
            filled[key] = default
        elif isinstance(default, Mapping) and isinstance(given[key], Mapping):
            filled[key] = _filled(given[key], default)
    return filled


def check_precision(policy: PretrainedPolicy, **optimisers: Model) -> None:
    """Raises ``ValueError`` for Muon on bfloat16 weights, which it would round each update to."""
    for name, optimiser in optimisers.items():
        if policy.dtype == "bfloat16" and (rate := getattr(optimiser, "muon_lr", 0)) > 0:
            raise ValueError(f"{name}.optimiser.muon_lr: expected 0 with policy.dtype bfloat16, found {rate}")


def check_folder(policy: Model, max_context: int, where: str) -> None:
    """Look into a pretrained policy's folder, if it is a folder and not a hub id, for what no run could do without.

    Raises :class:`ConfigError` or :class:`~empg.errors.DataError` with the file, the key, what was expected and what
    was found: no chat template, no architecture, or a context that is longer than the model's positions.
    """
    if not isinstance(policy, PretrainedPolicy) or not (folder := Path(policy.model)).is_dir():
        return
    config = _settings(folder / "config.json")
    if not config.get("model_type"):
        raise ConfigError(f"{folder / 'config.json'}: model_type: expected a family of `transformers`, found none")
    written = folder / "tokenizer_config.json"
    has_template = (folder / "chat_template.jinja").exists() or (
        written.exists() and bool(_settings(written).get("chat_template"))
    )
    if not has_template:
        raise ConfigError(
            f"{folder}: expected a chat template in chat_template.jinja or in tokenizer_config.json, found none"
        )
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and max_context > positions:
        raise ConfigError(
            f"{where}.sampling.max_context: expected at most the {positions} positions of {folder / 'config.json'}, "
            f"found {max_context}"
        )


def _settings(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected settings by name, found {found!r:.100}")
    return found
