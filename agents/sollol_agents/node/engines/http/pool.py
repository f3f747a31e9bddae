"""A lean HTTP/1.1 client for one engine: a pool of connections that stay open.

A short request through httpx costs 0.7 ms of processor time with its own transport and 0.34 ms with aiohttp's (which
brings eight packages); this costs 0.06 ms (`python -m bench.engine_client`). It does what an engine's client needs:
keep-alive, streamed bodies with back-pressure, chunked and fixed lengths, TLS, and a request that is left early
closes its connection at once, which is how an engine learns that nobody wants the answer any more. No proxies,
redirects, compression, or HTTP/2.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from typing import Final

from sollol_agents.node.engines.http.connection import Connection
from sollol_agents.node.engines.http.origin import Origin
from sollol_agents.node.engines.refusals import engine_error
from sollol_bus.errors import SollolError
from sollol_schemas.errors import ErrorCode

_MAX_IDLE: Final = 64
_IDLE_S: Final = 3.0  # llama.cpp and vLLM close theirs after 5 s


class HttpPool:
    """Connections to one origin. Limits on the time a request may take are the caller's; only connecting has one.

    Args:
        origin: Where to connect; a path in it is ignored.
        connect_timeout_s: How long to wait for a connection.
        idle_s: For how long an idle connection may be used again.
    """

    def __init__(self, origin: Origin, *, connect_timeout_s: float, idle_s: float = _IDLE_S) -> None:
        self._host = origin.host
        self._port = origin.port
        self._is_tls = origin.is_tls
        self._tls: ssl.SSLContext | None = None
        self._idle_s = idle_s
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[tuple[float, Connection]] = []
        """With the instant from which they were idle, the newest last."""
        self._open: set[Connection] = set()

    async def exchange(self, head: bytes, body: bytes) -> Connection:
        """Sends a request and returns its connection once status and headers of the answer have come.

        A request whose kept-alive connection turns out to be closed is sent again on a fresh one, unless it is a
        POST, which the engine may have begun. Hand the connection to `give_back` when the answer was read or is
        not wanted any more.

        Raises:
            SollolError: The engine cannot be reached, or broke its protocol.
        """
        while True:
            connection = self._take_idle() or await self._connect()
            try:
                await connection.send(head, body)
                await connection.wait_head()
            except SollolError:
                self._drop(connection)
                if not connection.is_used or head.startswith(b"POST "):
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
            SollolError: The engine cannot be reached, or broke its protocol.
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
            self._idle.append((asyncio.get_running_loop().time(), connection))
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
        oldest = asyncio.get_running_loop().time() - self._idle_s
        while self._idle:
            since, connection = self._idle.pop()
            if since > oldest and connection.is_reusable and not connection.has_news:
                return connection
            self._drop(connection)
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            if self._is_tls and self._tls is None:
                import httpx  # noqa: PLC0415 most engines are spoken to in clear

                self._tls = await asyncio.to_thread(httpx.create_ssl_context)  # reads files
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
        except TimeoutError as error:
            raise _unreachable(f"no connection within {self._connect_timeout_s:g} s") from error
        except OSError as error:  # refused, unreachable, unknown host, and TLS errors
            raise _unreachable(f"no connection: {_why(error)}") from error
        self._open.add(connection)
        return connection


def _why(error: OSError) -> str:
    """The system's words, without its number."""
    is_systems = error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError)
    return os.strerror(error.errno) if is_systems and error.errno else error.strerror or str(error)


def _unreachable(message: str) -> SollolError:
    return engine_error(ErrorCode.ENGINE_UNAVAILABLE, message)
