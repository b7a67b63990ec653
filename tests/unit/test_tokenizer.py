"""The trained tokenizer: names and tags are single tokens, any text survives, the same text gives the same tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from empg.policy.tokenizer import END, PAD, START, train_tokenizer

TEXTS = [
    "system\n",
    "user\nYou are in a room. You see a cabinet 1, a mug 2, and a side table 11.",
    "assistant\n<think>find a mug</think><action>go to cabinet 1</action>",
    "user\nOn the cabinet 1, you see a mug 2.",
    "assistant\n<think>take the mug</think><action>take mug 2 from cabinet 1</action>",
] * 3
TAGS = ("think", "action", "search", "access", "answer", "information")
SPOKEN = ("<think>", "</think>", "<action>", "</action>")  # the tags that occur in them


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 500, tags=TAGS)


def pieces(tokenizer, text):
    return [tokenizer.decode([i]) for i in tokenizer.encode(text, add_special_tokens=False)]


@pytest.mark.parametrize("name", ["cabinet 1", "mug 2", "table 11"])
def test_a_name_is_one_token_wherever_it_stands(tokenizer, name):
    for text in (f"You see a {name}, and", f"take {name} from", f"<action>go to {name}</action>"):
        assert sum(name in piece for piece in pieces(tokenizer, text)) == 1
        assert {f" {name}", name} & set(pieces(tokenizer, text))


def test_no_other_token_holds_a_name(tokenizer):
    """What the agent must copy stands apart from the phrase around it."""
    for i in range(len(tokenizer)):
        piece = tokenizer.decode([i])
        if "cabinet" in piece:
            assert piece.strip() in ("cabinet", "cabinet 1")


def test_tags_and_chat_tokens_are_single_tokens(tokenizer):
    for text in (*SPOKEN, START, END, PAD):
        assert pieces(tokenizer, text) == [text]
        assert pieces(tokenizer, f"x{text}y")[1] == text
    holding = {p for p in (tokenizer.decode([i]) for i in range(len(tokenizer))) if "<" in p or "think" in p}
    assert holding == {*SPOKEN, START, END, PAD, "<"}, "no room is wasted on parts of tags"
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END, PAD)
    assert {START, END, PAD} <= set(tokenizer.all_special_tokens)
    assert not set(SPOKEN) & set(tokenizer.all_special_tokens)
    assert {f"<{tag}>" for tag in TAGS} - set(SPOKEN), "tags that nobody spoke take no room"


def test_a_fixed_phrase_is_one_token(tokenizer):
    assert ", you see a" in pieces(tokenizer, TEXTS[3])
    assert len(pieces(tokenizer, TEXTS[3])) < 9


def test_the_size_is_a_limit():
    smallest = 256 + 3 + len(SPOKEN)
    for size in (smallest + 1, smallest + 10):
        assert len(train_tokenizer(TEXTS, size, tags=TAGS)) == size
    assert len(train_tokenizer(TEXTS, 10_000, tags=TAGS)) < 500
    assert len(train_tokenizer(["nothing twice"], 10_000)) == 256 + 3


@settings(derandomize=True, deadline=None)
@given(text=st.text())
@example("\N{CJK COMPATIBILITY IDEOGRAPH-2F800} e\u0301")
def test_any_text_survives_in_its_composed_form(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == unicodedata.normalize("NFC", text)


def test_the_same_text_gives_the_same_tokens_in_another_process(tokenizer):
    code = (
        "import json, sys; from empg.policy.tokenizer import train_tokenizer;"
        "print(json.dumps(train_tokenizer(json.load(sys.stdin), 500).get_vocab(), sort_keys=True))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert json.loads(found.stdout) == tokenizer.get_vocab()
