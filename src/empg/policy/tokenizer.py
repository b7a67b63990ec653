"""A small tokenizer trained on an environment's own text, with ChatML tokens and the agent's tags as tokens."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from empg.errors import DataError
from empg.files import read_json

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

# ChatML without the line break between messages: a token fewer a turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# What `transformers`' Qwen2Tokenizer writes beside tokenizer.json, so that `AutoTokenizer` reads the folder as we do.
SETTINGS = {
    "add_prefix_space": None,
    "backend": "tokenizers",
    "bos_token": None,
    "clean_up_tokenization_spaces": False,
    "eos_token": END,
    "extra_special_tokens": [START],
    "model_max_length": int(1e30),
    "pad_token": PAD,
    "tokenizer_class": "Qwen2Tokenizer",
    "unk_token": PAD,
}
BACKEND, SETTINGS_FILE, TEMPLATE_FILE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
FOREIGN_FILES = (
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)  # `AutoTokenizer` reads them
# Its word splitting: byte-pair merges, of which we have none, would not cross these borders.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The pieces that phrases may not cross: lines, roles with their line break, and names.
_LINES = r"(?:system|user|assistant)\n|\n+"
_NUMBERED = re.compile(r"([A-Za-z]+) \d")


class TinyTokenizer:
    """The tokenizer of a tiny policy.

    It equals `transformers`' Qwen2Tokenizer of the same folder in ids, text and files, has that class's names, and does
    not import it: importing `transformers` takes longer than anything else that a job does before it starts.

    Args:
        phrases: the added tokens, in the order of their ids.
    """

    chat_template = CHAT_TEMPLATE
    bos_token, eos_token, pad_token = None, END, PAD
    all_special_tokens = (END, PAD, START)

    def __init__(self, phrases: Iterable[str]) -> None:
        vocabulary = _bytes_only()
        self.pad_token_id = vocabulary[PAD]
        self.all_special_ids = [vocabulary[token] for token in self.all_special_tokens]
        self.backend_tokenizer = backend = Tokenizer(
            models.BPE(vocab=vocabulary, merges=[], continuing_subword_prefix="", end_of_word_suffix="")
        )
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([AddedToken(token, normalized=False) for token in self.all_special_tokens])
        backend.add_tokens([AddedToken(phrase, normalized=False, special=False) for phrase in phrases])

    @classmethod
    def load(cls, folder: Path) -> TinyTokenizer | None:
        """The tokenizer of a folder that :meth:`save_pretrained` wrote; None if any of its files differs from that.

        What differs is `AutoTokenizer`'s to read, or to refuse.
        """
        if any((folder / name).exists() for name in FOREIGN_FILES):
            return None
        try:
            written = (folder / BACKEND).read_text(encoding="utf-8")
            added = json.loads(written)["added_tokens"][len(cls.all_special_tokens) :]
            tokenizer = cls([token["content"] for token in added])
            settings = read_json(folder / SETTINGS_FILE)
            template = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
        except (OSError, ValueError, KeyError, TypeError, DataError):
            return None
        same = written == tokenizer.backend_tokenizer.to_str(pretty=True) and template == CHAT_TEMPLATE
        return tokenizer if same and settings == SETTINGS else None

    def save_pretrained(self, folder: Path) -> None:
        """Write the folder's files, as Qwen2Tokenizer writes them."""
        folder.mkdir(parents=True, exist_ok=True)
        self.backend_tokenizer.save(str(folder / BACKEND))
        (folder / SETTINGS_FILE).write_text(json.dumps(SETTINGS, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (folder / TEMPLATE_FILE).write_text(CHAT_TEMPLATE, encoding="utf-8")

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size())

    def get_vocab(self) -> dict[str, int]:
        """Each token's id."""
        return dict(self.backend_tokenizer.get_vocab())

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text; special tokens that it spells are those tokens. None are ever added to it."""
        return list(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], *, clean_up_tokenization_spaces: bool = False) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. Raises ``ValueError`` if it is to be cleaned."""
        if clean_up_tokenization_spaces:
            raise ValueError("clean_up_tokenization_spaces: expected false, found true")
        return str(self.backend_tokenizer.decode(list(ids), skip_special_tokens=False))

    def convert_ids_to_tokens(self, token: int) -> str | None:
        """The token of an id."""
        found: str | None = self.backend_tokenizer.id_to_token(token)
        return found

    def apply_chat_template(
        self, messages: Sequence[dict[str, str]], *, tokenize: bool = False, add_generation_prompt: bool = False
    ) -> str:
        """The text of a conversation. Raises ``ValueError`` if ids are asked for."""
        if tokenize:
            raise ValueError("tokenize: expected false, found true")
        return str(_template().render(messages=messages, add_generation_prompt=add_generation_prompt))


def _bytes_only() -> dict[str, int]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {PAD: 0, START: 1, END: 2} | {c: i for i, c in enumerate(alphabet, 3)}


@cache
def _template() -> Any:
    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, names: str | None = None, *, tags: Sequence[str] = ("think", "action")
) -> TinyTokenizer:
    """A tokenizer of at most ``vocab_size`` tokens: bytes, and the phrases of the text as added tokens.

    Phrases are what a byte-pair encoding that may merge across spaces makes of the text. They are kept as added tokens
    because `AutoTokenizer` puts its own word splitting in front of a Qwen2 folder's merges; added tokens come before
    that. Deterministic for the same texts in the same order.

    ``tags`` are the names of the environment's tags; those that the texts use are tokens. ``names`` is a regular
    expression that finds what the agent must copy or compare: each match is a token of its own, which no phrase
    crosses. Without it, words that are numbered somewhere ("cabinet 1") are names, with their number or without.
    """
    texts = list(texts)
    written = [f"<{slash}{tag}>" for tag in tags for slash in ("", "/")]
    spoken = [tag for tag in written if any(tag in text for text in texts)]
    count = vocab_size - len(_bytes_only()) - len(spoken)
    return TinyTokenizer([*spoken, *_phrases(texts, count, written, names or _numbered(texts))])


def _numbered(texts: list[str]) -> str:
    names = "|".join(sorted({name for text in texts for name in _NUMBERED.findall(text)}, key=lambda n: (-len(n), n)))
    return rf" ?\b(?:{names})\b(?: \d+)?" if names else "(?!)"


def _phrases(texts: list[str], count: int, tags: list[str], name: str) -> list[str]:
    """The ``count`` most frequent tokens of more than one character, most frequent first.

    The text between names merges across spaces into phrases, since environments speak in fixed ones (", you see a").
    """
    pieces = Regex(rf"{name}|{_LINES}|(?:(?!{name})[^\n])+")
    encoding = Tokenizer(models.BPE())
    encoding.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join(map(re.escape, tags))), behavior="removed"),
            pre_tokenizers.Split(pieces, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    encoding.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 2 * count,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    encoding.train_from_iterator(texts, trainer)
    used = Counter(i for e in encoding.encode_batch(texts) for i in e.ids)
    phrases = {encoding.decode([i]): n for i, n in used.items()}
    ranked = sorted((p for p in phrases if len(p) > 1 and "\ufffd" not in p), key=lambda p: (-phrases[p], p))
    return ranked[:count]
