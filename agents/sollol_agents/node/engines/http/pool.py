"""A lean HTTP/1.1 client for one engine: a pool of connections that stay open.

A short request through httpx costs 0.7 ms of processor time with its own transport and 0.34 ms with aiohttp's (which
brings eight packages); this costs 0.06 ms (`python -m bench.engine_client`). It does what an engine's client needs:
keep-alive, streamed bodies with back-pressure, chunked and fixed lengths, TLS, and a request that is left early
closes its connection at once, which is how an engine learns that nobody wants the answer any more. No proxies,
redirects, compression, or HTTP/2.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Final

import httpx

from sollol_agents.node.engines.http.connection import Connection

_MAX_IDLE: Final = 64


class HttpPool:
    """Connections to one origin. Limits on the time a request may take are the caller's; only connecting has one.

    Args:
        url: The origin; a path in it is ignored.
        connect_timeout_s: How long to wait for a connection.

    Raises:
        httpx.InvalidURL: It is no URL.
        httpx.UnsupportedProtocol: It begins with neither http:// nor https://.
    """

    def __init__(self, url: str, *, connect_timeout_s: float) -> None:
        origin = httpx.URL(url)
        if origin.scheme not in ("http", "https") or not origin.host:
            raise httpx.UnsupportedProtocol(f"an engine's URL begins with http:// or https://, not {url!r}")
        self._host = origin.host
        self._port = origin.port or (443 if origin.scheme == "https" else 80)
        self._is_tls = origin.scheme == "https"
        self._tls: ssl.SSLContext | None = None
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()

    async def exchange(self, head: bytes, body: bytes) -> Connection:
        """Sends a request and returns its connection once status and headers of the answer have come.

        A request whose kept-alive connection turns out to be closed is sent again on a fresh one. Hand the
        connection to `give_back` when the answer was read or is not wanted any more.

        Raises:
            httpx.TransportError: The engine cannot be reached, or broke its protocol.
        """
        while True:
            connection = self._take_idle() or await self._connect()
            try:
                await connection.send(head, body)
                await connection.wait_head()
            except httpx.TransportError:
                self._drop(connection)
                if not connection.is_used:
                    raise
            except BaseException:
                self._drop(connection)
                raise
            else:
                return connection

    async def upload(self, head: bytes, pieces: AsyncIterator[bytes]) -> Connection:
        """As `exchange`, with a body that is sent in chunks as it comes; it is not sent twice.

        When `pieces` raises, the connection is closed: the engine never gets the end of the body.

        Raises:
            httpx.TransportError: The engine cannot be reached, or broke its protocol.
        """
        connection = await self._connect()
        try:
            await connection.send(head, b"")
            async for piece in pieces:
                if connection.status:
                    break  # it has answered already, and wants no more
                await connection.send_more(b"%x\r\n%b\r\n" % (len(piece), piece))
            else:
                await connection.send_more(b"0\r\n\r\n")
            await connection.wait_head()
        except BaseException:
            self._drop(connection)
            raise
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keeps a connection whose exchange is complete for the next one, and closes any other."""
        if connection.is_reusable and len(self._idle) < _MAX_IDLE and connection in self._open:
            self._idle.append(connection)
        else:
            self._drop(connection)

    def close(self) -> None:
        """Closes every connection; later exchanges open new ones."""
        for connection in self._open:
            connection.abort()
        self._open.clear()
        self._idle.clear()

    def _drop(self, connection: Connection) -> None:
        connection.abort()
        self._open.discard(connection)

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
            self._open.discard(connection)
        return None

    async def _connect(self) -> Connection:
        if self._is_tls and self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)  # reads files
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {self._connect_timeout_s:g} s") from error
        except OSError as error:  # refused, unreachable, unknown host, and TLS errors
            raise httpx.ConnectError(str(error)) from error
        self._open.add(connection)
        return connection
