"""A pretrained policy in both of its roles under TRL: the model that is trained, and the network that plays.

They are one where that is possible. A sharded model and the float32 weights of a bfloat16 policy are played by a copy
in the policy's precision, which takes the trained weights over before each collection.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from empg.config import PretrainedPolicy
from empg.errors import ConfigError
from empg.files import read_json
from empg.policy.chat import Chat
from empg.policy.foreign import Foreign, load_foreign
from empg.policy.policy import Policy


@dataclass(slots=True)
class TrainedPolicy:
    """``model`` is what TRL trains, ``played`` plays and is saved; ``copied``: they share no weights."""

    model: Any
    played: Policy
    copied: bool

    @classmethod
    def load(
        cls, settings: PretrainedPolicy, folder: Path, system: str, *, sharded: bool, device: str
    ) -> TrainedPolicy:
        """The policy of a folder. bfloat16 weights are trained in float32, unless adapters are trained in their place.

        Raises :class:`~empg.errors.DataError` and :class:`~empg.errors.ConfigError` as :meth:`Policy.load` does.
        """
        own = getattr(torch, settings.dtype)
        network, model = _network(settings, folder, "cpu", own if settings.lora else torch.float32)
        copied = sharded or (settings.lora is None and own != torch.float32)
        if copied:
            network, _ = _network(settings, folder, device, own)
        chat = Chat.load(folder, system)
        return cls(model, Policy(network, chat, read_json(folder / "config.json")), copied)

    @torch.no_grad()
    def refresh(self, trained: Any) -> None:
        """Let ``played`` have the weights of ``trained``, the unwrapped model. All processes call it together."""
        if not self.copied:
            return
        base = trained.get_base_model() if hasattr(trained, "get_base_model") else trained
        network: Any = self.played.network
        own = dict(network.model.named_parameters())
        for name, parameter in base.named_parameters():
            whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            own[name].copy_(whole)


def sharded(deepspeed: Any) -> bool:
    """Whether `accelerate` splits the weights over processes; ``deepspeed`` is its plug-in, or None.

    Raises :class:`~empg.errors.ConfigError` for ways that cannot play.
    """
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise ConfigError("accelerate: fsdp_config.fsdp_version: expected 2, found 1")
        return True
    if deepspeed is not None and deepspeed.zero_stage == 3:
        raise ConfigError("accelerate: deepspeed_config.zero_stage: expected at most 2, or FSDP2, found 3")
    return False


def _network(settings: PretrainedPolicy, folder: Path, device: str, dtype: torch.dtype) -> tuple[Foreign, Any]:
    """The network, and its model with `peft`'s wrapper where there are adapters."""
    network = load_foreign(folder, device, dtype)
    model = network.model
    if settings.lora is not None:
        model = network.add_lora(settings.lora)
    elif settings.freeze_embeddings:
        network.freeze_embeddings()
    return network, model
