"""The policy and how it is sampled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from empg.config.base import Model, Positive


class TinyPolicy(Model):
    """A small network trained from scratch, with a tokenizer trained on the environment's text.

    ``induction`` initialises heads that repeat sequences, which helps with names of several tokens.
    ``residual_scale`` multiplies the initial scale of the residual stream.
    """

    type: Literal["tiny"] = "tiny"
    family: Literal["qwen2", "llama"] = "qwen2"
    vocab_size: Positive = 1000
    width: Positive = 96
    layers: Positive = 3
    heads: Positive = 4
    kv_heads: Positive = 2
    mlp_width: Positive = 256
    max_positions: Positive = 1024
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    induction: bool = False
    residual_scale: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _sizes_fit(self) -> TinyPolicy:
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"expected width divisible by 2·heads and heads by kv_heads, "
                f"found width={self.width}, heads={self.heads}, kv_heads={self.kv_heads}"
            )
        return self


class Lora(Model):
    """Low-rank adapters (arXiv 2106.09685): W + (alpha / rank)·B·A for each linear layer of ``targets``, or of all."""

    rank: Positive = 16
    alpha: Positive = 32
    targets: tuple[str, ...] = ()


class PretrainedPolicy(Model):
    """Any causal language model of `transformers` with a chat template: a folder or a hub id.

    Qwen2, Qwen3 and Llama run in our own forward pass, other families and ``lora`` in that of `transformers`. bfloat16
    weights are trained with float32 copies.
    """

    type: Literal["pretrained"]
    model: str
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    lora: Lora | None = None
    freeze_embeddings: bool = True
    gradient_checkpointing: bool = True


Policy = Annotated[TinyPolicy | PretrainedPolicy, Field(discriminator="type")]


class Sampling(Model):
    """How episodes are sampled. The loss uses the same temperature.

    ``max_refused`` invalid actions in a row end an episode; with 0 it goes on to its step limit. ``rows`` is the number
    of episodes that are sampled at once.

    ``engine`` is this package's own sampler or a vLLM server: the one at ``url``, or without it one that each stage
    starts on the loopback interface, with the arguments ``serve`` beside its own. ``max_ratio`` truncates the
    importance weights of tokens that a server sampled, the policy's probability over the
    server's (truncated importance sampling, Ionides 2008).
    """

    temperature: Annotated[float, Field(gt=0)] = 1.0
    max_response: Positive = 40
    max_context: Positive = 1024
    max_refused: Annotated[int, Field(ge=0)] = 2
    rows: Positive = 256
    engine: Literal["native", "vllm"] = "native"
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+/?$")] | None = None
    serve: tuple[str, ...] = ()
    max_ratio: Annotated[float, Field(ge=1)] = 2.0

    @model_validator(mode="after")
    def _fits_the_engine(self) -> Sampling:
        if self.engine == "native" and (self.url is not None or self.serve):
            raise ValueError("url and serve: expected none with engine native, found one")
        if self.url is not None and self.serve:
            raise ValueError("serve: expected none with url, whose server runs already, found arguments")
        return self
