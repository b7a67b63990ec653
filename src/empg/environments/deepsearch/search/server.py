"""A server of the protocol that :mod:`empg.environments.deepsearch.search.retrieval` describes.

``POST /retrieve`` takes ``queries`` or a single ``query``, ``topk`` and ``return_scores``; ``POST /page`` takes
``titles``; ``GET /health`` tells the number of passages. A faulty request is answered by a 4xx and ``{"error": …}``.
The size, number and duration of requests are bounded.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from empg.environments.deepsearch.search.corpus import join_contents
from empg.environments.deepsearch.search.index import Hit, Index
from empg.environments.deepsearch.search.retrieval import MAX_QUERY_CHARS
from empg.errors import ConfigError

MAX_BODY_BYTES = 8 << 20
MAX_QUERIES = 1024
MAX_TOPK = 100
MAX_REQUESTS = 32
"""The most requests under way at once; a further one is answered by 503, which asks to try again."""

_DEFAULT_TOPK = 3
_BODY_SECONDS = 10.0
_MAX_CONNECTIONS = 256


def create_app(index: Index) -> Starlette:
    """The ASGI application that answers from an index."""
    under_way = 0

    async def answer(request: Request, reply: Callable[[dict[str, Any]], dict[str, Any]]) -> Response:
        nonlocal under_way
        if under_way >= MAX_REQUESTS:
            raise HTTPException(503, f"expected at most {MAX_REQUESTS} requests at once, try again")
        under_way += 1
        try:
            return JSONResponse(await run_in_threadpool(reply, await _body(request)))
        finally:
            under_way -= 1

    def found(body: dict[str, Any]) -> dict[str, Any]:
        queries, topk, scored = _queries(body), _topk(body), _flag(body, "return_scores")
        return {"result": [[_entry(hit, scored) for hit in index.search(query, topk)] for query in queries]}

    def opened(body: dict[str, Any]) -> dict[str, Any]:
        pages = [index.page(title) for title in _texts(body, "titles")]
        return {"pages": [page and page._asdict() for page in pages]}

    async def retrieve(request: Request) -> Response:
        return await answer(request, found)

    async def page(request: Request) -> Response:
        return await answer(request, opened)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "passages": len(index)})

    routes = [
        Route("/retrieve", retrieve, methods=["POST"]),
        Route("/page", page, methods=["POST"]),
        Route("/health", health),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refusal})


def create_server(index: Index) -> uvicorn.Server:
    """The server, not yet started: ``run(sockets=[…])`` answers on a socket until ``should_exit`` is set."""
    config = uvicorn.Config(
        create_app(index), log_level="warning", limit_concurrency=_MAX_CONNECTIONS, lifespan="off", ws="none"
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 stands for a free one.

    Raises :class:`~empg.errors.ConfigError` if nothing can listen there.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as cause:
        raise ConfigError(f"{host}:{port}: expected an address to listen at, found: {cause}") from None
    # Connections inherit this, and asyncio does not set it. Without it a reply's body waits for the acknowledgement of
    # its head, which costs 40 ms a request.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(
    index_directory: Path | str, host: str = "127.0.0.1", port: int = 8000, *, announce: Callable[[str], object]
) -> None:
    """Serve a built index until the process gets SIGINT or SIGTERM. ``announce`` gets the server's URL.

    Port 0 stands for a free one. There is no authentication: on a host other than the loopback, everyone who reaches it
    may search. Raises what :meth:`Index.open` and :func:`listen` raise.
    """
    server = create_server(Index.open(index_directory))
    with listen(host, port) as listener:
        name = f"[{host}]" if ":" in host else host
        announce(f"http://{name}:{listener.getsockname()[1]}")
        server.run(sockets=[listener])


def _entry(hit: Hit, scored: bool) -> dict[str, Any]:
    document = {"id": hit.id, "contents": join_contents(hit.title, hit.text)}
    return {"document": document, "score": hit.score} if scored else document


async def _body(request: Request) -> dict[str, Any]:
    received = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                received += chunk
                if len(received) > MAX_BODY_BYTES:
                    raise HTTPException(413, f"expected a body of at most {MAX_BODY_BYTES} bytes, found more")
    except ClientDisconnect:
        raise HTTPException(400, "expected the whole body, found the connection closed") from None
    except TimeoutError:
        raise HTTPException(408, f"expected the whole body within {_BODY_SECONDS:g} s") from None
    try:
        body = json.loads(received)
    except (ValueError, RecursionError) as cause:
        raise HTTPException(400, f"body: expected JSON, found {type(cause).__name__}: {cause}") from None
    if not isinstance(body, dict):
        raise HTTPException(400, f"body: expected a JSON object, found {type(body).__name__}")
    return body


def _queries(body: dict[str, Any]) -> list[str]:
    if ("queries" in body) == ("query" in body):
        raise HTTPException(400, f"expected either queries or query, found {sorted(body)[:10]}")
    return _texts(body if "queries" in body else {"queries": [body["query"]]}, "queries")


def _texts(body: dict[str, Any], key: str) -> list[str]:
    found = body.get(key)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise HTTPException(400, f"{key}: expected a list of texts, found {str(found)[:100]}")
    if not 1 <= len(found) <= MAX_QUERIES:
        raise HTTPException(400, f"{key}: expected 1 to {MAX_QUERIES} texts, found {len(found)}")
    longest = max(map(len, found))
    if longest > MAX_QUERY_CHARS:
        raise HTTPException(400, f"{key}: expected texts of at most {MAX_QUERY_CHARS} characters, found {longest}")
    return found


def _topk(body: dict[str, Any]) -> int:
    found = body.get("topk")
    if found is None:
        return _DEFAULT_TOPK
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= MAX_TOPK:
        raise HTTPException(400, f"topk: expected a whole number from 1 to {MAX_TOPK}, found {str(found)[:100]}")
    return found


def _flag(body: dict[str, Any], key: str) -> bool:
    found = body.get(key, False)
    if not isinstance(found, bool):
        raise HTTPException(400, f"{key}: expected true or false, found {str(found)[:100]}")
    return found


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)
