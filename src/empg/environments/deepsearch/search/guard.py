"""Connections that can neither be kept for nothing nor crowd out others: uvicorn with limits.

uvicorn waits for ever for the head of a request and for a client that does not read its answer, and refuses everyone
once idle connections have used up its limit. Here both waits end, and a new connection takes the place of one that
has never asked anything, or else of the one that has been idle longest.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 256
HEAD_SECONDS = 10.0
"""From the opening of a connection, or the end of the last answer, to the end of a request's head."""
SEND_SECONDS = 30.0
"""From the moment in which an answer fills the buffers until the client has read it."""
_MAX_HEAD_BYTES = 16 << 10
_READ_BYTES = 16 << 10  # a connection's share of a turn of the event loop
_ACCEPTED = 16  # new connections' share of it
_QUEUE = 1024


class _Sized(h11.Connection):
    """Refuses bodies in chunks, whose parsing costs many times what sending them does."""

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request) and any(name == b"transfer-encoding" for name, _ in event.headers):
            raise h11.RemoteProtocolError("expected a Content-Length, found a Transfer-Encoding", error_status_hint=411)
        return event


class GuardedProtocol(H11Protocol):
    """One connection. The deadlines are plain timers, so an idle connection costs no task."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.conn = _Sized(h11.SERVER, _MAX_HEAD_BYTES)
        self._idle_since: float | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first request; drop the longest idle connection where there are too many."""
        transport.max_size = _READ_BYTES  # type: ignore[attr-defined]  # asyncio's own, of its sockets
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > MAX_CONNECTIONS:
            idle = [other for other in self.connections if isinstance(other, GuardedProtocol) and other._idle_since]
            min(idle, key=GuardedProtocol._worth).drop()  # this one is idle, so there is one

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        self._stop(self._head_timer)
        self._stop(self._send_timer)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Read what has arrived. The head's deadline ends where a request begins."""
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        """Start the deadline of the next request."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """The client does not read as fast as we write: from here on it has limited time."""
        super().pause_writing()
        self._send_timer = self.loop.call_later(SEND_SECONDS, self.drop)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._stop(self._send_timer)

    def drop(self) -> None:
        """End the connection at once, whatever it has not read."""
        self.connections.discard(self)  # before the event loop closes it: others may be counting
        self.transport.abort()

    def _worth(self) -> tuple[bool, float]:
        """Whether anything was ever asked on this connection, and since when it has been idle."""
        return self.cycle is not None, self._idle_since or 0.0

    def _watch(self) -> None:
        """Keep the deadline of the next head exactly while no request is under way."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop(self._head_timer)
            self._idle_since = self._head_timer = None
        elif self._idle_since is None and not self.transport.is_closing():
            self._idle_since = self.loop.time()
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.drop)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


class GuardedServer(uvicorn.Server):
    """Serves an application with :class:`GuardedProtocol`; neither websockets nor lifespan events."""

    def __init__(self, app: Any) -> None:
        # Warnings would tell of every malformed request, as many as someone sends. asyncio accepts as many connections
        # in a turn of its loop as the backlog says, so a flood would hold up those who ask something.
        super().__init__(
            uvicorn.Config(app, log_level="error", http=GuardedProtocol, backlog=_ACCEPTED, lifespan="off", ws="none")
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, with a longer queue than asyncio's."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_QUEUE)
