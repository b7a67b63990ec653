"""The tables of memory in docs/running-on-gpus.md: what the stages estimate for models of 1.5B and 7B parameters.

    python tools/gpu_memory.py

The sizes are those of Qwen2.5-1.5B-Instruct and Qwen2.5-7B-Instruct; the settings those of the sample studies.
"""

from __future__ import annotations

from collections.abc import Iterator

from empg.config import PretrainedPolicy
from empg.config.policy import Lora
from empg.policy.memory import GIB, Sizes, sampling_bytes, trl_update_bytes, update_bytes

QWEN = {
    "1.5B": Sizes(
        parameters=1_543_714_304,
        embeddings=151_936 * 1536,
        vocabulary=151_936,
        width=1536,
        layers=28,
        heads=12,
        kv_heads=2,
        head_width=128,
        mlp_width=8960,
    ),
    "7B": Sizes(
        parameters=7_615_616_512,
        embeddings=2 * 152_064 * 3584,
        vocabulary=152_064,
        width=3584,
        layers=28,
        heads=28,
        kv_heads=4,
        head_width=128,
        mlp_width=18_944,
    ),
}
TOKENS, CONTEXT, ROWS = 8192, 4096, 128  # of a micro-batch, of a conversation, in play at once
POLICIES = {"": None, ", LoRA of rank 16": Lora(rank=16)}
PARTS = ("weights", "gradients and optimiser", "activations")


def policy(lora: Lora | None) -> PretrainedPolicy:
    """A bfloat16 policy whose embeddings are trained, with checkpointing."""
    return PretrainedPolicy(type="pretrained", model="", lora=lora, freeze_embeddings=False)


def rows() -> Iterator[str]:
    """The rows: model and engine, the parts of an update, their sum, and the cache while sampling. GiB a GPU."""
    for name, sizes in QWEN.items():
        for suffix, lora in POLICIES.items():
            settings = policy(lora)
            cases = {"native": update_bytes(sizes, settings, TOKENS, CONTEXT, copies=2)}
            for label, shards in (("trl, DDP", 1), ("trl, FSDP2 on 8 GPUs", 8)):
                cases[label] = trl_update_bytes(sizes, settings, TOKENS, CONTEXT, reference=lora is None, shards=shards)
            for label, parts in cases.items():
                gpus = 1 if label == "native" else 8
                playing = sampling_bytes(sizes, settings, ROWS // gpus, CONTEXT)["key-value cache"]
                numbers = " | ".join(f"{parts[part] / GIB:.1f}" for part in PARTS)
                total = sum(parts.values()) / GIB
                yield f"| {name}{suffix} | {label} | {numbers} | **{total:.1f}** | {playing / GIB:.1f} |"


if __name__ == "__main__":
    print("\n".join(rows()))
