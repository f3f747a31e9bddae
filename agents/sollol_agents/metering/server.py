"""A server for one page: the metrics of the actors of this process.

It is no web server: it answers `GET /metrics`, one request a connection, with bounded heads, times and connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from sollol_agents.metering.config import MetricsConfig
from sollol_agents.metering.requests import RequestMeter
from sollol_agents.metering.state import StateCollector
from sollol_bus.actor import Actor, ActorState
from sollol_bus.errors import ConfigError

log = logging.getLogger(__name__)

_HEAD_MAX: Final = 8192
_PATIENCE_S: Final = 10.0
_MAX_CONNECTIONS: Final = 32
_ALIVE: Final = (ActorState.RUNNING, ActorState.DRAINING)


class MetricsServer:
    """Counts and serves the metrics of some actors for as long as the `async with` block lasts.

    Args:
        config: Where; its port must be set.
        actors: Gives the actors that run now.
    """

    def __init__(self, config: MetricsConfig, actors: Callable[[], Iterable[Actor[Any]]]) -> None:
        self._config = config
        self._all = actors
        self._registry = CollectorRegistry(auto_describe=False)
        self._process = CollectorRegistry(auto_describe=False)
        self._server: asyncio.Server | None = None
        self._open = 0
        self.meter = RequestMeter(self._registry)
        """To be given to the actors before they start."""
        self._registry.register(StateCollector(self._actors))
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)

    def _actors(self) -> list[Actor[Any]]:
        return [actor for actor in self._all() if actor.state in _ALIVE]

    @property
    def url(self) -> str:
        """Where the metrics are."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(
                self._serve, self._config.host, self._config.port, limit=_HEAD_MAX
            )
        except OSError as error:
            where = f"{self._config.host}:{self._config.port}"
            raise ConfigError(f"cannot serve metrics on {where}: {error.strerror or error}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        own = [await actor.exposition() for actor in self._actors()]
        process = await asyncio.to_thread(self._of_process)  # reads files
        return b"".join([generate_latest(self._registry), *own, process])

    def _of_process(self) -> bytes:
        return generate_latest(self._process)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            async with asyncio.timeout(_PATIENCE_S):
                writer.write(await self._answer(reader))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("a reader of metrics left: %s", error)
        finally:
            self._open -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if self._open > _MAX_CONNECTIONS:
            return _response("503 Service Unavailable", b"too many readers\n")
        if path != b"/metrics":
            return _response("404 Not Found", b"the metrics are at /metrics\n")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"")
        body = await self.text()
        return _response("200 OK", body, CONTENT_TYPE_PLAIN_0_0_4, is_head=method == b"HEAD")


def _response(status: str, body: bytes, content_type: str = "text/plain", *, is_head: bool = False) -> bytes:
    told = f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close"
    head = f"HTTP/1.1 {status}\r\n{told}\r\n\r\n"
    return head.encode() + (b"" if is_head else body)
