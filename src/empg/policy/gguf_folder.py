"""A GGUF file of the Llama family as an ordinary Hugging Face folder: safetensors, ``config.json``, a fast tokenizer.

`transformers` reads GGUF itself, but needs `accelerate` for it and keeps the quantised form, which it cannot save.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from empg.errors import DataError
from empg.files import read_json, write_json
from empg.policy.reading import reading
from empg.policy.weights import write_config

if TYPE_CHECKING:
    from gguf import GGUFReader
    from tokenizers import Tokenizer

CONTROL = 3  # GGUF's type of a token that only the template writes
# GGUF's names of a block's tensors, and Hugging Face's.
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert(file: Path, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the model of a GGUF file to ``folder``, its weights dequantised and rounded to ``dtype``.

    The caller makes the write atomic. Raises :class:`DataError` for a file that is damaged, of another architecture
    than ``llama``, or of a tokenizer other than SmolLM's byte-pair encoding.
    """
    with reading(file, "a GGUF file of a Llama model"):
        _convert(file, folder, dtype)


def _convert(file: Path, folder: Path, dtype: torch.dtype) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(file)
    found = _field(reader, file, "general.architecture")
    if found != "llama":
        raise DataError(f"{file}: general.architecture: expected 'llama', found {found!r}")
    config = _config(reader, file)
    tensors = _tensors(reader, file, config["num_attention_heads"], config["num_key_value_heads"])
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    _save_tokenizer(reader, file, folder)
    write_config(config, dtype, folder)
    rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})


def _field(reader: GGUFReader, file: Path, name: str) -> Any:
    """The value of a key. Raises :class:`DataError` where there is none."""
    field = reader.get_field(name)
    if field is None:
        raise DataError(f"{file}: {name}: expected a value, found none")
    return field.contents()


def _config(reader: GGUFReader, file: Path) -> dict[str, Any]:
    def number(name: str) -> Any:
        return _field(reader, file, f"llama.{name}")

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(_field(reader, file, "tokenizer.ggml.tokens")),
        "hidden_size": number("embedding_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "intermediate_size": number("feed_forward_length"),
        "max_position_embeddings": number("context_length"),
        "hidden_act": "silu",
        # The file holds a float32, whose decimals end after six digits.
        "rms_norm_eps": float(f"{number('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(number("rope.freq_base")),
        "bos_token_id": _field(reader, file, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _field(reader, file, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": _field(reader, file, "tokenizer.ggml.padding_token_id"),
    }


def _tensors(reader: GGUFReader, file: Path, heads: int, kv_heads: int) -> dict[str, Tensor]:
    """The weights in float32 under Hugging Face's names."""
    from gguf import dequantize

    tensors: dict[str, Tensor] = {}
    for entry in reader.tensors:
        name = _hugging_face_name(entry.name)
        if name is None:
            raise DataError(f"{file}: tensor {entry.name}: expected one of a Llama model's, found another")
        shape = tuple(int(size) for size in reversed(entry.shape))
        tensor = torch.from_numpy(dequantize(entry.data, entry.tensor_type).copy()).view(shape)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = _halves(tensor, heads if name.endswith("q_proj.weight") else kv_heads)
        tensors[name] = tensor.contiguous()
    return tensors


def _hugging_face_name(name: str) -> str | None:
    stem, _, kind = name.rpartition(".")
    if stem in OUTER:
        return f"{OUTER[stem]}.{kind}"
    block, _, part = stem.removeprefix("blk.").partition(".")
    return f"model.layers.{block}.{BLOCK[part]}.{kind}" if part in BLOCK else None


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection as the rotation expects them: the halves of a head, not neighbours, are a pair.

    The inverse of ``LlamaModel.permute`` in llama.cpp's ``convert_hf_to_gguf.py``.
    """
    return weight.view(heads, len(weight) // heads // 2, 2, -1).transpose(1, 2).reshape(weight.shape)


def _save_tokenizer(reader: GGUFReader, file: Path, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    kind = _field(reader, file, "tokenizer.ggml.model"), _field(reader, file, "tokenizer.ggml.pre")
    if kind != ("gpt2", "smollm"):
        raise DataError(f"{file}: tokenizer.ggml.pre: expected 'smollm' of the model 'gpt2', found {kind!r}")
    tokens = _field(reader, file, "tokenizer.ggml.tokens")
    named = {
        f"{role}_token": tokens[_field(reader, file, f"tokenizer.ggml.{key}_token_id")]
        for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
    }
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_tokenizer(reader, file, tokens),
        chat_template=_field(reader, file, "tokenizer.chat_template"),
        model_max_length=_field(reader, file, "llama.context_length"),
        clean_up_tokenization_spaces=False,
        **named,
    )
    fast.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    # The class's name before `transformers` 5, which newer versions and other programs read too.
    write_json(settings, read_json(settings) | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _tokenizer(reader: GGUFReader, file: Path, tokens: list[str]) -> Tokenizer:
    """SmolLM's byte-pair encoding: digits alone, then GPT-2's words."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    merges = [tuple(pair.split(" ")) for pair in _field(reader, file, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = _field(reader, file, "tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer
