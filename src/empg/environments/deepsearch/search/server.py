"""A server of the protocol that :mod:`empg.environments.deepsearch.search.retrieval` describes.

``POST /retrieve`` takes ``queries`` or a single ``query``, ``topk`` and ``return_scores``, each in any form that
Search-R1's own server takes; ``POST /page`` takes ``titles``; ``GET /health`` tells the number of passages. A faulty
request is answered by a 4xx and ``{"error": …}``. Requests are bounded in size, number, time and the memory that they
hold together; large batches have lanes of their own, so that they do not hold up small ones.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import uvicorn
from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from empg.environments.bm25 import encodable
from empg.environments.deepsearch.search.corpus import join_contents
from empg.environments.deepsearch.search.guard import GuardedServer
from empg.environments.deepsearch.search.index import Hit, Index
from empg.environments.deepsearch.search.retrieval import MAX_QUERY_CHARS
from empg.errors import ConfigError

MAX_BODY_BYTES = 8 << 20
MAX_TEXTS = 4096
MAX_TOPK = 100
MAX_DOCUMENTS = 10 * MAX_TEXTS
"""The most documents of an answer: queries times ``topk``."""
MAX_REQUESTS = 64
"""The most large, and the most small requests at work or in wait; a further one gets 503, which asks to try again."""
MAX_HELD_BYTES = 64 << 20
"""The most bytes of all bodies together. The body that began to arrive first gives way to a new one."""

_DEFAULT_TOPK = 3
_BODY_SECONDS = 10.0
_SMALL_BATCH, _SMALL_BODY = 100, 64 << 10

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


def _cut(text: Any) -> Any:
    return encodable(text[:MAX_QUERY_CHARS]) if isinstance(text, str) else text


Texts = Annotated[list[Annotated[str, BeforeValidator(_cut)]], Field(max_length=MAX_TEXTS)]


class _Search(BaseModel):
    """The request of Search-R1's server; pydantic reads "5" and 5.0 as 5, and 1 as true, here and there."""

    queries: Texts
    topk: Annotated[int, Field(ge=0, le=MAX_TOPK)] | None = None
    return_scores: bool = False


class _Pages(BaseModel):
    titles: Texts


class _Lane:
    """So many requests take turns at a time, further ones wait in their order, more than that are refused."""

    def __init__(self, turns: int) -> None:
        self._turns, self._inside = asyncio.Semaphore(turns), 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold a turn. Raises HTTPException where the lane is full."""
        if self._inside >= MAX_REQUESTS:
            raise HTTPException(503, f"expected at most {MAX_REQUESTS} requests at once, try again")
        self._inside += 1
        try:
            async with self._turns:
                yield
        finally:
            self._inside -= 1


class _Desk:
    """Takes in bodies and gives requests their turn. Large ones only ever wait for each other."""

    def __init__(self) -> None:
        self._held: dict[asyncio.Timeout, int] = {}  # in the order in which the bodies began to arrive
        self._small, self._large = _Lane(2), _Lane(1)  # Python runs one thread at a time

    async def answer(
        self, request: Request, read: Callable[[bytes], T], size: Callable[[T], int], reply: Callable[[T], bytes]
    ) -> Response:
        """Read the body, wait for a turn and reply, all but the waiting in a thread."""
        try:
            async with asyncio.timeout(_BODY_SECONDS) as limit:
                body = await self._body(request, limit)
                limit.reschedule(None)
                async with (self._small if len(body) <= _SMALL_BODY else self._large).turn():
                    asked = await run_in_threadpool(read, body)
                async with (self._small if size(asked) <= _SMALL_BATCH else self._large).turn():
                    if await request.is_disconnected():
                        raise HTTPException(400, "expected a client that waits, found none")
                    return Response(await run_in_threadpool(reply, asked), media_type="application/json")
        except ClientDisconnect:
            raise HTTPException(400, "expected the whole body, found the connection closed") from None
        except TimeoutError:
            raise HTTPException(408, f"expected the whole body within {_BODY_SECONDS:g} s") from None
        finally:
            self._held.pop(limit, None)

    async def _body(self, request: Request, limit: asyncio.Timeout) -> bytes:
        received = bytearray()
        async for chunk in request.stream():
            received += chunk
            if len(received) > MAX_BODY_BYTES:
                raise HTTPException(413, f"expected a body of at most {MAX_BODY_BYTES} bytes, found more")
            self._held[limit] = len(received)
            if sum(self._held.values()) > MAX_HELD_BYTES:
                self._make_room(limit)
        return bytes(received)

    def _make_room(self, new: asyncio.Timeout) -> None:
        for other in self._held:
            if other is not new and other.when() is not None and not other.expired():  # it is still arriving
                other.reschedule(0.0)
                return
        raise HTTPException(503, "expected fewer large requests at once, try again")


def create_app(index: Index) -> Starlette:
    """The ASGI application that answers from an index."""
    desk = _Desk()

    def found(asked: _Search) -> bytes:
        hits = [index.search(query, asked.topk or _DEFAULT_TOPK) for query in asked.queries]
        return _json({"result": [[_entry(hit, asked.return_scores) for hit in found] for found in hits]})

    def opened(asked: _Pages) -> bytes:
        pages = [index.page(title) for title in asked.titles]
        return _json({"pages": [page and page._asdict() for page in pages]})

    async def retrieve(request: Request) -> Response:
        return await desk.answer(request, _read_search, lambda asked: len(asked.queries), found)

    async def page(request: Request) -> Response:
        return await desk.answer(request, _read_pages, lambda asked: len(asked.titles), opened)

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
    return GuardedServer(create_app(index))


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


def _read_search(content: bytes) -> _Search:
    body = _object(content)
    if ("queries" in body) == ("query" in body):
        raise HTTPException(400, f"expected either queries or query, found {sorted(body)[:10]}")
    if "query" in body:
        body["queries"] = [body.pop("query")]
    asked = _valid(_Search, body)
    documents = len(asked.queries) * (asked.topk or _DEFAULT_TOPK)
    if documents > MAX_DOCUMENTS:
        raise HTTPException(400, f"expected queries times topk to be at most {MAX_DOCUMENTS}, found {documents}")
    return asked


def _read_pages(content: bytes) -> _Pages:
    return _valid(_Pages, _object(content))


def _object(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as cause:
        raise HTTPException(400, f"body: expected JSON, found {type(cause).__name__}: {cause}") from None
    if not isinstance(body, dict):
        raise HTTPException(400, f"body: expected a JSON object, found {type(body).__name__}")
    return body


def _valid(model: type[M], body: dict[str, Any]) -> M:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise HTTPException(400, f"{where}: {first['msg']}, found {str(first['input'])[:100]}") from None


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)
