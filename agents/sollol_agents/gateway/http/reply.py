"""The answer to one HTTP request on its way to the client."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from sollol_agents.gateway.http.errors import Header
from sollol_agents.http_server import Connection
from sollol_bus.errors import error_from
from sollol_schemas.errors import ErrorBody, ErrorCode

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PIECE_BYTES: Final = 262_144
_WHOLE_BYTES: Final = 2048
_LENGTH: Final = b"content-length"
"""Always the last header of an answer that has it."""
_BODILESS: Final = (204, 304)
_NOT_IN_A_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Reply:
    """Writes an answer; a client that leaves its connection full for too long is cut.

    What goes to uvicorn's own cycle is written as the cycle would write it, head and body in one: each write is a call
    of the system and wakes the client, and the cycle looks at every header with two patterns.

    Args:
        send: ASGI's own.
        connection: The client's connection.
        reader_timeout_s: How long a write may wait for the client to read.
        told: Headers that every answer has more.
    """

    __slots__ = ("_connection", "_cycle", "_head", "_reader_timeout_s", "_send", "_told", "status")

    def __init__(
        self, send: Send, connection: Connection, reader_timeout_s: float, told: Sequence[Header] = ()
    ) -> None:
        self._send = send
        cycle = getattr(send, "__self__", None)
        is_direct = isinstance(cycle, RequestResponseCycle) and cycle.scope["method"] != "HEAD"
        self._cycle: RequestResponseCycle | None = cycle if is_direct else None
        self._head: list[Header] | None = None
        self._connection = connection
        self._reader_timeout_s = reader_timeout_s
        self._told = told
        self.status = 0
        """The status sent; 0 before the first byte."""

    @property
    def has_room(self) -> bool:
        """Whether a piece of a body that has begun would leave at once."""
        cycle = self._cycle
        if cycle is None or self._head is not None or not self.status:
            return False
        return not (cycle.disconnected or self._connection.is_full)

    def write_now(self, data: bytes) -> None:
        """Sends a piece of the body; only called while there is room."""
        assert self._cycle is not None
        self._write(self._cycle, data, is_last=False)

    def start(self, status: int, headers: list[Header]) -> None:
        """Sets status and headers; they leave together with the first piece of the body."""
        self.status = status
        self._head = [*self._told, *headers] if self._told else headers
        if status in _BODILESS:
            self._cycle = None

    async def write(self, data: bytes) -> None:
        """Sends a piece of the body.

        Raises:
            SollolError: The client read nothing for too long; its connection is closed.
        """
        await self._pass(data, is_last=False)

    async def end(self, data: bytes = b"") -> None:
        """Sends the last piece of the body."""
        await self._pass(data, is_last=True)

    async def whole(self, status: int, headers: list[Header], body: bytes, *, as_go: bool = False) -> None:
        """Sends a whole answer, with its length; as Go's server does, in chunks where it is long.

        A large one leaves in pieces, no faster than the client reads.
        """
        is_chunked = as_go and len(body) > _WHOLE_BYTES
        self.start(status, headers if is_chunked else [*headers, (_LENGTH, b"%d" % len(body))])
        last = max(0, len(body) - 1) // _PIECE_BYTES * _PIECE_BYTES
        for start in range(0, last, _PIECE_BYTES):
            await self.write(body[start : start + _PIECE_BYTES])
        await self.end(body[last:])

    async def _pass(self, data: bytes, *, is_last: bool) -> None:
        connection, cycle = self._connection, self._cycle
        if connection.is_full:
            try:
                async with asyncio.timeout(self._reader_timeout_s):
                    await connection.flow.drain()
                    if cycle is None:
                        await self._send_by_asgi(data, is_last=is_last)
            except TimeoutError:
                connection.abort()
                raise error_from(
                    ErrorBody(
                        code=ErrorCode.CANCELLED,
                        message=f"cut: the client read nothing for {self._reader_timeout_s:g} s",
                    )
                ) from None
        elif cycle is None:
            await self._send_by_asgi(data, is_last=is_last)
        if cycle is not None and not cycle.disconnected:
            self._write(cycle, data, is_last=is_last)

    async def _send_by_asgi(self, data: bytes, *, is_last: bool) -> None:
        head, self._head = self._head, None
        if head is not None:
            await self._send({"type": "http.response.start", "status": self.status, "headers": head})
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    def _write(self, cycle: RequestResponseCycle, data: bytes, *, is_last: bool) -> None:
        """Does what the cycle's `send` does with head and body, and leaves it as that would."""
        head, self._head = self._head, None
        parts = [] if head is None else _head_of(cycle, self.status, head)
        if not cycle.chunked_encoding:
            cycle.expected_content_length -= len(data)
            parts.append(data)
        else:
            if data:
                parts += b"%x\r\n" % len(data), data, b"\r\n"
            if is_last:
                parts.append(b"0\r\n\r\n")
        cycle.transport.write(b"".join(parts))
        if is_last:
            cycle.response_complete = True
            cycle.message_event.set()
            if not cycle.keep_alive:
                cycle.transport.close()
            cycle.on_response()


def _head_of(cycle: RequestResponseCycle, status: int, headers: list[Header]) -> list[bytes]:
    """The head of an answer with a body, which from here on has begun.

    Raises:
        RuntimeError: A value would end its line, or the head.
    """
    if _NOT_IN_A_VALUE.search(b" ".join([value for _, value in headers])):
        raise RuntimeError("a header of the answer has a value that cannot be one")
    cycle.response_started = True
    cycle.waiting_for_100_continue = False
    name, value = headers[-1] if headers else (b"", b"")
    cycle.chunked_encoding = name != _LENGTH
    lines = [STATUS_LINE[status], *[b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]]
    if not cycle.keep_alive:
        lines.append(b"connection: close\r\n")
    if cycle.chunked_encoding:
        lines.append(b"transfer-encoding: chunked\r\n")
    else:
        cycle.expected_content_length = int(value)
    lines.append(b"\r\n")
    return lines
