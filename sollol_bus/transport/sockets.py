"""A TCP or TLS connection to a NATS server that hands over what comes the moment it comes.

The client library reads through asyncio's streams, which copy what comes into a buffer, complete a future and wake a
task for each read, before anybody looks at it. Here the loop's own call ends in whoever takes the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import ParseResult

import nats.errors
from nats.aio.transport import Transport

Take = Callable[[bytes], bool]
"""Takes what came; False: it wants nothing more for now."""

_PORT: Final = 4222
_KEPT_BYTES: Final = 1 << 16
"""When so much lies here that nobody takes, the socket is not read."""


class _Stream(asyncio.Protocol):
    """What comes over one connection.

    Args:
        on_full: Called when the socket takes no more (True), and when it does again (False).
    """

    def __init__(self, on_full: Callable[[bool], None]) -> None:
        self._on_full = on_full
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._take: Take | None = None
        self._kept = bytearray()
        self._is_paused = False
        self._end: Exception | None = None
        self._news: asyncio.Future[None] | None = None
        self._has_room: asyncio.Event = asyncio.Event()
        self._has_room.set()
        self.closed = asyncio.Event()
        """Set when the connection is no more."""

    @property
    def transport(self) -> asyncio.Transport:
        """The loop's own side of the connection."""
        assert self._transport is not None
        return self._transport

    # -- called by the loop -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports do not derive from asyncio's

    def data_received(self, data: bytes) -> None:
        if self._take is None:
            self._keep(data)
            return
        try:
            if not self._take(data):
                self._take = None
                self._wake()
        except Exception as error:  # noqa: BLE001 whoever reads is told
            self._take = None
            self._wake(error)

    def eof_received(self) -> None:
        self._finish(nats.errors.UnexpectedEOF())

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(exc or nats.errors.UnexpectedEOF())
        self._has_room.set()
        self.closed.set()

    def pause_writing(self) -> None:
        self._has_room.clear()
        self._on_full(True)

    def resume_writing(self) -> None:
        self._has_room.set()
        self._on_full(False)

    # -- called by the transport --------------------------------------------------------------------------

    async def hand_to(self, take: Take) -> None:
        """Hands what comes to `take` until that wants nothing more; what comes afterwards is kept for the next call.

        Raises:
            Exception: The connection ended, with this error; or what `take` raised.
        """
        if (kept := self.kept()) and not take(kept):
            return
        self._take = take
        try:
            await self._wait()
        finally:
            self._take = None

    async def line(self) -> bytes:
        """The next line, or what there is of it at the end of the connection."""
        while (end := self._kept.find(b"\n") + 1) == 0:
            if len(self._kept) > _KEPT_BYTES:
                raise nats.errors.ProtocolError
            try:
                await self._wait()
            except nats.errors.UnexpectedEOF:
                return self.kept()
        line = bytes(self._kept[:end])
        del self._kept[:end]
        return line

    def kept(self) -> bytes:
        """Takes what came and nobody took."""
        kept = bytes(self._kept)
        self._kept.clear()
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()
        return kept

    async def room(self) -> None:
        """Returns once the socket takes more, or is closed."""
        await self._has_room.wait()

    def _keep(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > _KEPT_BYTES and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()
        self._wake()

    async def _wait(self) -> None:
        """Waits for something to come, or for the end.

        Raises:
            Exception: The connection ended, with this error.
        """
        if self._end is not None:
            raise self._end
        self._news = self._loop.create_future()
        try:
            await self._news
        finally:
            self._news = None

    def _wake(self, error: Exception | None = None) -> None:
        if self._news is None or self._news.done():
            return
        if error is None:
            self._news.set_result(None)
        else:
            self._news.set_exception(error)

    def _finish(self, error: Exception) -> None:
        if self._end is None:
            self._end = error
        self._wake(error)


class SocketTransport(Transport):
    """A connection as the client library wants one, and a way past it for what comes.

    Args:
        on_full: Called when the socket takes no more (True), and when it does again (False).
    """

    def __init__(self, on_full: Callable[[bool], None]) -> None:
        self._on_full = on_full
        self._stream: _Stream | None = None

    def __bool__(self) -> bool:
        return True  # else the library makes one of its own

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:  # noqa: ARG002
        """Connects to a server, and leaves the one before: the library forgets one that failed while it greeted."""
        self.abort()
        making = asyncio.get_running_loop().create_connection(
            lambda: _Stream(self._on_full), uri.hostname or "", uri.port or _PORT
        )
        _, self._stream = await asyncio.wait_for(making, connect_timeout)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002
        connect_timeout: int,
    ) -> None:
        """Speaks TLS from here on."""
        plain = self._required
        secret = _Stream(self._on_full)
        name = uri if isinstance(uri, str) else uri.hostname
        plain.closed.set()  # it hears nothing more
        making = asyncio.get_running_loop().start_tls(plain.transport, secret, ssl_context, server_hostname=name)
        transport = await asyncio.wait_for(making, connect_timeout)
        assert transport is not None
        secret.connection_made(transport)
        self._stream = secret

    @property
    def _required(self) -> _Stream:
        if self._stream is None:
            raise nats.errors.ConnectionClosedError
        return self._stream

    # -- out ----------------------------------------------------------------------------------------------

    def write(self, payload: bytes) -> None:
        """Writes at once what the socket takes, and the rest when it takes more."""
        self._required.transport.write(payload)

    def writelines(self, payload: list[bytes]) -> None:
        """As `write`, of several."""
        self._required.transport.write(b"".join(payload))

    async def drain(self) -> None:
        """Returns once the socket takes more."""
        await self._required.room()

    # -- in -----------------------------------------------------------------------------------------------

    async def hand_to(self, take: Take) -> None:
        """As `_Stream.hand_to`."""
        await self._required.hand_to(take)

    async def read(self, buffer_size: int) -> bytes:  # noqa: ARG002
        """What came; nobody waits for it so."""
        return self._required.kept()

    async def readline(self) -> bytes:
        """The next line, or what there is of it at the end of the connection."""
        return await self._required.line()

    def kept(self) -> bytes:
        """Takes what came and nobody took."""
        return b"" if self._stream is None else self._stream.kept()

    def at_eof(self) -> bool:
        """Whether the connection is no more."""
        return self._stream is None or self._stream.closed.is_set()

    # -- the end ------------------------------------------------------------------------------------------

    def told(self, name: str) -> Any:  # noqa: ANN401 whatever the loop has of that name
        """What the loop tells of the connection; None: nothing."""
        return None if self._stream is None else self._stream.transport.get_extra_info(name)

    def abort(self) -> None:
        """Ends the connection; what waits to leave is dropped."""
        if self._stream is not None:
            self._stream.transport.abort()

    def close(self) -> None:
        """Ends the connection once what waits to leave has left."""
        if self._stream is not None:
            with contextlib.suppress(RuntimeError):  # uvloop: closed twice
                self._stream.transport.close()

    async def wait_closed(self) -> None:
        """Returns when the connection is no more."""
        if self._stream is not None:
            await self._stream.closed.wait()
