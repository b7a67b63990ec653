"""A tiny policy with random weights and a tokenizer of real games' text; its answers end now and then. A fake vLLM."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from threading import Event, Lock, Thread
from typing import Any

import pytest
import torch

from empg.config import TinyPolicy
from empg.environments.alfworld.demonstrations import demonstrate
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.text import format_step
from empg.policy.chat import Chat
from empg.policy.policy import Policy
from empg.policy.tokenizer import train_tokenizer
from empg.training.warmstart import texts, tiny_policy

GAMES = GeneratedGames("small", 0)
SIZES = {"width": 32, "heads": 4, "kv_heads": 2, "layers": 2, "mlp_width": 48, "max_positions": 512}


@pytest.fixture(scope="session")
def chat() -> Chat:
    """A tokenizer of the games' own text."""
    environment = AlfworldEnvironment(GAMES, 20)
    demonstrations = [demonstrate(environment, task, Random(0)) for task in GAMES.tasks("train", range(12))]
    tokenizer = train_tokenizer([text for d in demonstrations for text in texts(d, "", format_step)], 330)
    return Chat(tokenizer, "", "the test's tokenizer")


@pytest.fixture(scope="session")
def make_policy(chat: Chat) -> Callable[[str], Policy]:
    """A policy of a family. Its entropies vary, and about every eighth token ends a turn.

    The first component of the hidden states hardly varies, so a token is likely whose embedding is large there.
    """

    @torch.no_grad()
    def make(family: str) -> Policy:
        policy = tiny_policy(TinyPolicy(family=family, **SIZES), chat, seed=0)
        network = policy.network
        network.embedding *= 15
        network.embedding[:, 0] = 1.0
        network.embedding[chat.end_of_turn, 0] = 2.5
        for layer in network.layers:
            if layer.qkv_bias is not None:
                layer.qkv_bias += 0.1
        return policy

    return make


class FakeVllm:
    """Speaks vLLM's protocol on the loopback and samples from a policy of its own, each token from a whole forward.

    ``faults`` are what the next completions do wrong, one each, and what other routes answer, by path. ``asked`` are
    the routes and bodies of all requests.
    """

    def __init__(self, policy: Policy) -> None:
        self.network, self.chat = deepcopy(policy.network), policy.chat
        self.version, self.max_model_len, self.name = "default", 512, "served"
        self.asked: list[tuple[str, Any]] = []
        self.faults: list[str] = []
        self.answers: dict[str, tuple[int, Any]] = {}
        self.on_completion: Callable[[], object] = lambda: None
        self.in_flight, self.most_in_flight = 0, 0
        self.released, self._lock = Event(), Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.serve(self, None)

            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                if len(raw := self.rfile.read(size)) == size:  # else the client has gone
                    fake.serve(self, json.loads(raw) if raw else None)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def completions(self) -> list[dict[str, Any]]:
        return [body for path, body in self.asked if path == "/v1/completions"]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def serve(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        path = handler.path.split("?")[0]
        with self._lock:
            self.asked.append((handler.path, body))
            fault = self.faults.pop(0) if path == "/v1/completions" and self.faults else ""
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            with suppress(ConnectionError):  # the client has gone
                self._reply(handler, *(self.answers.get(path) or self._answer(path, body, fault)), fault)
        finally:
            with self._lock:
                self.in_flight -= 1

    def _reply(self, handler: BaseHTTPRequestHandler, status: int, value: Any, fault: str) -> None:
        if fault == "silent":
            handler.close_connection = True
            return
        content = b"<html>" if fault == "no JSON" else json.dumps(value).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        handler.close_connection = fault == "cut"

    def _answer(self, path: str, body: Any, fault: str) -> tuple[int, Any]:
        if path == "/v1/completions":
            return self._completed(body, fault)
        if path == "/collective_rpc":
            self.network = Policy.load(Path(body["kwargs"]["weights_path"]), "").network
        elif path == "/update_weight_version":
            self.version = body["new_version"]
        answers = {
            "/v1/models": {"data": [{"id": self.name, "max_model_len": self.max_model_len}]},
            "/collective_rpc": {"results": [None]},
            "/weight_info": {"weight_version": self.version},
        }
        return 200, answers.get(path, {"success": True})

    def _completed(self, body: Any, fault: str) -> tuple[int, Any]:
        self.on_completion()
        if fault == "slow":
            self.released.wait(5)
        if fault.isdigit():
            return int(fault), {"error": {"message": "it said no"}}
        return 200, {"choices": [self._choice(body, fault)]}

    @torch.no_grad()
    def _choice(self, body: dict[str, Any], fault: str) -> dict[str, Any]:
        random = torch.Generator().manual_seed(body["seed"])
        (end,), temperature = body["stop_token_ids"], body["temperature"]
        ids: list[int] = []
        logprobs: list[float | None] = []
        while len(ids) < body["max_tokens"] and end not in ids:
            hidden = self.network.states(torch.tensor(body["prompt"] + ids))[-1:]
            logprob = (self.network.logits(hidden)[0] / (temperature or 1.0)).log_softmax(0)
            token = int(torch.multinomial(logprob.exp(), 1, generator=random)) if temperature else int(logprob.argmax())
            ids.append(token)
            logprobs.append(float(logprob[token]))
        finish = "stop" if ids[-1] == end else "length"
        if fault in ("NaN", "all NaN"):
            logprobs = [None, *logprobs[1:]] if fault == "NaN" else [None] * len(ids)
        if fault == "abort":
            ids, logprobs, finish = ids[:1], logprobs[:1], "abort"
        if fault == "short":
            ids, logprobs, finish = [1], [-1.0], "length"
        if fault == "unknown word":
            ids, logprobs, finish = [10**6, end], [-1.0, -1.0], "stop"
        if fault == "without log-probabilities":
            logprobs = []
        if fault == "other log-probabilities":
            logprobs = [-9.0] * len(ids)
        prompt = [*body["prompt"], 1] if fault == "other prompt" else body["prompt"]
        choice = {"finish_reason": finish, "token_ids": ids, "prompt_token_ids": prompt}
        choice |= {"logprobs": {"token_logprobs": logprobs}}
        if fault == "bare abort":
            choice |= {"finish_reason": "abort", "token_ids": None, "prompt_token_ids": None, "logprobs": None}
        if fault == "fractions":
            choice |= {"token_ids": [token + 0.5 for token in ids]}
        return choice


@pytest.fixture
def fake_vllm() -> Iterator[Callable[[Policy], FakeVllm]]:
    """Starts servers that hold a copy of a policy."""
    started: list[FakeVllm] = []

    def start(policy: Policy) -> FakeVllm:
        started.append(FakeVllm(policy))
        return started[-1]

    yield start
    for server in started:
        server.close()
