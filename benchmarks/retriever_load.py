"""What ``empg serve-retriever`` still answers while others misbehave: requests a second, errors and waits.

    python benchmarks/retriever_load.py [--seconds 5] [--idle 10000]

One honest client asks one query after the other, as fast as it gets answers. Beside it, in a process of its own, runs
one attack at a time, each on a fresh server. Server, attack and client share the machine's cores.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

import psutil

from empg.environments.deepsearch.search.retrieval import HttpRetriever, RetrievalError

HEAD = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
WORDS = [
    "capital",
    "river",
    "mountain",
    "book",
    "film",
    "band",
    "museum",
    "school",
    "company",
    "lake",
    "city",
    "country",
    "person",
    "year",
]
Attack = Callable[[int, float], Awaitable[None]]


def request(body: object) -> bytes:
    """A whole request with a JSON body."""
    content = json.dumps(body).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content


async def _again(port: int, attack: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
    """One hostile connection after the other, for ever."""
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await attack(reader, writer)
            finally:
                writer.transport.abort()
        await asyncio.sleep(0.001)


def attacking(one: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], many: int) -> Attack:
    """``many`` such connections at a time."""

    async def attack(port: int, _: float) -> None:
        await asyncio.gather(*(_again(port, one) for _ in range(many)))

    return attack


async def drip_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A head that comes letter by letter."""
    for byte in HEAD + b"X-Slow: " + b"a" * 10_000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.2)


async def drip_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A large body, most of it at once and the rest letter by letter."""
    writer.write(HEAD + b"Content-Length: 8000000\r\n\r\n" + b'{"query": "' + b"a" * 7_000_000)
    for _ in range(10_000):
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.write(b"a")


async def never_read(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests with large answers that nobody reads."""
    transport = writer.transport
    transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(request({"queries": WORDS * 20, "topk": 100}) * 10)
    await asyncio.sleep(60)


async def large_batch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As large a batch as the server takes, again and again."""
    writer.write(request({"queries": ["the " + " ".join(WORDS)] * 4096, "topk": 10, "return_scores": True}))
    await reader.readuntil(b"\r\n\r\n")
    await reader.read(-1)


async def malformed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """No HTTP, wrong HTTP, no JSON."""
    random = Random()
    lines = (
        random.randbytes(2000),
        b"GET / HTTP/9.9\r\n\r\n",
        b"A" * 100_000,
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 20_000,
        HEAD + b"Content-Length: 20\r\n\r\n" + b"[" * 20,
    )
    writer.write(random.choice(lines))
    await asyncio.wait_for(reader.read(1000), 1)


async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connections that are opened and closed."""


async def idle(port: int, connections: float) -> None:
    """Many connections on which nothing comes; one that the server closes is opened again ten seconds later."""
    held: set[asyncio.StreamWriter] = set()

    async def one(number: int) -> None:
        await asyncio.sleep(number / 5000)  # so many a second
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                held.add(writer)
                await reader.read(1)
                held.discard(writer)
                writer.transport.abort()
            await asyncio.sleep(10)

    await asyncio.gather(*(one(number) for number in range(int(connections))))


ATTACKS: dict[str, Attack | None] = {
    "none": None,
    "idle connections": idle,
    "heads that drip, 500": attacking(drip_head, 500),
    "bodies that drip, 100 of 7 MB": attacking(drip_body, 100),
    "answers that nobody reads, 100": attacking(never_read, 100),
    "largest batches, 20": attacking(large_batch, 20),
    "malformed HTTP, 50": attacking(malformed, 50),
    "connections opened and closed, 50": attacking(connect, 50),
}


def _attack(name: str, port: int, idle_connections: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    attack = ATTACKS[name]
    assert attack is not None
    asyncio.run(attack(port, idle_connections))


@contextmanager
def under(name: str, port: int, idle_connections: int) -> Iterator[None]:
    """While an attack goes on."""
    if ATTACKS[name] is None:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_attack, args=(name, port, idle_connections))
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


@contextmanager
def served(passages: int = 1000) -> Iterator[tuple[int, psutil.Process]]:
    """A server with a corpus of random words: its port and process."""
    random = Random(0)
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name, "corpus.jsonl")
        texts = (" ".join(random.choices(WORDS, k=100)) for _ in range(passages))
        corpus.write_text("".join(json.dumps({"id": i, "contents": f"T{i}\n{t}"}) + "\n" for i, t in enumerate(texts)))
        paths = ["--corpus", str(corpus), "--index", str(Path(name, "index")), "--port", "0"]
        command = [sys.executable, "-m", "empg", "serve-retriever", *paths]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
            try:
                assert process.stdout is not None
                lines = [process.stdout.readline() for _ in range(3)]
                yield int(lines[-1].rpartition(":")[2].removesuffix("/retrieve\n")), psutil.Process(process.pid)
            finally:
                process.kill()


class Held(NamedTuple):
    """What an honest client got in some seconds: requests, errors after all attempts, longest wait in seconds."""

    requests: int
    errors: int
    worst: float


def ask(port: int, seconds: float) -> Held:
    """Ask single queries for so many seconds."""
    answered = errors = 0
    worst, begin = 0.0, time.perf_counter()
    with HttpRetriever(f"http://127.0.0.1:{port}") as retriever:
        while (start := time.perf_counter()) < begin + seconds:
            try:
                answered += len(retriever.search_batch(["capital of the country"], 3)[0]) == 3
            except RetrievalError as error:
                print(error, file=sys.stderr)
                errors += 1
            worst = max(worst, time.perf_counter() - start)
    return Held(answered, errors, worst)


def main() -> None:
    """Print a line for each attack."""
    parser = argparse.ArgumentParser(description="A retriever under attack.")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--idle", type=int, default=10_000)
    arguments = parser.parse_args()
    print(f"{'attack':34} {'requests/s':>10} {'errors':>6} {'longest wait':>12} {'server MB':>9} {'open files':>10}")
    for name, attack in ATTACKS.items():
        with served() as (port, server), under(name, port, arguments.idle):
            time.sleep(3 if attack else 0.1)
            held = ask(port, arguments.seconds)
            memory, files = server.memory_info().rss / 1e6, server.num_fds()
        rate = held.requests / arguments.seconds
        print(f"{name:34} {rate:10.0f} {held.errors:6} {held.worst:10.3f} s {memory:9.0f} {files:10}", flush=True)


if __name__ == "__main__":
    main()
