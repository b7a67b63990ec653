"""What is asked of a vLLM server over HTTP: token ids in and out, new weights from a folder, and which weights it has.

The routes that load weights are vLLM's development routes (``VLLM_SERVER_DEV_MODE=1``). They ask for no password.
"""

from __future__ import annotations

import asyncio
import json
import math
import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from empg.errors import EmpgError

ATTEMPTS = 5
T = TypeVar("T")
BACKOFF_SECONDS = 0.5  # before the second attempt; each further wait is twice as long
PASSING = (408, 425, 429)  # and 5xx: statuses after which the same request may succeed


class ServerError(EmpgError):
    """A vLLM server did not answer, or its answer is not one that the policy's own weights can give."""


class _PassingError(Exception):
    """An attempt failed in a way that another one may not."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A response of one turn: ids with the end of turn, unless the limit cut it."""

    ids: list[int]
    logprobs: list[float]  # NaN where the server could not say


@dataclass(frozen=True, slots=True)
class Drawing:
    """How a response is sampled. ``temperature`` 0 takes the most probable token."""

    max_tokens: int
    temperature: float
    end_of_turn: int


class Client:
    """Speaks with one server, from one event loop.

    A request is repeated after a refused or broken connection, a reply that breaks off, a time-out, an abort and the
    statuses :data:`PASSING` and 5xx. That is safe: every request has a seed, so a repetition draws the same tokens and
    prefers none; loading the same folder again changes nothing.

    Args:
        url: ``http://host:port``.
        connections: requests in flight at once, at most.
        timeout: seconds of an attempt.

    Raises:
        ServerError: from a request that fails for good. It names the address, what was expected and what was found.
    """

    def __init__(self, url: str, *, connections: int, timeout: float) -> None:
        self.url, self._timeout = url.rstrip("/"), timeout
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        # The proxies of the process are ignored: weights and episodes go where the user said and nowhere else.
        self._http = httpx.AsyncClient(timeout=timeout, trust_env=False, limits=limits)
        self._slots = asyncio.Semaphore(connections)
        self.model = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def find_model(self, max_context: int) -> None:
        """Learn the served model's name. Raises :class:`ServerError` unless it has room for ``max_context`` tokens."""
        reply: dict[str, Any] = await self._ask("GET", "/v1/models")
        try:
            served = reply["data"][0]
            name, length = served["id"], served.get("max_model_len")
        except (KeyError, TypeError, IndexError, AttributeError):
            name, length = None, None
        if not isinstance(name, str):
            raise self._wrong("/v1/models", "a served model", _excerpt(reply))
        self.model = name
        if not isinstance(length, int) or length < max_context:
            raise self._wrong("/v1/models", f"max_model_len of at least sampling.max_context, {max_context}", length)

    async def load_weights(self, folder: Path, version: str) -> None:
        """Serve the weights of a model folder, under the name ``version``, with nothing of the old ones in a cache.

        Raises :class:`ServerError` where the server does not take them. It is told to resume in any case.
        """
        try:
            await self._ask("POST", "/pause?mode=wait")
            rpc = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            await self._ask("POST", "/collective_rpc", rpc)
            await self._ask("POST", "/reset_prefix_cache", None, _succeeded)
            await self._ask("POST", "/update_weight_version", {"new_version": version})
        except BaseException:
            with suppress(ServerError):  # the first error says more
                await self._ask("POST", "/resume")
            raise
        await self._ask("POST", "/resume")

    async def weight_version(self) -> str:
        """The name that the weights were last loaded under."""
        return str((await self._ask("GET", "/weight_info")).get("weight_version"))

    async def complete(self, prompt: Sequence[int], drawing: Drawing, seed: int) -> Completion:
        """The response to a conversation of token ids."""
        body = self._body(prompt, drawing, seed)
        return await self._ask("POST", "/v1/completions", body, lambda reply: self._completion(reply, prompt, drawing))

    def _body(self, prompt: Sequence[int], drawing: Drawing, seed: int) -> dict[str, Any]:
        """Every parameter that changes the distribution is sent: a server's or a model's own defaults never apply."""
        return {
            "model": self.model,
            "prompt": list(prompt),
            "max_tokens": drawing.max_tokens,
            "temperature": drawing.temperature,
            "seed": seed,
            "stop_token_ids": [drawing.end_of_turn],
            "ignore_eos": True,  # the end of turn is the only end, whatever the model's configuration calls one
            "logprobs": 0,  # of the sampled token alone
            "return_token_ids": True,
            "add_special_tokens": False,
            "skip_special_tokens": False,
            "n": 1,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "min_tokens": 0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "stop": [],
            "echo": False,
            "stream": False,
        }

    def _completion(self, reply: dict[str, Any], prompt: Sequence[int], drawing: Drawing) -> Completion:
        path = "/v1/completions"
        try:
            (choice,) = reply["choices"]
            finish = choice["finish_reason"]
            if finish == "abort":  # whatever else such a reply holds
                raise _PassingError("finish_reason abort")
            ids = [operator.index(token) for token in choice["token_ids"]]
            echoed = None if choice["prompt_token_ids"] is None else list(choice["prompt_token_ids"])
            logprobs = [math.nan if value is None else float(value) for value in choice["logprobs"]["token_logprobs"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._wrong(path, "one choice with token ids and log-probabilities", _excerpt(repr(error))) from None
        if echoed is not None and echoed != list(prompt):
            raise self._wrong(path, f"the {len(prompt)} token ids of the prompt", f"{len(echoed)} other ones")
        ended = bool(ids) and ids[-1] == drawing.end_of_turn
        whole = finish == "stop" if ended else finish == "length" and len(ids) == drawing.max_tokens
        if not whole or drawing.end_of_turn in ids[:-1]:
            expected = f"a response that ends with token {drawing.end_of_turn} or has {drawing.max_tokens} tokens"
            raise self._wrong(path, expected, f"{len(ids)} tokens and finish_reason {_excerpt(repr(finish))}")
        if len(logprobs) != len(ids):
            raise self._wrong(path, f"{len(ids)} log-probabilities", len(logprobs))
        return Completion(ids, logprobs)

    # ------------------------------------------------------------------------------------------------------- requests
    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, read: Callable[[Any], T] = lambda reply: reply
    ) -> T:
        """What ``read`` makes of the JSON object that the server answers with ({} for an empty reply)."""
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
            try:
                return read(await self._attempt(method, path, body))
            except _PassingError as error:
                problem = str(error)
        raise self._wrong(path, f"an answer in {ATTEMPTS} attempts", f"at the last: {problem}")

    async def _attempt(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            async with self._slots, asyncio.timeout(self._timeout):
                response = await self._http.request(method, self.url + path, json=body)
        except TimeoutError:
            raise _PassingError(f"no complete reply in {self._timeout:g} s") from None
        except httpx.TransportError as error:
            raise _PassingError(f"{type(error).__name__} {error}".strip()) from None
        status = response.status_code
        if status >= 500 or status in PASSING:
            raise _PassingError(f"status {status}: {_excerpt(response.text)}")
        if status == 404 and not path.startswith("/v1/"):
            raise self._wrong(path, "vLLM's development routes (VLLM_SERVER_DEV_MODE=1)", "none")
        if status >= 400:
            raise self._wrong(path, "status 200", f"{status}: {_excerpt(response.text)}")
        if not response.content:
            return {}
        try:
            value = json.loads(response.content)
        except ValueError:
            raise _PassingError(f"no JSON: {_excerpt(response.text)}") from None
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(path, "a JSON object", _excerpt(value))
        return value

    def _wrong(self, path: str, expected: str, found: object) -> ServerError:
        return ServerError(f"{self.url}{path}: expected {expected}, found {found}")


def _succeeded(reply: dict[str, Any]) -> None:
    """Blocks of the cache may be held for a moment after the pause."""
    if reply.get("success") is not True:
        raise _PassingError(_excerpt(reply))


def _excerpt(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 300 else text[:300] + "…"
