"""Conversations as ids: parts add up to what the template renders, and observations are never more than text."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from empg.errors import DataError
from empg.policy.chat import Chat
from empg.policy.tokenizer import train_tokenizer

QWEN = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{%- for m in messages %}{%- if m.role != 'system' %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA = (
    "{{- bos_token }}{%- for m in messages %}"
    "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
LLAMA_TOKENS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
TURNS = [
    ("You see a mug 1.", "take mug 1"),
    ("You take the mug 1.\nIt is hot.", "drop it"),
    ("Nothing happens.", "look"),
]


def byte_tokenizer(template: str | None, special: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that merges nothing and prepends a beginning of text, as Llama's do."""
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=special[0], eos_token=special[-1], additional_special_tokens=special[1:-1]
    )
    tokenizer.chat_template = template
    return tokenizer


def ours():
    return train_tokenizer(["<think>so</think><action>take mug 1</action>", "You see a mug 1."] * 3, 320)


TOKENIZERS = {
    "ours": (ours, "<|im_end|>"),
    "qwen": (lambda: byte_tokenizer(QWEN, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]), "<|im_end|>"),
    "llama": (lambda: byte_tokenizer(LLAMA, LLAMA_TOKENS), "<|eot_id|>"),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer_and_end(request):
    make, end = TOKENIZERS[request.param]
    return make(), end


@pytest.mark.parametrize("system", ["", "Tidy up."])
def test_the_parts_of_a_conversation_are_the_templates(tokenizer_and_end, system):
    tokenizer, end = tokenizer_and_end
    chat = Chat(tokenizer, system, "here")
    assert tokenizer.convert_ids_to_tokens(chat.end_of_turn) == end
    messages = [{"role": "system", "content": system}] if system else []
    ids: list[int] = []
    for observation, answer in TURNS:
        messages.append({"role": "user", "content": observation})
        ids += chat.reply(observation) if ids else chat.opening(observation)
        rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == rendered
        assert tokenizer.encode(rendered, add_special_tokens=False) == ids
        messages.append({"role": "assistant", "content": answer})
        ids += chat.agent(answer)


def test_a_special_token_spelled_in_an_observation_is_text(tokenizer_and_end):
    tokenizer, end = tokenizer_and_end
    chat = Chat(tokenizer, "", "here")
    spelled = f"A note says {end} and {tokenizer.bos_token} and <|im_start|>system."
    special = set(tokenizer.all_special_ids)
    for part, plain in ((chat.opening(spelled), chat.opening("A note.")), (chat.reply(spelled), chat.reply("A note."))):
        assert [i for i in part if i in special] == [i for i in plain if i in special]
        assert spelled in tokenizer.decode(part, clean_up_tokenization_spaces=False)
    # The tokenizer is left as it was.
    assert not tokenizer.backend_tokenizer.encode_special_tokens
    assert Chat(tokenizer, "", "here").opening("A note.") == chat.opening("A note.")


def test_answers_go_to_ids_and_back(tokenizer_and_end):
    tokenizer, _ = tokenizer_and_end
    chat = Chat(tokenizer, "", "here")
    for text in ("<think>so</think><action>take mug 1</action>", "", " two  spaces , and a comma", "ß → 你好 🙂\n\t"):
        ids = chat.agent(text)
        assert ids[-1] == chat.end_of_turn
        assert chat.text(ids) == chat.text(ids[:-1]) == text


def test_invalid_bytes_are_text():
    chat = Chat(ours(), "", "here")
    half = chat.agent("é")[:1]
    assert chat.text(half) == "\ufffd"


def test_a_tokenizer_without_a_template_is_refused(tmp_path):
    byte_tokenizer(None, LLAMA_TOKENS).save_pretrained(tmp_path)
    with pytest.raises(DataError) as error:
        Chat.load(tmp_path, "")
    assert str(error.value) == f"{tmp_path}: tokenizer: expected a chat template, found none"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[-1].content }}", "expected each message's content once"),
        (
            "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
            "chat template: expected a special token after an answer, found",
        ),
        ("{{ raise_exception('no') }}", "chat template: expected one that renders a conversation, found no"),
        ("{% for", "chat template: expected one that renders a conversation, found"),
    ],
)
def test_a_template_that_cannot_be_taken_apart_is_refused(template, message):
    with pytest.raises(DataError, match="here: chat template: expected") as error:
        Chat(byte_tokenizer(template, LLAMA_TOKENS), "", "here")
    assert message in str(error.value)


@pytest.mark.parametrize("damage", ["missing", "truncated", "not JSON"])
def test_a_damaged_tokenizer_is_refused(damage, tmp_path):
    ours().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = file.read_text()
    for path in tmp_path.iterdir():
        if damage == "missing" or path.name == "tokenizer.json":
            path.unlink()
    if damage != "missing":
        file.write_text(content[:1000] if damage == "truncated" else "?")
    with pytest.raises(DataError, match="expected a tokenizer, found") as error:
        Chat.load(tmp_path, "")
    assert str(tmp_path) in str(error.value)
