"""Where passages come from: an index in this process, or a server that speaks the field's protocol.

The protocol is that of Search-R1 (arXiv 2503.09516) and the projects after it: ``POST /retrieve`` with
``{"queries": […], "topk": 3, "return_scores": true}`` is answered by
``{"result": [[{"document": {"id", "contents"}, "score"}]]}``. Its servers differ: the one for BM25 gives no ``id``;
those for SERP and Google give neither ``id`` nor ``score``, and more documents than were asked for; the reranker gives
``contents`` alone as the document.
``POST /page`` with ``{"titles": […]}``, answered by ``{"pages": [{"title", "text"} or null]}``, is this project's own.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from typing import Any, Protocol, Self

from empg.environments.bm25 import encodable
from empg.environments.deepsearch.search.corpus import split_contents, title_key
from empg.environments.deepsearch.search.index import Hit, Index, Page
from empg.errors import ConfigError, EmpgError

MAX_QUERY_CHARS = 500
"""Queries and titles are cut to this length before they are looked up, in this process or elsewhere."""

_MAX_REPLY_BYTES = 64 << 20
_MAX_BACKOFF_SECONDS = 10.0
_PAGE_CANDIDATES = 10


class RetrievalError(EmpgError):
    """A retriever did not answer, or answered in another form than its protocol's."""


class Retriever(Protocol):
    """Answers the searches and page requests of many episodes at once."""

    def search_batch(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """For each query its at most ``k`` best passages, best first. May raise :class:`RetrievalError`."""
        ...

    def page_batch(self, titles: Sequence[str]) -> list[Page | None]:
        """For each title its page, or None. May raise :class:`RetrievalError`."""
        ...


class LocalRetriever:
    """Searches an index in this process."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def search_batch(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See :class:`Retriever`."""
        return [self.index.search(query, k) for query in queries]

    def page_batch(self, titles: Sequence[str]) -> list[Page | None]:
        """See :class:`Retriever`."""
        return [self.index.page(title) for title in titles]


class HttpRetriever:
    """Asks a server. Close it after use; use it from one thread, which may not run an event loop.

    A refused or broken connection, a time-out and a status of 429 or 5xx are tried again; other failures are not. The
    proxy settings of the process are ignored.

    Args:
        url: of the server, with or without ``/retrieve`` at its end.
        timeout: seconds of an attempt, from connecting to the reply's last byte.
        attempts: how often a request is sent at most.
        backoff: seconds before the second attempt; each further wait is twice as long, ten seconds at most.

    Raises:
        ConfigError: ``url`` is no HTTP address.
        RetrievalError: from a request that fails; names the URL, what was expected and what was found.
    """

    def __init__(self, url: str, *, timeout: float = 30.0, attempts: int = 4, backoff: float = 0.5) -> None:
        import httpx

        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as cause:
            raise ConfigError(f"retriever: expected http://host:port, found {url!r}: {cause}") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(f"retriever: expected http://host:port, found {url!r}")
        self.url = str(parsed).rstrip("/").removesuffix("/retrieve")
        self._timeout, self._attempts, self._backoff = timeout, attempts, backoff
        self._has_pages = True
        self._runner = asyncio.Runner()
        self._client = httpx.AsyncClient(timeout=None, trust_env=False)  # noqa: S113 - _attempt has the time limit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._client.aclose())
        self._runner.close()

    def search_batch(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See :class:`Retriever`. One request, for all queries."""
        if not queries:
            return []
        sent = _cut(queries)
        reply = self._post("/retrieve", {"queries": sent, "topk": k, "return_scores": True})
        found = self._list(reply, "result", len(queries))
        return [self._hits(hits, k) for hits in found]

    def page_batch(self, titles: Sequence[str]) -> list[Page | None]:
        """See :class:`Retriever`. Without ``/page`` there, the hits of a search that have the title are its page."""
        if not titles:
            return []
        sent = _cut(titles)
        reply = self._post("/page", {"titles": sent}) if self._has_pages else None
        if reply is None:
            self._has_pages = False
            found = self.search_batch(sent, _PAGE_CANDIDATES)
            return [_assembled(title, hits) for title, hits in zip(sent, found, strict=True)]
        return [page if page is None else self._page(page) for page in self._list(reply, "pages", len(titles))]

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        """The reply's JSON value; None where the server has no such path."""
        import httpx

        url, problem = self.url + path, ""
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(min(self._backoff * 2 ** (attempt - 1), _MAX_BACKOFF_SECONDS))
            try:
                status, content = self._runner.run(self._attempt(url, json.dumps(body).encode()))
            except TimeoutError:
                problem = f"no complete reply in {self._timeout:g} s"
            except httpx.TransportError as cause:
                problem = f"{type(cause).__name__} {cause}".strip()
            else:
                if status < 500 and status != 429:
                    return self._value(url, status, content)
                problem = f"status {status}: {_excerpt(content)}"
        raise RetrievalError(f"{url}: expected a reply in {self._attempts} attempts, found at the last: {problem}")

    async def _attempt(self, url: str, content: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        received = bytearray()
        async with (
            asyncio.timeout(self._timeout),
            self._client.stream("POST", url, content=content, headers=headers) as response,
        ):
            async for chunk in response.aiter_raw():
                received += chunk
                if len(received) > _MAX_REPLY_BYTES:
                    raise RetrievalError(f"{url}: expected a reply of at most {_MAX_REPLY_BYTES} bytes, found more")
        return response.status_code, bytes(received)

    def _value(self, url: str, status: int, content: bytes) -> Any:
        if status in (404, 405) and url.endswith("/page"):
            return None
        if status != 200:
            raise RetrievalError(f"{url}: expected status 200, found {status}: {_excerpt(content)}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise RetrievalError(f"{url}: expected JSON, found {_excerpt(content)}") from None

    def _list(self, reply: Any, key: str, length: int) -> list[Any]:
        found = reply.get(key) if isinstance(reply, dict) else None
        if not isinstance(found, list):
            raise RetrievalError(f'{self.url}: expected {{"{key}": […]}}, found {_excerpt(reply)}')
        if len(found) != length:
            raise RetrievalError(f"{self.url}: expected {length} entries in {key!r}, found {len(found)}")
        return found

    def _hits(self, found: Any, k: int) -> list[Hit]:
        if not isinstance(found, list):
            raise RetrievalError(f"{self.url}: expected a list of documents for a query, found {_excerpt(found)}")
        return [self._hit(entry) for entry in found[:k]]

    def _hit(self, entry: Any) -> Hit:
        if isinstance(entry, dict):
            document, score = entry.get("document"), entry.get("score")
            if isinstance(document, str):
                document = {"contents": document}
            if isinstance(document, dict) and (score is None or _is_finite(score)):
                number, contents = document.get("id"), document.get("contents")
                if isinstance(number, str | int | None) and isinstance(contents, str):
                    name = None if number is None else str(number)
                    return Hit(name, *split_contents(contents), None if score is None else float(score))
        expected = '{"document": {"id", "contents"}, "score"}, where given with a finite score'
        raise RetrievalError(f"{self.url}: expected {expected}, found {_excerpt(entry)}")

    def _page(self, entry: Any) -> Page:
        if isinstance(entry, dict):
            title, text = entry.get("title"), entry.get("text")
            if isinstance(title, str) and isinstance(text, str):
                return Page(title, text)
        raise RetrievalError(f'{self.url}: expected {{"title", "text"}} or null, found {_excerpt(entry)}')


def _cut(texts: Sequence[str]) -> list[str]:
    """As they are looked up in this process; other servers refuse lone surrogates."""
    return [encodable(text[:MAX_QUERY_CHARS]) for text in texts]


def _assembled(title: str, hits: list[Hit]) -> Page | None:
    """The hits with a title as its page, in the order in which they were found."""
    own = [hit for hit in hits if title_key(hit.title) == title_key(title)]
    return Page(own[0].title, " ".join(hit.text for hit in own)) if own else None


def _is_finite(score: Any) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)


def _excerpt(found: Any) -> str:
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else repr(found)
    return " ".join(text[:200].split()) or "nothing"
