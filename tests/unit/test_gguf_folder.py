"""A model that goes into a GGUF file, as llama.cpp writes it, comes back as the folder that it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from empg.errors import DataError
from empg.policy.chat import Chat
from empg.policy.gguf_folder import BLOCK, OUTER, convert
from empg.policy.policy import Policy

HEADS, KV_HEADS = 4, 2
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ t", "h e", "Ġt he"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOKENS = [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]


def model(tied: bool = True):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        intermediate_size=96,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=tied,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def neighbours(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """As llama.cpp's converter permutes a query or key projection."""
    return weight.view(heads, 2, len(weight) // heads // 2, -1).transpose(1, 2).reshape(weight.shape)


def write(path: Path, network, *, matrices=GGMLQuantizationType.F32, architecture="llama", pre="smollm") -> None:
    writer = GGUFWriter(path, architecture)
    config = network.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(100_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = {theirs: ours for ours, theirs in (BLOCK | OUTER).items()}
    for name, tensor in network.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, block = name.removesuffix(".weight"), ""
        if stem.startswith("model.layers."):
            number, stem = stem.removeprefix("model.layers.").split(".", 1)
            block = f"blk.{number}."
        if stem.endswith(("q_proj", "k_proj")):
            tensor = neighbours(tensor, HEADS if stem.endswith("q_proj") else KV_HEADS)  # noqa: PLW2901
        kind = matrices if tensor.ndim == 2 and block else GGMLQuantizationType.F32
        writer.add_tensor(f"{block}{names[stem]}.weight", quantize(tensor.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("tied", [True, False])
def test_a_float32_file_is_the_model_that_it_was_made_of(tied, tmp_path):
    theirs = model(tied)
    write(tmp_path / "model.gguf", theirs)
    convert(tmp_path / "model.gguf", tmp_path / "folder", torch.float32)
    again, information = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", output_loading_info=True)
    assert not any(information[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.randint(len(TOKENS), (1, 60), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, theirs(ids).logits, atol=0, rtol=0)
        network = Policy.load(tmp_path / "folder", "").network
        torch.testing.assert_close(
            network.states(ids[0]) @ network.output_weight.T, theirs(ids).logits[0], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0], ids=["Q4_1", "Q8_0"])
def test_quantised_matrices_are_dequantised_and_rounded(kind, tmp_path):
    theirs = model()
    write(tmp_path / "model.gguf", theirs, matrices=kind)
    convert(tmp_path / "model.gguf", tmp_path / "folder")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    for name, tensor in theirs.state_dict().items():
        expected = tensor
        if tensor.ndim == 2 and "layers" in name:
            heads = {"q_proj.weight": HEADS, "k_proj.weight": KV_HEADS}.get(".".join(name.split(".")[-2:]))
            stored = neighbours(tensor, heads) if heads else tensor
            expected = torch.from_numpy(dequantize(quantize(stored.numpy(), kind), kind))
            if heads:
                expected = expected.view(heads, -1, 2, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
            assert (expected - tensor).abs().max() > 0, "quantisation should lose something"
        torch.testing.assert_close(again.state_dict()[name], expected.bfloat16(), atol=0, rtol=0)


def test_the_tokenizer_splits_digits_and_merges_words(tmp_path):
    write(tmp_path / "model.gguf", model())
    convert(tmp_path / "model.gguf", tmp_path / "folder")
    for tokenizer in (AutoTokenizer.from_pretrained(tmp_path / "folder"), Chat.load(tmp_path / "folder", "").tokenizer):
        pieces = tokenizer.convert_ids_to_tokens(tokenizer.encode("the the 12<|im_end|>", add_special_tokens=False))
        assert pieces == ["t", "he", "Ġthe", "Ġ", "1", "2", "<|im_end|>"]
        assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
        text = "ß → 你好 🙂\n\t two  spaces, 10"
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert Chat.load(tmp_path / "folder", "").end_of_turn == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "gemma"}, "general.architecture: expected 'llama', found 'gemma'"),
        ({"pre": "qwen2"}, "tokenizer.ggml.pre: expected 'smollm' of the model 'gpt2', found"),
    ],
)
def test_other_files_are_refused(options, message, tmp_path):
    write(tmp_path / "model.gguf", model(), **options)
    with pytest.raises(DataError, match=message) as error:
        convert(tmp_path / "model.gguf", tmp_path / "folder")
    assert str(error.value).startswith(f"{tmp_path / 'model.gguf'}: ")


def test_a_damaged_file_is_refused(tmp_path):
    file = tmp_path / "model.gguf"
    write(file, model())
    for content in (b"no model", file.read_bytes()[:-5000], file.read_bytes()[:2000]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"model\.gguf: expected a"):
            convert(file, tmp_path / "folder")
