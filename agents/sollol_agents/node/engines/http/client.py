"""Requests to one engine over HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import AsyncIterator, Callable
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, Self, TypeVar

import msgspec

from sollol_agents.node.engines.decoding import decoded
from sollol_agents.node.engines.http.connection import Connection
from sollol_agents.node.engines.http.origin import origin_of
from sollol_agents.node.engines.http.pool import HttpPool
from sollol_agents.node.engines.http.trace_context import TRACEPARENT, VIA
from sollol_agents.node.engines.refusals import engine_error, refusal
from sollol_agents.requests.hops import header_of
from sollol_bus.errors import ConfigError, SollolError
from sollol_bus.transport.clock import OFF_S
from sollol_bus.transport.streaming import MAX_ANSWER_BYTES, too_large
from sollol_schemas import headers as h
from sollol_schemas.errors import ErrorCode

T = TypeVar("T")
_MAX_ERROR_BYTES: Final = 16 << 20  # some quote the whole request
_PATH: Final = re.compile(r"/[!-~]*")
"""Printable ASCII without spaces: nothing in a path may become a header or a second request."""


class HttpAnswer:
    """The answer to a request whose status is 2xx; iterate for the body's bytes as they come."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def content_type(self) -> str:
        """The Content-Type header, empty without one."""
        return self._connection.content_type.decode("latin-1")

    @property
    def is_whole(self) -> bool:
        """Whether all of the body has come."""
        return self._connection.is_complete

    def unix_s(self, wall_s: float) -> float:
        """Seconds since 1970 by the engine's clock: `wall_s`, ours, unless its Date header says something else."""
        try:
            told_s = parsedate_to_datetime(self._connection.date.decode("latin-1")).timestamp()
        except (ValueError, OverflowError):
            return wall_s
        return told_s if abs(told_s - wall_s) > OFF_S else wall_s  # the header has whole seconds

    def pass_to(self, take: Callable[[bytes], bool]) -> None:
        """Gives bytes of the body to `take` as they come, while the iteration waits.

        Those that it does not take (False), and the last ones, come by the iteration.
        """
        self._connection.passing = take

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The bytes that have come since the last look."""
        data = await self._connection.take()
        if not data:
            raise StopAsyncIteration
        return data

    async def read(self, limit: int = MAX_ANSWER_BYTES) -> bytes:
        """The whole body.

        Raises:
            SollolError: It exceeds `limit` bytes, which is the fault of nobody but the request.
        """
        parts, size = [], 0
        async for data in self:
            parts.append(data)
            size += len(data)
            if size > limit:
                raise too_large()
        return b"".join(parts)


Refuse = Callable[[int, bytes, str], SollolError]
"""The error for a status, a body and its Content-Type."""


class _Exchange:
    """One request, as a context: left early or cancelled, it closes its connection."""

    __slots__ = ("_body", "_connection", "_head", "_pool", "_refuse")

    def __init__(self, pool: HttpPool, head: bytes, body: bytes, refuse: Refuse) -> None:
        self._pool = pool
        self._head = head
        self._body = body
        self._refuse = refuse
        self._connection: Connection | None = None

    async def __aenter__(self) -> HttpAnswer:
        connection = self._connection = await self._pool.exchange(self._head, self._body)
        answer = HttpAnswer(connection)
        if 200 <= connection.status < 300:
            return answer
        try:
            raise self._refuse(connection.status, await answer.read(_MAX_ERROR_BYTES), answer.content_type)
        finally:
            self._pool.give_back(connection)

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            self._pool.give_back(self._connection)


class EngineHttp:
    """Requests to one engine.

    Args:
        url: Base URL, without a trailing slash.
        api_key: Bearer token, or `Basic` with a user and password in base 64; empty: none.
        mark: What the engine is told of who asks, so that a gateway knows its own fleet's node.
        connect_timeout_s: How long to wait for a connection.

    Raises:
        ConfigError: The URL or the key cannot be used.
    """

    def __init__(self, url: str, *, api_key: str = "", mark: str = "", connect_timeout_s: float = 5.0) -> None:
        shown = url.rpartition("@")[2]
        try:
            origin = origin_of(url)
        except ValueError as error:  # of encodings, too
            raise ConfigError(f"url={shown!r}: {error}") from error
        self.url = url
        self._mark = mark
        self._pool = HttpPool(origin, connect_timeout_s=connect_timeout_s)
        self._prefix = origin.path
        # Ollama on a loopback address answers 403 to host names that it does not take for its own.
        host = b"localhost" if is_loopback(origin.host) else origin.netloc
        if not api_key.isascii() or not (api_key.isprintable()):
            raise ConfigError("engine_api_key has characters that a header cannot carry")
        credentials = api_key if api_key.startswith("Basic ") else f"Bearer {api_key}"
        key = b"Authorization: %b\r\n" % credentials.encode() if api_key else b""
        self._common = b" HTTP/1.1\r\nHost: %b\r\nUser-Agent: sollol-node\r\nAccept: */*\r\n%b" % (host, key)
        self._head = lru_cache(maxsize=64)(self._make_head)

    def open(
        self, method: str, path: str, body: bytes | None = None, *, model: str = "", refuse: Refuse | None = None
    ) -> _Exchange:
        """The answer to a request, as an async context; a body is JSON.

        Args:
            method: HTTP's.
            path: In origin form.
            body: Sent as it is.
            model: Named where the engine says only that it has no such model.
            refuse: The error for an answer other than 2xx, in place of the usual one.

        Raises:
            SollolError: On entering: the engine cannot be reached, refused, or broke its protocol.
        """
        head = self._head(method, path, VIA.get())
        if trace := TRACEPARENT.get():
            head += b"traceparent: %b\r\n" % trace.encode()
        usual: Refuse = lambda status, text, kind: refusal(status, text, model, kind, path)  # noqa: E731 one expression
        if body is None:
            return _Exchange(self._pool, head + b"\r\n", b"", refuse or usual)
        length = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        return _Exchange(self._pool, head + length, body, refuse or usual)

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout_s: float | None,
        model: str = "",
        on_head: Callable[[HttpAnswer], None] | None = None,
    ) -> bytes:
        """The whole body of the answer to a request, whose headers go to `on_head`.

        Raises:
            SollolError: As `open`; also when the answer took longer than `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s), self.open(method, path, body, model=model) as answer:
                if on_head is not None:
                    on_head(answer)
                return await answer.read()
        except TimeoutError as error:
            raise engine_error(
                ErrorCode.ENGINE_UNAVAILABLE, f"no answer to {method} {path} within {timeout_s:g} s"
            ) from error

    async def upload(self, path: str, pieces: AsyncIterator[bytes]) -> int:
        """The status with which the engine took a file; what `pieces` raises ends the upload.

        Raises:
            SollolError: As `open`.
        """
        kind = b"Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection = await self._pool.upload(self._head("POST", path, "") + kind, pieces)
        try:
            text = await HttpAnswer(connection).read(_MAX_ERROR_BYTES)
            if 200 <= connection.status < 300:
                return connection.status
            raise refusal(connection.status, text, "")
        finally:
            self._pool.give_back(connection)

    async def get(self, path: str, kind: type[T], *, timeout_s: float = 5.0) -> T:
        """The answer to a GET, decoded."""
        return decoded(await self.call("GET", path, timeout_s=timeout_s), kind, path)

    async def post(self, path: str, value: object, kind: type[T], *, timeout_s: float = 5.0, model: str = "") -> T:
        """The answer to a POST of JSON, decoded."""
        body = msgspec.json.encode(value)
        return decoded(await self.call("POST", path, body, timeout_s=timeout_s, model=model), kind, path)

    def _make_head(self, method: str, path: str, came_by: str) -> bytes:
        if not _PATH.fullmatch(path):
            raise engine_error(ErrorCode.BAD_REQUEST, f"{path[:80]!r} is not a path")
        head = b"%b %b%b%b" % (method.encode(), self._prefix, path.encode(), self._common)
        via = header_of(*filter(None, (came_by, self._mark)))
        return head + b"%b: %b\r\n" % (h.VIA.encode(), via.encode()) if via else head

    async def aclose(self) -> None:
        """Closes every connection."""
        self._pool.close()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by a loopback address or name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
