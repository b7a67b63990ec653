"""A policy: a network and the conversation format that it speaks, loaded from one Hugging Face folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from empg.config import Lora, PretrainedPolicy
from empg.errors import DataError
from empg.files import read_json
from empg.policy.chat import Chat
from empg.policy.network import Network
from empg.policy.transformer import FAMILIES, Transformer
from empg.policy.weights import load_transformer, own_dtype, save_transformer


def device() -> str:
    """Where networks run: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(slots=True)
class Policy:
    """A network and its conversation format; ``config`` is the folder's ``config.json``."""

    network: Network
    chat: Chat
    config: dict[str, Any]

    @classmethod
    def load(cls, folder: Path, system: str, *, dtype: torch.dtype | None = None, lora: Lora | None = None) -> Policy:
        """The policy of a model folder, in ``dtype`` or in the precision that its config names.

        Raises :class:`DataError` that names the file and what is wrong with it, and :class:`ConfigError` for ``lora``
        on modules that the model lacks.
        """
        if not folder.is_dir():
            raise DataError(f"{folder}: expected a model folder, found none")
        config = read_json(folder / "config.json")
        if not isinstance(config, dict):
            raise DataError(f"{folder / 'config.json'}: expected settings by name, found {config!r:.100}")
        chat = Chat.load(folder, system)
        if config.get("model_type") in FAMILIES and lora is None:
            network: Network = load_transformer(folder, device(), dtype)
        else:
            from empg.policy.foreign import load_foreign  # imports `transformers`

            network = load_foreign(folder, device(), dtype or own_dtype(config), lora)
        words, rows = len(chat.tokenizer), len(network.output_weight)
        if words > rows:
            raise DataError(
                f"{folder}: vocab_size: expected at least the tokenizer's {words} tokens, found {rows} in the network"
            )
        return cls(network, chat, config)

    @classmethod
    def load_pretrained(cls, settings: PretrainedPolicy, folder: Path, system: str) -> Policy:
        """The policy of a folder, ready to be trained as ``settings`` say: precision, adapters, what stays as it is."""
        policy = cls.load(folder, system, dtype=getattr(torch, settings.dtype), lora=settings.lora)
        policy.network.gradient_checkpointing = settings.gradient_checkpointing
        if settings.freeze_embeddings:
            policy.network.freeze_embeddings()
        return policy

    def save(self, folder: Path) -> None:
        """Write the folder's files; the caller makes the write atomic."""
        self.chat.tokenizer.save_pretrained(folder)
        if isinstance(self.network, Transformer):
            save_transformer(self.network, self.config, folder)
        else:
            self.network.save(self.config, folder)


def fetch(model: str) -> Path:
    """The folder of a model: a path as it is, a hub id downloaded (safetensors and tokenizer files only).

    Raises :class:`DataError` if the hub cannot be reached or has no such model.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.jinja", "merges.txt"]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise DataError(f"model {model!r}: expected a folder or a hub id that can be reached, found {error}") from None
