"""A policy: a network and the conversation format that it speaks, loaded from one Hugging Face folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from empg.errors import DataError
from empg.files import read_json
from empg.policy.chat import Chat
from empg.policy.transformer import Transformer
from empg.policy.weights import load_transformer, save_transformer


def device() -> str:
    """Where networks run: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(slots=True)
class Policy:
    """A network and its conversation format; ``config`` is the folder's ``config.json``."""

    network: Transformer
    chat: Chat
    config: dict[str, Any]

    @classmethod
    def load(cls, folder: Path, system: str) -> Policy:
        """The policy of a model folder. Raises :class:`DataError` that names the file and what is wrong with it."""
        if not folder.is_dir():
            raise DataError(f"{folder}: expected a model folder, found none")
        chat = Chat.load(folder, system)
        return cls(load_transformer(folder, device()), chat, read_json(folder / "config.json"))

    def save(self, folder: Path) -> None:
        """Write the folder's files; the caller makes the write atomic."""
        self.chat.tokenizer.save_pretrained(folder)
        save_transformer(self.network, self.config, folder)


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
