"""``empg serve-retriever`` goes on answering while others hold connections, drip, flood or talk nonsense.

The attacks are those of ``benchmarks/retriever_load.py``, which prints figures; here each lasts a moment.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import httpx
import pytest

from empg.environments.deepsearch.search import guard, server
from empg.environments.deepsearch.search.guard import GuardedProtocol
from empg.environments.deepsearch.search.index import Index
from empg.environments.deepsearch.search.retrieval import HttpRetriever

from ..conftest import module_of

QUERY = {"queries": ["capital of Peru"], "topk": 1}


@pytest.fixture(scope="module")
def load() -> ModuleType:
    """The benchmark's attacks."""
    return module_of("benchmarks/retriever_load.py")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of two passages."""
    folder = tmp_path_factory.mktemp("index")
    (folder / "corpus.jsonl").write_text(
        '{"id": 0, "contents": "Lima\\nThe capital of Peru."}\n{"id": 1, "contents": "Oslo\\nA city."}\n'
    )
    return Index.build(folder / "corpus.jsonl", folder / "index")


@contextmanager
def serving(index: Index) -> Iterator[tuple[int, Any]]:
    """A server in a thread: its port and itself."""
    running = server.create_server(index)
    with server.listen("127.0.0.1", 0) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that an unread answer is soon noticed
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not running.started:
                time.sleep(0.005)
            yield listener.getsockname()[1], running
        finally:
            running.should_exit = running.force_exit = True
            thread.join()


@pytest.fixture
def served(index: Index) -> Iterator[tuple[int, Any]]:
    """A fresh server's port, and the server."""
    with serving(index) as found:
        yield found


@contextmanager
def attacked(attack: Any, port: int, many: int) -> Iterator[None]:
    """While an attack goes on in a thread of this process."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    going_on = asyncio.run_coroutine_threadsafe(attack(port, many), loop)
    try:
        yield
    finally:
        going_on.cancel()

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def answers(port: int) -> None:
    """An honest client gets what it asks for, within its attempts."""
    with HttpRetriever(f"http://127.0.0.1:{port}", backoff=0.05) as retriever:
        assert [hit.title for hit in retriever.search_batch(["capital of Peru"], 1)[0]] == ["Lima"]


@pytest.mark.parametrize("name", ["drip_head", "drip_body", "never_read", "malformed", "connect"])
def test_others_are_answered_beside_hostile_connections(load: ModuleType, served: tuple[int, Any], name: str) -> None:
    with attacked(load.attacking(getattr(load, name), 12), served[0], 0):
        time.sleep(0.1)
        for _ in range(3):
            answers(served[0])


def test_large_batches_hold_up_no_small_one(load: ModuleType, served: tuple[int, Any]) -> None:
    with attacked(load.attacking(load.large_batch, 4), served[0], 0):
        time.sleep(0.1)
        answers(served[0])


def test_idle_connections_give_way(served: tuple[int, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_CONNECTIONS", 20)
    port, running = served
    with HttpRetriever(f"http://127.0.0.1:{port}") as known:
        assert known.search_batch(["Peru"], 1)
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        answers(port)
        assert len(running.server_state.connections) <= 20
        begin = time.monotonic()
        assert known.search_batch(["Peru"], 1)
        assert time.monotonic() - begin < 0.4, "who has asked before keeps the connection"
    assert idle[0].recv(1) == b"", "the first ones are closed"
    for connection in idle:
        connection.close()


@pytest.mark.parametrize("sent", [b"", b"POST /retrieve HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_has_limited_time(served: tuple[int, Any], sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "HEAD_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", served[0]), timeout=5) as connection:
        connection.sendall(sent)
        begin = time.monotonic()
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        assert 0.1 < time.monotonic() - begin < 3


def test_a_body_has_limited_time(served: tuple[int, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", served[0]), timeout=5) as connection:
        connection.sendall(b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_client_that_does_not_read_is_left(
    load: ModuleType, served: tuple[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "SEND_SECONDS", 0.2)
    port, running = served
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.sendall(load.request({"queries": ["the capital of Peru"] * 1000}) * 8)
        deadline = time.monotonic() + 10
        while not any(isinstance(other, GuardedProtocol) and other._send_timer for other in _open(running)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        while _open(running):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_slow_bodies_give_way_to_new_ones(served: tuple[int, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_HELD_BYTES", 50_000)
    head = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n"
    slow = []
    for _ in range(2):  # together more than there is room for
        slow.append(socket.create_connection(("127.0.0.1", served[0]), timeout=5))
        slow[-1].sendall(head + b'{"queries": ["' + b"a" * 28_000)
        time.sleep(0.05)
    assert slow[0].recv(1000).startswith(b"HTTP/1.1 408")
    answers(served[0])
    for connection in slow:
        connection.close()


def test_more_requests_than_can_wait_are_asked_to_try_again(
    index: Index, load: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_REQUESTS", 1)
    going_on, go = threading.Event(), threading.Event()
    search = index.search

    def slow(query: str, k: int) -> Any:
        going_on.set()
        assert go.wait(10)
        return search(query, k)

    monkeypatch.setattr(index, "search", slow)
    with serving(index) as (port, _), socket.create_connection(("127.0.0.1", port), timeout=5) as first:
        first.sendall(load.request(QUERY))
        assert going_on.wait(5)
        reply = httpx.post(f"http://127.0.0.1:{port}/retrieve", json=QUERY, trust_env=False)
        assert (reply.status_code, reply.json()) == (503, {"error": "expected at most 1 requests at once, try again"})
        go.set()
        assert first.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_body_in_chunks_is_refused(served: tuple[int, Any]) -> None:
    reply = httpx.post(f"http://127.0.0.1:{served[0]}/retrieve", content=iter([b"{", b"}"]), trust_env=False)
    assert reply.status_code == 400


def _open(running: Any) -> list[Any]:
    return list(running.server_state.connections)
