"""A server for one page: the metrics of the actors of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sollol_agents.http_server import ClientLimits, HttpServer
from sollol_agents.metering.config import MetricsConfig
from sollol_agents.metering.requests import RequestMeter
from sollol_agents.metering.state import StateCollector
from sollol_bus.actor import Actor, ActorState
from sollol_bus.parts import Part

_PATH: Final = "/metrics"
_CONNECTIONS_MAX: Final = 32
_LIMITS: Final = ClientLimits(head_bytes=8192)
_ALIVE: Final = (ActorState.RUNNING, ActorState.DRAINING)


class MetricsServer(Part):
    """Counts and serves the metrics of some actors for as long as the `async with` block lasts.

    Args:
        config: Where; its port must be set.
        actors: Gives the actors that run now.
    """

    def __init__(self, config: MetricsConfig, actors: Callable[[], Iterable[Actor[Any]]]) -> None:
        self._all = actors
        self._registry = CollectorRegistry(auto_describe=False)
        self._process = CollectorRegistry(auto_describe=False)
        self.meter = RequestMeter(self._registry)
        """To be given to the actors before they start."""
        self._registry.register(StateCollector(self._actors))
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)
        self._server = HttpServer(
            Starlette(routes=[Route(_PATH, self._page)]),
            config.host,
            config.port or 0,
            remedy="Choose another for the metrics with --metrics-port",
            limits=_LIMITS,
            connections_max=_CONNECTIONS_MAX,
        )

    def _actors(self) -> list[Actor[Any]]:
        return [actor for actor in self._all() if actor.state in _ALIVE]

    @property
    def url(self) -> str:
        """Where the metrics are."""
        return self._server.url + _PATH

    async def start(self) -> None:
        """Listens.

        Raises:
            ConfigError: The address cannot be had.
        """
        await self._server.start()

    async def close(self) -> None:
        """Closes every connection."""
        await self._server.close()

    async def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        own = [await actor.exposition() for actor in self._actors()]
        process = await asyncio.to_thread(generate_latest, self._process)  # reads files
        return b"".join([generate_latest(self._registry), *own, process])

    async def _page(self, _request: Request) -> Response:
        return Response(await self.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
