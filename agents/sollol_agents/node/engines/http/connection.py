"""One HTTP/1.1 connection to an engine, as an asyncio protocol on httptools."""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import Final

import httptools

from sollol_agents.node.engines.refusals import engine_error
from sollol_bus.errors import SollolError
from sollol_schemas.errors import ErrorCode, Owner

_HIGH_WATER_BYTES: Final = 1 << 20
_MAX_HEAD_BYTES: Final = 256 * 1024
_COPY_BYTES: Final = 65_536
_LLAMA_CPP: Final = b"llama.cpp"
_STREAM: Final = b"text/event-stream"  # behind every tenth of its streams this server closes without a word
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class Connection(asyncio.Protocol):
    """Carries one exchange at a time: `send`, `wait_head`, then `take` until it gives nothing.

    All three raise a `SollolError` when the connection is lost or what comes is no HTTP.
    """

    def __init__(self) -> None:
        self.error: SollolError | None = None
        self.is_used = False
        """Whether it carried an exchange before the present one."""
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._waiter: asyncio.Future[None] | None = None
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._is_paused = False
        self._is_writable = asyncio.Event()
        self._is_writable.set()
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.passing: Callable[[bytes], bool] | None = None
        """Takes bytes of the body as they come, or does not (False), while `take` waits for some."""
        self.status = 0
        self.content_type = b""
        self.date = b""
        self.is_complete = False
        self._head_bytes = 0
        self._has_length = False
        self._keeps_alive = False
        self._is_head = False
        self._ends_early = False

    # -- asyncio ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports do not derive from asyncio's
        self._poll.register(transport.get_extra_info("socket"), select.POLLIN)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends what is being read: a body without a length is complete now, any other is broken."""
        if self.error is None:
            if self.status and not self._has_length and exc is None:
                self.is_complete = True
            message = f"the engine closed the connection{f': {exc}' if exc else ''}"
            self.error = engine_error(ErrorCode.ENGINE_PROTOCOL, message, owner=Owner.ENGINE)
        self.passing = None
        self._is_writable.set()
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; bytes that are no HTTP, or that nobody asked for, end the connection."""
        if self.is_complete:
            self.fail(_broken("the engine sent data that nobody asked for"))
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(_broken(f"not HTTP: {error}"))
        if not self.status:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self.fail(_broken("the headers exceed 256 KiB"))
        if not self._has_passed():
            self._wake()

    def _has_passed(self) -> bool:
        """Whether what has come was taken; the end, and what comes with it, is left for `take`."""
        waiter = self._waiter
        if self.passing is None or waiter is None or waiter.done() or self.is_complete or self.error is not None:
            return False
        chunks = self._chunks
        if not chunks or not self.passing(chunks[0] if len(chunks) == 1 else b"".join(chunks)):
            return False
        chunks.clear()
        self._size = 0
        return True

    def pause_writing(self) -> None:
        """Holds the sender back."""
        self._is_writable.clear()

    def resume_writing(self) -> None:
        """Lets the sender go on."""
        self._is_writable.set()

    # -- httptools ----------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """Reads the headers that matter."""
        lowered = name.lower()
        if lowered == b"content-type":
            self.content_type = value
        elif lowered == b"date":
            self.date = value
        elif lowered == b"server":
            self._ends_early = value == _LLAMA_CPP
        elif lowered in _FRAMING:
            self._has_length = True

    def on_headers_complete(self) -> None:
        """Notes the status; a provisional answer (1xx) is skipped."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.status = status
        if self._is_head:  # the parser would wait for a body of the length that the headers tell
            self.is_complete = True

    def on_body(self, body: bytes) -> None:
        """Keeps a piece of the body; stops reading while the consumer is far behind."""
        self._chunks.append(body)
        self._size += len(body)
        if self._size > _HIGH_WATER_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Notes that the answer is whole."""
        if self.status:
            self.is_complete = True
            self.passing = None
            self._keeps_alive = self._parser.should_keep_alive()

    # -- use ----------------------------------------------------------------------------------------------

    @property
    def is_reusable(self) -> bool:
        """Whether another exchange may follow."""
        is_whole = self.is_complete and self._keeps_alive and self.error is None and not self._chunks
        return is_whole and not (self._ends_early and self.content_type.startswith(_STREAM))

    @property
    def has_news(self) -> bool:
        """Whether something lies in the socket that the event loop has not handed over: of an idle one, its end."""
        return bool(self._poll.poll(0))

    async def send(self, head: bytes, body: bytes) -> None:
        """Writes a request."""
        transport = self._open_transport()
        if self.is_complete:
            self.is_used = True
            self._reset()
        self._is_head = head.startswith(b"HEAD ")
        if len(body) < _COPY_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        if not self._is_writable.is_set():
            await self._is_writable.wait()

    async def send_more(self, data: bytes) -> None:
        """Writes a piece of a request's body; waits while the engine takes none."""
        self._open_transport().write(data)
        await self._is_writable.wait()

    async def wait_head(self) -> None:
        """Returns when status and headers have come."""
        while not self.status:
            if self.error is not None:
                raise self.error
            await self._wait()

    async def take(self) -> bytes:
        """The bytes of the body that have come, waiting for some; empty at the end."""
        while not self._chunks:
            if self.is_complete:
                return b""
            if self.error is not None:
                raise self.error
            await self._wait()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    def fail(self, error: SollolError) -> None:
        """Ends the connection with an error."""
        self.error = self.error or error
        self.abort()

    def abort(self) -> None:
        """Closes at once; nothing more is sent or read."""
        if self._transport is not None:
            self._transport.abort()

    def _open_transport(self) -> asyncio.Transport:
        if self.error is not None:
            raise self.error
        assert self._transport is not None
        return self._transport

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _broken(message: str) -> SollolError:
    return engine_error(ErrorCode.ENGINE_PROTOCOL, message)
