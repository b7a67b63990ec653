"""How much memory a pretrained policy needs, estimated from its files before anything runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from empg.config import PretrainedPolicy
from empg.core.entropy import LARGE_CHUNK
from empg.errors import ConfigError
from empg.files import read_json
from empg.policy.transformer import FAMILIES

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the estimate needs to know of a model."""

    parameters: int
    embeddings: int  # of them: input embeddings and the head
    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int

    @classmethod
    def of(cls, folder: Path) -> Sizes:
        """From the folder's ``config.json`` and the sizes of its safetensors files."""
        config: dict[str, Any] = read_json(folder / "config.json")
        config = config.get("text_config") or config
        stored = 4 if config.get("dtype", config.get("torch_dtype", "float32")) == "float32" else 2
        width = config.get("hidden_size") or config.get("n_embd") or 0
        heads = config.get("num_attention_heads") or config.get("n_head") or 1
        vocabulary = config.get("vocab_size") or 0
        tied = config.get("tie_word_embeddings", config.get("model_type") not in FAMILIES)  # defaults differ
        return cls(
            parameters=sum(file.stat().st_size for file in folder.glob("*.safetensors")) // stored,
            embeddings=vocabulary * width * (1 if tied else 2),
            vocabulary=vocabulary,
            width=width,
            layers=config.get("num_hidden_layers") or config.get("n_layer") or 1,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_width=config.get("head_dim") or width // heads,
            mlp_width=config.get("intermediate_size") or config.get("n_inner") or 4 * width,
        )

    def lora(self, rank: int) -> int:
        """Parameters of adapters on all linear layers of a block."""
        q, kv = self.heads * self.head_width, self.kv_heads * self.head_width
        return self.layers * rank * (4 * self.width + 2 * q + 2 * kv + 3 * (self.width + self.mlp_width))


def update_bytes(
    sizes: Sizes, policy: PretrainedPolicy, tokens: int, context: int, copies: int = 1
) -> dict[str, float]:
    """What an update takes, in bytes by part. ``copies`` counts the policy and, with a KL penalty, its reference.

    The activations are those of ``tokens`` tokens in conversations of at most ``context``: all layers', or with
    checkpointing their inputs and one layer's.
    """
    size = 2 if policy.dtype == "bfloat16" else 4
    if policy.lora is not None:
        trained, state = sizes.lora(policy.lora.rank), 4 + 8  # adapters are float32: gradient and two moments
    else:
        trained = sizes.parameters - (sizes.embeddings if policy.freeze_embeddings else 0)
        state = size + 8 + (8 if size == 2 else 0)  # bfloat16: a float32 copy, and the gradient once more
    q, kv = sizes.heads * sizes.head_width, sizes.kv_heads * sizes.head_width
    layer = tokens * (6 * sizes.width + 3 * (q + 2 * kv) + 6 * sizes.mlp_width + sizes.heads * context) * size
    kept = sizes.layers * tokens * sizes.width * size
    activations = kept + layer if policy.gradient_checkpointing else sizes.layers * layer
    head = 3 * LARGE_CHUNK * sizes.vocabulary * 4
    if not policy.freeze_embeddings and policy.lora is None:
        head += sizes.vocabulary * sizes.width * 4
    return {
        "weights": float(copies * sizes.parameters * size),
        "gradients and optimiser": float(trained * state),
        "activations": float(activations + head),
    }


def trl_update_bytes(
    sizes: Sizes, policy: PretrainedPolicy, tokens: int, context: int, *, reference: bool = False, shards: int = 1
) -> dict[str, float]:
    """What an update of ``engine: trl`` takes in one process, in bytes by part.

    bfloat16 weights are trained in float32 under autocast, and a copy in their own precision plays; so it does where
    they are split over ``shards`` processes. The reference of a KL penalty is one more model; adapters need none.
    """
    native = update_bytes(sizes, policy, tokens, context)
    size = 2 if policy.dtype == "bfloat16" else 4
    exact = size if policy.lora is not None else 4
    copied = shards > 1 or exact != size
    trained = sizes.lora(policy.lora.rank) if policy.lora is not None else sizes.parameters
    if policy.lora is None and policy.freeze_embeddings:
        trained -= sizes.embeddings
    models = 1 + (reference and policy.lora is None)
    return {
        "weights": sizes.parameters * (models * exact / shards + copied * size),
        "gradients and optimiser": trained * (4 + 8) / shards,
        "activations": native["activations"],
    }


def sampling_bytes(sizes: Sizes, policy: PretrainedPolicy, rows: int, context: int) -> dict[str, float]:
    """What sampling takes when every row reaches the end of its context, in bytes by part."""
    size = 2 if policy.dtype == "bfloat16" else 4
    cache = rows * context * 2 * sizes.layers * sizes.kv_heads * sizes.head_width * size
    return {
        "weights": float(sizes.parameters * size),
        "key-value cache": float(cache),
        "logits": float(4 * rows * sizes.vocabulary * 4),
    }


def available() -> int:
    """Bytes of the GPU if there is one, else of the machine, or of the control group that the process is in."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    written = limit.read_text().strip() if limit.is_file() else "max"
    return machine if written == "max" else min(machine, int(written))


def require(what: str, needed: dict[str, float], remedy: str, processes: int = 1) -> None:
    """Raises :class:`ConfigError` with the numbers if the parts together are more than there is.

    Each of the processes has a GPU; without GPUs they share the machine's memory.
    """
    sharing = 1 if torch.cuda.is_available() else processes
    needed = {name: value * sharing for name, value in needed.items()}
    there, total = available(), sum(needed.values())
    if total > there:
        parts = ", ".join(f"{name} {value / GIB:.1f}" for name, value in needed.items())
        raise ConfigError(
            f"{what}: expected to fit into {there / GIB:.1f} GiB of memory, "
            f"found about {total / GIB:.1f} GiB ({parts}); {remedy}"
        )
