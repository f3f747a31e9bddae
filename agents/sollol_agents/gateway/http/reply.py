"""The answer to one HTTP request on its way to the client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from sollol_agents.gateway.http.errors import Header
from sollol_agents.http_server import Connection
from sollol_bus.errors import error_from
from sollol_schemas.errors import ErrorBody, ErrorCode

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PIECE_BYTES: Final = 262_144
_WHOLE_BYTES: Final = 2048


class Reply:
    """Writes an answer; a client that leaves its connection full for too long is cut.

    Args:
        send: ASGI's own.
        connection: The client's connection.
        reader_timeout_s: How long a write may wait for the client to read.
    """

    __slots__ = ("_connection", "_head", "_reader_timeout_s", "_send", "status")

    def __init__(self, send: Send, connection: Connection, reader_timeout_s: float) -> None:
        self._send = send
        self._head: Message | None = None
        self._connection = connection
        self._reader_timeout_s = reader_timeout_s
        self.status = 0
        """The status sent; 0 before the first byte."""

    def start(self, status: int, headers: list[Header]) -> None:
        """Sets status and headers; they leave together with the first piece of the body."""
        self.status = status
        self._head = {"type": "http.response.start", "status": status, "headers": headers}

    async def write(self, data: bytes) -> None:
        """Sends a piece of the body.

        Raises:
            SollolError: The client read nothing for too long; its connection is closed.
        """
        await self._pass({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Sends the last piece of the body."""
        await self._pass({"type": "http.response.body", "body": data, "more_body": False})

    async def whole(self, status: int, headers: list[Header], body: bytes, *, as_go: bool = False) -> None:
        """Sends a whole answer, with its length; as Go's server does, in chunks where it is long.

        A large one leaves in pieces, no faster than the client reads.
        """
        is_chunked = as_go and len(body) > _WHOLE_BYTES
        self.start(status, headers if is_chunked else [*headers, (b"content-length", b"%d" % len(body))])
        last = max(0, len(body) - 1) // _PIECE_BYTES * _PIECE_BYTES
        for start in range(0, last, _PIECE_BYTES):
            await self.write(body[start : start + _PIECE_BYTES])
        await self.end(body[last:])

    async def _pass(self, message: Message) -> None:
        if not self._connection.is_full:
            if self._head is None:
                await self._send(message)
            else:
                await self._send_with_head(message)
            return
        try:
            async with asyncio.timeout(self._reader_timeout_s):
                if self._head is not None:
                    await self._send_with_head(message)
                else:
                    await self._send(message)
        except TimeoutError:
            self._connection.abort()
            raise error_from(
                ErrorBody(
                    code=ErrorCode.CANCELLED,
                    message=f"cut: the client read nothing for {self._reader_timeout_s:g} s",
                )
            ) from None

    async def _send_with_head(self, message: Message) -> None:
        """Sends head and body in one write: each write is a call of the system, and wakes the client."""
        head, self._head = self._head, None
        assert head is not None
        cycle = getattr(self._send, "__self__", None)  # uvicorn's, unless something stands between
        transport = getattr(cycle, "transport", None)
        if cycle is None or transport is None:
            await self._send(head)
            await self._send(message)
            return
        cork = cycle.transport = _Cork(transport)
        try:
            await self._send(head)
            await self._send(message)
        finally:
            cycle.transport = transport
            cork.pull()


class _Cork:
    """Stands before a transport and keeps what is written until it is pulled."""

    __slots__ = ("_is_closed", "_parts", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []
        self._is_closed = False

    def write(self, data: bytes) -> None:
        """Keeps data."""
        self._parts.append(data)

    def close(self) -> None:
        """Keeps that the transport is to be closed behind the data."""
        self._is_closed = True

    def pull(self) -> None:
        """Writes what was kept."""
        if self._parts:
            self._transport.write(b"".join(self._parts))
        if self._is_closed:
            self._transport.close()
