"""How much memory a pretrained policy needs, estimated from its files before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empg.config import PretrainedPolicy
from empg.errors import ConfigError
from empg.files import read_json

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
        from empg.policy.transformer import FAMILIES  # imports torch, which a plan of tiny policies can do without

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
    from empg.core.entropy import default_chunk

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
    head = 3 * default_chunk(sizes.vocabulary) * sizes.vocabulary * 4
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
    """Bytes of the GPU if there is one, else of :func:`machine`."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return machine()[0]


def machine(root: Path = Path("/")) -> tuple[int, str]:
    """Bytes that this process may use at most, and whose they are: the machine's, or a control group's of it.

    ``root`` is where the system's files lie.
    """
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = min(_limits(root), default=physical)
    return (limit, "this control group") if limit < physical else (physical, "this machine")


def _limits(root: Path) -> Iterator[int]:
    """Limits of memory of the process's control groups and of those around them, of both versions of Linux's."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text(encoding="utf-8").splitlines() if groups.is_file() else ():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        own = top / path.strip("/")
        for folder in [own, *(parent for parent in own.parents if parent.is_relative_to(top))]:
            written = (folder / name).read_text().strip() if (folder / name).is_file() else "max"
            if written.isdigit():
                yield int(written)


def require(what: str, needed: dict[str, float], remedy: str, processes: int = 1) -> None:
    """Raises :class:`ConfigError` with the numbers if the parts together are more than there is.

    Each of the processes has a GPU; without GPUs they share the machine's memory.
    """
    import torch

    sharing = 1 if torch.cuda.is_available() else processes
    needed = {name: value * sharing for name, value in needed.items()}
    there, total = available(), sum(needed.values())
    if total > there:
        parts = ", ".join(f"{name} {value / GIB:.1f}" for name, value in needed.items())
        raise ConfigError(
            f"{what}: expected to fit into {there / GIB:.1f} GiB of memory, "
            f"found about {total / GIB:.1f} GiB ({parts}); {remedy}"
        )
