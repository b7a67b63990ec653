"""Every reader of foreign bytes either understands them or refuses them with its documented error.

Hypothesis damages good files: slices of bytes, and values of JSON. A few inputs a reader here, 10⁵ in all by
`make fuzz`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from empg import provenance
from empg.config import ENVIRONMENTS, TinyPolicy, load_data, load_environments, load_study
from empg.environments.alfworld.engine.game import DOMAIN, GRAMMAR, Game
from empg.environments.datasets import open_dataset
from empg.environments.deepsearch.questions import load_questions
from empg.environments.deepsearch.search import server
from empg.environments.deepsearch.search.corpus import read_corpus
from empg.environments.deepsearch.search.retrieval import HttpRetriever
from empg.environments.webshop.engine.shop import Shop
from empg.errors import EmpgError
from empg.policy.chat import Chat
from empg.policy.policy import Policy
from empg.policy.tokenizer import train_tokenizer
from empg.schema import EPISODES, read_table, write_table
from empg.training.warmstart import tiny_policy

from .test_alfworld_files import PROBLEM
from .test_webshop_files import DESCRIBED, ITEM

EXAMPLES = int(os.environ.get("EMPG_FUZZ_EXAMPLES", "12"))
CONFIG = Path(__file__).parents[2] / "config"
WANTED = {"instruction": "a shirt.", "instruction_attributes": ["soft"], "instruction_options": ["red"]}
EPISODE = dict.fromkeys(EPISODES) | {"split": "id", "metrics": [{"name": "f1", "value": 0.5}], "steps": 3}
HIT = {"document": {"id": "7", "contents": '"Lima"\nA city.'}, "score": 1.5}
Read = Callable[[Path], object]


def lines(*values: Any) -> bytes:
    return "".join(f"{json.dumps(value)}\n" for value in values).encode()


def answered(folder: Path, path: str) -> object:
    """What our client makes of a server's answer."""
    with HttpRetriever("http://127.0.0.1:1") as retriever:

        async def answer(url: str, content: bytes) -> tuple[int, bytes]:
            return 200, (folder / "reply").read_bytes()

        retriever._attempt = answer  # type: ignore[method-assign]
        return retriever.search_batch(["a"], 3) if path == "hits" else retriever.page_batch(["a"])


def asked(folder: Path) -> object:
    """What our server makes of a request. Its refusals are answers of 4xx."""
    content = (folder / "request").read_bytes()
    for read in (server._read_search, server._read_pages):
        try:
            read(content)
        except HTTPException as error:
            refused = error.status_code in range(400, 500), json.dumps(error.detail)
            assert refused[0]
    return None


def study(folder: Path) -> object:
    data = load_data(folder / "data.yaml")
    return load_study(folder / "config.yaml", data, load_environments(folder / "environments.yaml"))


# Per reader: its good files, and how they are read.
READERS: dict[str, tuple[dict[str, bytes], Read]] = {
    "configuration": ({n: (CONFIG / n).read_bytes() for n in ("config.yaml", "data.yaml", "environments.yaml")}, study),
    "corpus": (
        {"corpus.jsonl": lines({"id": "0", "contents": '"Lima"\nA city.'}, {"id": 1, "contents": "Oslo\nCold."})},
        lambda folder: list(read_corpus(folder / "corpus.jsonl")),
    ),
    "questions": (
        {
            "q.jsonl": lines(
                {"id": "1", "question": "Where?", "golden_answers": ["Lima"], "metadata": {"type": "bridge"}},
                {"id": "2", "question": "Who?", "answer": "Ann", "supporting_facts": {"title": ["A"], "sent_id": [0]}},
            )
        },
        lambda folder: load_questions(folder / "q.jsonl"),
    ),
    "game": (
        {"game.tw-pddl": lines({"pddl_domain": DOMAIN, "grammar": GRAMMAR, "pddl_problem": PROBLEM})},
        lambda folder: Game.load(folder).reset(),
    ),
    "shop": (
        {
            "items.json": lines([ITEM, ITEM | {"asin": "B000000002", "customization_options": ""}]),
            "attributes.json": lines({"B000000001": DESCRIBED, "B000000002": {"attributes": []}}),
            "people.json": lines({"B000000001": [WANTED]}),
        },
        lambda folder: Shop.load(folder / "items.json", folder / "attributes.json", folder / "people.json").goals,
    ),
    "manifest": (
        {"manifest.json": lines({"stage": "train", "outputs": {"a": "b"}})},
        provenance.digest,
    ),
    "hits": ({"reply": lines({"result": [[HIT, HIT]]})}, lambda folder: answered(folder, "hits")),
    "pages": ({"reply": lines({"pages": [{"title": "a", "text": "b"}]})}, lambda folder: answered(folder, "pages")),
    "request": ({"request": lines({"queries": ["a", "b"], "topk": 3, "return_scores": True})}, asked),
}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def damaged(random: Random, content: bytes, value: Any) -> bytes:
    """A file with a slice deleted, doubled or overwritten, or with one value of its JSON replaced."""
    start = random.randrange(len(content) + 1)
    end = min(len(content), start + random.randrange(1, 60))
    match random.randrange(6):
        case 0:
            return content[:start] + content[end:]
        case 1:
            return content[:end] + content[start:]
        case 2:
            return content[:start] + random.randbytes(end - start) + content[end:]
        case 3:
            return content[:start] + json.dumps(value).encode() + content[end:]
    try:
        parts = [json.loads(line) for line in content.splitlines()]
    except ValueError:
        return content[:start]
    place: Any = parts
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not keys:
            break
        key = random.choice(keys)
        if not isinstance(place[key], dict | list) or random.random() < 0.2:
            place[key] = value
            break
        place = place[key]
    return "\n".join(json.dumps(part) for part in parts).encode()


def fuzzed(files: dict[str, bytes], read: Read, folder: Path) -> None:
    """Damage one file a time."""

    @hypothesis_settings(
        max_examples=EXAMPLES,
        deadline=timedelta(seconds=20),
        derandomize="EMPG_FUZZ_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**64).map(Random), anything)
    def run(random: Random, value: Any) -> None:
        hurt = random.choice(sorted(files))
        for name, content in files.items():
            (folder / name).write_bytes(damaged(random, content, value) if name == hurt else content)
        try:
            read(folder)
        except EmpgError as error:
            assert len(str(error)) < 5000  # noqa: PT017 - it may be understood as well

    for name, content in files.items():
        (folder / name).write_bytes(content)
    read(folder)  # the good files are good
    run()


@pytest.mark.parametrize("name", READERS)
def test_a_reader_refuses_what_it_does_not_understand(name: str, tmp_path: Path) -> None:
    fuzzed(*READERS[name], tmp_path)


def test_a_table_is_read_or_refused(tmp_path: Path) -> None:
    write_table(pl.DataFrame([EPISODE] * 3, schema=EPISODES), EPISODES, tmp_path / "a.parquet")
    files = {"a.parquet": (tmp_path / "a.parquet").read_bytes()}
    fuzzed(files, lambda folder: read_table(folder / "a.parquet", EPISODES), tmp_path)


def test_a_model_folder_is_read_or_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["user\nOpen the door.", "assistant\nopen door"] * 5, 300, None, tags=[])
    sizes = TinyPolicy(type="tiny", width=32, layers=1, mlp_width=32, vocab_size=300)
    tiny_policy(sizes, Chat(tokenizer, "Play.", "the tokenizer"), 0).save(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fuzzed(files, lambda folder: Policy.load(folder, "Play."), tmp_path)


@pytest.mark.parametrize("name", ["alfworld", "webshop", "deepsearch"])
def test_no_text_of_an_agent_crashes_an_environment(name: str, tmp_path: Path) -> None:
    """Whatever is said, the environment answers; four times as many texts as other inputs."""
    sizes = dict.fromkeys(ENVIRONMENTS[name].data(type=name).sizes.model_dump(), 2)
    dataset = open_dataset(ENVIRONMENTS[name].data(type=name, sizes=sizes), tmp_path)
    dataset.write(tmp_path)
    arena, task = dataset.arena(10), dataset.tasks("train")[0]
    environment = arena.make()
    environment.reset(task)
    words = [
        "<search>",
        "</search>",
        "<answer>",
        "<action>",
        "</action>",
        "search[",
        "click[",
        "]",
        "<think>",
        "go to ",
    ]

    @hypothesis_settings(
        max_examples=4 * EXAMPLES,
        deadline=timedelta(seconds=20),
        derandomize="EMPG_FUZZ_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.sampled_from(words) | st.text(alphabet=st.characters(), max_size=30), max_size=8).map("".join))
    def run(text: str) -> None:
        (result,) = arena.step_all([environment], [arena.parse_action(text)])
        assert len(result.observation) < 100_000
        if result.done:
            environment.reset(task)

    run()
