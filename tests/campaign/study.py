"""The study that the campaign breaks: three environments, both engines, all stages; seconds of work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..workflow.conftest import unpack
from ..workflow.test_pretrained import write_model
from .results import NAME

TINY = {
    "max_steps": 3,
    "policy": {"type": "tiny", "width": 32, "layers": 1, "mlp_width": 32, "vocab_size": 500},
    "warmstart": {"tokens": 40_000, "batch_tokens": 4000},
    "rollouts": {"tasks": 4},
    "train": {"iterations": 12, "groups": 2, "group_size": 2, "checkpoint_every": 2},
}
PRETRAINED = {
    "max_steps": 3,
    "policy": {"type": "pretrained", "model": "hub", "dtype": "float32"},
    "sampling": {"max_response": 90, "max_context": 512},
    "warmstart": {"tokens": 8000, "batch_tokens": 2000},
    "rollouts": {"tasks": 2},
    "train": {"iterations": 4, "groups": 2, "group_size": 2, "checkpoint_every": 1},
    "engine": "trl",
}
STUDY: dict[str, Any] = {
    "study": NAME,
    "seeds": [1],
    "baseline": "grpo_empg",
    "methods": {"grpo_empg": {"advantage": "grpo", "modulation": "empg"}},
    "environments": {"rooms": PRETRAINED, "shop": TINY, "search": TINY},
}
DATA = {
    "rooms": {"type": "alfworld", "sizes": {"train": 12, "valid_seen": 6, "valid_unseen": 6, "tune": 6}},
    "shop": {"type": "webshop", "sizes": {"train": 12, "valid": 6, "test": 6, "tune": 6}},
    "search": {"type": "deepsearch", "sizes": {"train": 12, "id": 6, "ood": 6, "tune": 6}},
}


def make(root: Path) -> None:
    """The project with the campaign's study in a new folder; nothing has run."""
    write_model(unpack(root, DATA, STUDY) / "hub")
