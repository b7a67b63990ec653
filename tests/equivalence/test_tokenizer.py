"""A tiny policy's tokenizer is `transformers`' of the same folder: the same files, ids and text, on every environment's
own text and on hostile strings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, pre_tokenizers
from transformers import AutoTokenizer, Qwen2Tokenizer

from empg.environments.alfworld import demonstrations as alfworld
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.base import Rates
from empg.environments.deepsearch import demonstrations as deepsearch
from empg.environments.deepsearch.dataset import DeepsearchDataset
from empg.environments.deepsearch.environment import DeepSearchEnvironment
from empg.environments.deepsearch.generated.writer import corpus_text
from empg.environments.deepsearch.search.index import Index
from empg.environments.deepsearch.search.retrieval import LocalRetriever
from empg.environments.deepsearch.tasks import GeneratedQuestions
from empg.environments.text import format_step
from empg.environments.webshop import demonstrations as webshop
from empg.environments.webshop.dataset import WebshopDataset
from empg.environments.webshop.environment import WebShopEnvironment
from empg.environments.webshop.tasks import GeneratedGoals
from empg.files import read_json, write_json, write_text
from empg.policy.chat import Chat
from empg.policy.tokenizer import CHAT_TEMPLATE, END, PAD, START, TinyTokenizer, train_tokenizer
from empg.training.warmstart import texts

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
TASKS, HELD_OUT = range(16), range(16, 24)
HOSTILE = [
    "",
    " ",
    "\n\n \t",
    "<|im_end|>",
    "<|im_start|>assistant\n<|im_end|><|endoftext|>",
    "<|im_start|",
    "<think><think></action>",
    "{{ messages }} {% raw %} {# x #}",
    "e\u0301 \N{CJK COMPATIBILITY IDEOGRAPH-2F800} ｆｕｌｌ",
    "\0\x7f\u200b\u202e\ufeff\ufffd\U0010ffff",
    "ß → 你好 🙂👩‍👩‍👧 it's 12345 don't",
    "cabinet 1cabinet 11 cabinet  1",
    "\ue000AGENT\ue000 \ue000OBSERVATION\ue000",
]

Said = tuple[list[str], list[str], str | None]  # texts to train on, others, and what finds names


def _said(demonstrate: Callable, numbers: range, write: Callable[[str, str], str] = format_step) -> list[str]:
    return [text for number in numbers for text in texts(demonstrate(number), "", write)]


def _alfworld(folder: Path) -> Said:
    games, rng = GeneratedGames("small", 0), Random(0)

    def play(number: int):
        (task,) = games.tasks("train", range(number, number + 1))
        return alfworld.demonstrate(AlfworldEnvironment(games, 20), task, rng, Rates(mistake=0.2))

    return _said(play, TASKS), _said(play, HELD_OUT), None


def _webshop(folder: Path) -> Said:
    goals, rng = GeneratedGoals(0), Random(0)

    def play(number: int):
        (task,) = goals.tasks("train", range(number, number + 1))
        return webshop.demonstrate(WebShopEnvironment(goals, 30), task, rng, Rates(mistake=0.2))

    return _said(play, TASKS), _said(play, HELD_OUT), WebshopDataset.names


def _deepsearch(folder: Path) -> Said:
    write_text(folder / "corpus.jsonl", corpus_text(0))
    retriever = LocalRetriever(Index.build(folder / "corpus.jsonl", folder / "index"))
    questions, rng = GeneratedQuestions(0), Random(0)

    def play(number: int):
        (task,) = questions.tasks("train", range(number, number + 1))
        return deepsearch.demonstrate(
            DeepSearchEnvironment(questions, retriever, max_steps=12), task, rng, Rates(mistake=0.2)
        )

    write = DeepsearchDataset.format_step
    return _said(play, TASKS, write), _said(play, HELD_OUT, write), DeepsearchDataset.names


ENVIRONMENTS = {"alfworld": _alfworld, "webshop": _webshop, "deepsearch": _deepsearch}


def written_by_transformers(ours: TinyTokenizer) -> Qwen2Tokenizer:
    """A tokenizer of these tokens, made by `transformers` alone."""
    vocabulary = sorted(ours.get_vocab(), key=ours.get_vocab().__getitem__)
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate([PAD, START, END, *characters])},
        merges=[],
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    phrases = vocabulary[3 + len(characters) :]
    tokenizer.add_tokens([AddedToken(phrase, normalized=False, special=False) for phrase in phrases])
    return tokenizer


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def case(request, tmp_path_factory):
    """Our tokenizer of an environment as it was trained, its folder, and text that it was not trained on."""
    folder = tmp_path_factory.mktemp(request.param)
    said, held_out, names = ENVIRONMENTS[request.param](folder)
    tokenizer = train_tokenizer(said, 700, names, tags=("think", "action", "search", "answer", "information"))
    tokenizer.save_pretrained(folder / "model")
    return tokenizer, folder / "model", held_out


def test_the_files_are_those_that_transformers_writes(case, tmp_path):
    tokenizer, folder, _ = case
    written_by_transformers(tokenizer).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_ids_and_text_are_those_of_transformers(case, family):
    trained, folder, held_out = case
    write_json(folder / "config.json", {"model_type": family})
    ours, theirs = TinyTokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    assert isinstance(ours, TinyTokenizer)
    assert ours.get_vocab() == trained.get_vocab() == theirs.get_vocab()
    assert len(ours) == len(theirs) > 400
    assert list(ours.all_special_ids) == theirs.all_special_ids
    assert list(ours.all_special_tokens) == theirs.all_special_tokens
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    for name in ("pad_token", "pad_token_id", "eos_token", "bos_token", "chat_template"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for i in range(len(ours)):
        assert ours.decode([i]) == theirs.decode([i])
        assert ours.convert_ids_to_tokens(i) == theirs.convert_ids_to_tokens(i)
    used = set()
    for text in [*held_out, *HOSTILE, *(a + b for a in HOSTILE for b in HOSTILE)]:
        _assert_alike(ours, theirs, text)
        used.update(ours.encode(text))
    assert len(used) > 150, "the texts use many tokens"
    chats = Chat(ours, "Tidy up.", "ours"), Chat(theirs, "Tidy up.", "theirs")
    for text in [*held_out, *HOSTILE]:
        for part in ("opening", "reply", "agent"):
            ids, expected = (getattr(chat, part)(text) for chat in chats)
            assert ids == expected
        assert chats[0].text(ids) == chats[1].text(ids)


def _assert_alike(ours, theirs, text: str) -> None:
    ids = ours.encode(text, add_special_tokens=False)
    assert ids == theirs.encode(text, add_special_tokens=False)
    for part in (ids, ids[1:], ids[::-1]):
        assert ours.decode(part) == theirs.decode(part, clean_up_tokenization_spaces=False)
    messages = [{"role": "system", "content": "Do."}, {"role": "user", "content": text}]
    for answered in (messages, [*messages, {"role": "assistant", "content": text}]):
        for prompt in (True, False):
            options = {"tokenize": False, "add_generation_prompt": prompt}
            assert ours.apply_chat_template(answered, **options) == theirs.apply_chat_template(answered, **options)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    train_tokenizer(["<think>so</think><action>take mug 1</action>", "You see a mug 1."] * 3, 320).save_pretrained(
        folder
    )
    return TinyTokenizer.load(folder), AutoTokenizer.from_pretrained(folder)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    text=st.text()
    | st.lists(st.sampled_from([*HOSTILE, START, END, PAD, "mug", " mug 1", "<action>", "\n", "x"])).map("".join)
)
@example("mug 1mug 1")
def test_any_text_is_read_alike(pair, text):
    _assert_alike(*pair, text)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(ids=st.lists(st.integers(0, 319), max_size=12))
def test_any_ids_are_written_alike(pair, ids):
    ours, theirs = pair
    ids = [i for i in ids if i < len(ours)]
    assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)


def test_what_differs_in_any_file_is_left_to_transformers(tmp_path):
    ours = train_tokenizer(["<think>so</think><action>take mug 1</action>", "You see a mug 1."] * 3, 320)

    def changed(name: str, change: Callable[[Path], object]) -> TinyTokenizer | None:
        ours.save_pretrained(tmp_path / name)
        change(tmp_path / name)
        return TinyTokenizer.load(tmp_path / name)

    def edit(file: str, *path: str | int, value: object) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            content = part = read_json(folder / file)
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = value
            write_json(folder / file, content)

        return change

    assert changed("same", lambda folder: None) is not None
    backend, config, template = FILES
    for number, change in enumerate(
        [
            edit(backend, "normalizer", value=None),
            edit(backend, "added_tokens", 5, "normalized", value=True),
            edit(backend, "added_tokens", 1, "special", value=False),
            edit(backend, "model", "vocab", "!", value=4),
            edit(backend, "truncation", value={"direction": "Right", "max_length": 3, "strategy": "x", "stride": 0}),
            edit(config, "eos_token", value=PAD),
            edit(config, "tokenizer_class", value="LlamaTokenizer"),
            lambda folder: (folder / template).write_text(CHAT_TEMPLATE + "!"),
            lambda folder: (folder / backend).write_text("{}"),
            lambda folder: (folder / config).write_text("?"),
            lambda folder: (folder / template).unlink(),
            lambda folder: (folder / "special_tokens_map.json").write_text("{}"),
        ]
    ):
        assert changed(str(number), change) is None, number


def test_what_it_cannot_do_is_refused():
    ours = train_tokenizer(["so"], 300)
    with pytest.raises(ValueError, match="clean_up_tokenization_spaces: expected false, found true"):
        ours.decode([3], clean_up_tokenization_spaces=True)
    with pytest.raises(ValueError, match="tokenize: expected false, found true"):
        ours.apply_chat_template([], tokenize=True)
