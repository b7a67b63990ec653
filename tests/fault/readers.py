"""Every reader of foreign bytes, with good files that it understands. Fuzzers damage these."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import httpx
import polars as pl
from starlette.exceptions import HTTPException

from empg import provenance
from empg.config import TinyPolicy, load_data, load_environments, load_study
from empg.environments.alfworld.engine.game import DOMAIN, GRAMMAR, Game
from empg.environments.deepsearch.questions import load_questions
from empg.environments.deepsearch.search import server
from empg.environments.deepsearch.search.corpus import read_corpus
from empg.environments.deepsearch.search.retrieval import HttpRetriever
from empg.environments.webshop.engine.shop import Shop
from empg.errors import EmpgError
from empg.policy.chat import Chat
from empg.policy.gguf_folder import convert
from empg.policy.policy import Policy
from empg.policy.tokenizer import train_tokenizer
from empg.rollouts import vllm_client
from empg.rollouts.vllm_client import Client, Drawing
from empg.schema import EPISODES, read_table, write_table
from empg.training.warmstart import tiny_policy

from ..unit.test_gguf_folder import model, write
from .test_alfworld_files import PROBLEM
from .test_webshop_files import DESCRIBED, ITEM

CONFIG = Path(__file__).parents[2] / "config"
WANTED = {"instruction": "a shirt.", "instruction_attributes": ["soft"], "instruction_options": ["red"]}
EPISODE = dict.fromkeys(EPISODES) | {"split": "id", "metrics": [{"name": "f1", "value": 0.5}], "steps": 3}
HIT = {"document": {"id": "7", "contents": '"Lima"\nA city.'}, "score": 1.5}
CHOICE = {
    "finish_reason": "stop",
    "token_ids": [5, 2],
    "prompt_token_ids": [1, 3],
    "logprobs": {"token_logprobs": [-0.5, None]},
}
ADDRESS = "http://127.0.0.1:1"


class Reader(NamedTuple):
    """Good files by name, and what reads them from a folder."""

    files: dict[str, bytes]
    read: Callable[[Path], object]


def lines(*values: Any) -> bytes:
    return "".join(f"{json.dumps(value)}\n" for value in values).encode()


class Retriever(HttpRetriever):
    """Gets the content of a file for an answer."""

    reply: Path

    async def _attempt(self, url: str, content: bytes) -> tuple[int, bytes]:
        return 200, self.reply.read_bytes()


@cache
def retriever() -> Retriever:
    return Retriever(ADDRESS)


def hits(folder: Path) -> object:
    retriever().reply = folder / "reply"
    return retriever().search_batch(["a"], 3)


def pages(folder: Path) -> object:
    retriever()._has_pages = True  # it asks no server again that has answered wrongly
    retriever().reply = folder / "reply"
    return retriever().page_batch(["a"])


def asked(folder: Path) -> object:
    """What our server makes of a request. Its refusals are answers of 4xx."""
    content, refusals = (folder / "request").read_bytes(), []
    for read in (server._read_search, server._read_pages):
        try:
            read(content)
        except HTTPException as error:
            if error.status_code not in range(400, 500) or not json.dumps(error.detail):
                raise
            refusals.append(error.detail)
    if len(refusals) == 2:
        raise EmpgError(str(refusals))
    return None


@cache
def generator() -> tuple[Client, list[Path]]:
    """A client of a vLLM server, and the folder whose files it gets for answers."""
    folders: list[Path] = []

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=(folders[-1] / Path(request.url.path).name).read_bytes())

    client = Client(ADDRESS, connections=1, timeout=5.0)
    client._http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return client, folders


def generated(folder: Path) -> object:
    async def ask() -> object:
        client, folders = generator()
        folders[:] = [folder]
        await client.find_model(100)
        await client.load_weights(folder, "1")
        await client.weight_version()
        return await client.complete([1, 3], Drawing(max_tokens=4, temperature=1.0, end_of_turn=2), 0)

    with patch.object(vllm_client, "BACKOFF_SECONDS", 0):
        return asyncio.run(ask())


def study(folder: Path) -> object:
    data = load_data(folder / "data.yaml")
    return load_study(folder / "config.yaml", data, load_environments(folder / "environments.yaml"))


def table() -> Reader:
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.parquet")
        write_table(pl.DataFrame([EPISODE] * 3, schema=EPISODES), EPISODES, path)
        return Reader({path.name: path.read_bytes()}, lambda folder: read_table(folder / path.name, EPISODES))


def model_folder() -> Reader:
    with TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(["user\nOpen the door.", "assistant\nopen door"] * 5, 300, None, tags=[])
        sizes = TinyPolicy(type="tiny", width=32, layers=1, mlp_width=32, vocab_size=300)
        tiny_policy(sizes, Chat(tokenizer, "Play.", "the tokenizer"), 0).save(Path(folder))
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return Reader(files, lambda folder: Policy.load(folder, "Play."))


def gguf() -> Reader:
    def read(folder: Path) -> None:
        with TemporaryDirectory() as out:
            convert(folder / "model.gguf", Path(out))

    with TemporaryDirectory() as folder:
        path = Path(folder, "model.gguf")
        write(path, model())
        return Reader({path.name: path.read_bytes()}, read)


READERS: dict[str, Callable[[], Reader]] = {
    "configuration": lambda: Reader(
        {n: (CONFIG / n).read_bytes() for n in ("config.yaml", "data.yaml", "environments.yaml")}, study
    ),
    "corpus": lambda: Reader(
        {"corpus.jsonl": lines({"id": "0", "contents": '"Lima"\nA city.'}, {"id": 1, "contents": "Oslo\nCold."})},
        lambda folder: list(read_corpus(folder / "corpus.jsonl")),
    ),
    "questions": lambda: Reader(
        {
            "q.jsonl": lines(
                {"id": "1", "question": "Where?", "golden_answers": ["Lima"], "metadata": {"type": "bridge"}},
                {"id": "2", "question": "Who?", "answer": "Ann", "supporting_facts": {"title": ["A"], "sent_id": [0]}},
            )
        },
        lambda folder: load_questions(folder / "q.jsonl"),
    ),
    "game": lambda: Reader(
        {"game.tw-pddl": lines({"pddl_domain": DOMAIN, "grammar": GRAMMAR, "pddl_problem": PROBLEM})},
        lambda folder: Game.load(folder).reset(),
    ),
    "shop": lambda: Reader(
        {
            "items.json": lines([ITEM, ITEM | {"asin": "B000000002", "customization_options": ""}]),
            "attributes.json": lines({"B000000001": DESCRIBED, "B000000002": {"attributes": []}}),
            "people.json": lines({"B000000001": [WANTED]}),
        },
        lambda folder: Shop.load(folder / "items.json", folder / "attributes.json", folder / "people.json").goals,
    ),
    "manifest": lambda: Reader({"manifest.json": lines({"stage": "train", "outputs": {"a": "b"}})}, provenance.digest),
    "hits": lambda: Reader({"reply": lines({"result": [[HIT, HIT]]})}, hits),
    "pages": lambda: Reader({"reply": lines({"pages": [{"title": "a", "text": "b"}]})}, pages),
    "request": lambda: Reader({"request": lines({"queries": ["a", "b"], "topk": 3, "return_scores": True})}, asked),
    "vllm": lambda: Reader(
        {
            "models": lines({"data": [{"id": "policy", "max_model_len": 512}]}),
            "pause": lines({"status": "paused"}),
            "collective_rpc": lines({"results": [None]}),
            "reset_prefix_cache": lines({"success": True}),
            "update_weight_version": b"",
            "resume": lines({"status": "resumed"}),
            "weight_info": lines({"weight_version": "1"}),
            "completions": lines({"choices": [CHOICE]}),
        },
        generated,
    ),
    "table": table,
    "model folder": model_folder,
    "GGUF": gguf,
}
