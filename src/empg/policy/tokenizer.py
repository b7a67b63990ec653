"""A small tokenizer trained on an environment's own text, with ChatML tokens and the agent's tags as tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

# ChatML without the line break between messages: a token fewer a turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# The pieces that phrases may not cross: lines, roles with their line break, and names.
_LINES = r"(?:system|user|assistant)\n|\n+"
_NUMBERED = re.compile(r"([A-Za-z]+) \d")


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, names: str | None = None, *, tags: Sequence[str] = ("think", "action")
) -> Qwen2Tokenizer:
    """A tokenizer of at most ``vocab_size`` tokens: bytes, and the phrases of the text as added tokens.

    Phrases are what a byte-pair encoding that may merge across spaces makes of the text. They are kept as added tokens
    because `AutoTokenizer` puts its own word splitting in front of a Qwen2 folder's merges; added tokens come before
    that. Deterministic for the same texts in the same order.

    ``tags`` are the names of the environment's tags; those that the texts use are tokens. ``names`` is a regular
    expression that finds what the agent must copy or compare: each match is a token of its own, which no phrase
    crosses. Without it, words that are numbered somewhere ("cabinet 1") are names, with their number or without.
    """
    texts = list(texts)
    bytes_only = {PAD: 0, START: 1, END: 2} | {
        c: i + 3 for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    tokenizer = Qwen2Tokenizer(
        vocab=bytes_only,
        merges=[],
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    written = [f"<{slash}{tag}>" for tag in tags for slash in ("", "/")]
    spoken = [tag for tag in written if any(tag in text for text in texts)]
    count = vocab_size - len(bytes_only) - len(spoken)
    phrases = [*spoken, *_phrases(texts, count, written, names or _numbered(texts))]
    tokenizer.add_tokens([AddedToken(phrase, normalized=False, special=False) for phrase in phrases])
    return tokenizer


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
