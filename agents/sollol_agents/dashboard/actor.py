"""The dashboard at the bus: listens, remembers what pages show, and serves them. Any number run side by side."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import ClassVar, Final

import msgspec

from sollol_agents.dashboard.access import Sessions, follow_keys, is_local
from sollol_agents.dashboard.config import DashboardConfig
from sollol_agents.dashboard.operations import OperationContext, WayIn
from sollol_agents.dashboard.pages import Pages
from sollol_agents.fleet_view.feed import Feed
from sollol_agents.fleet_view.questions import Questions
from sollol_agents.fleet_view.view import FleetView
from sollol_agents.http_server import HttpServer
from sollol_bus.actor import Actor, ActorState
from sollol_bus.errors import ConfigError, NotConnected
from sollol_bus.sdk.client import Client
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import BusConfig

log = logging.getLogger(__name__)

_DRAW_EVERY_S: Final = 0.5
"""How often an open page is renewed at most."""
_PING_EVERY_S: Final = 0.5
_PONG_WITHIN_S: Final = 1.5
"""With the two pauses above, a page says within 2.5 s that the server is silent."""


class DashboardStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a dashboard can say about itself."""

    name: str
    instance: str
    state: ActorState
    pages: int
    url: str


class Dashboard(Actor[DashboardConfig]):
    """One of any number of dashboards; one in a process."""

    name: ClassVar[str] = "dashboard"

    def __init__(self, config: DashboardConfig, bus_config: BusConfig) -> None:
        super().__init__(config, bus_config)
        self.view = FleetView()
        self._pages = Pages(self.view)
        self._server: HttpServer | None = None

    @property
    def url(self) -> str:
        """Base address that it serves."""
        return self._server.url if self._server is not None else ""

    async def on_start(self) -> None:
        """Listens to the bus, then to browsers."""
        client = await self.own(Client(self.bus))
        questions = Questions(client, self.view, self._pages.shows, lambda: len(self._pages) > 0)
        Feed(self.bus, self.view, questions.ask_again).start()
        self.spawn(questions.run(), name="asks")
        self.spawn(questions.run_jobs(), name="asks for jobs")
        await self._serve(client)
        self.spawn(self._tick(), name="clock")
        self.spawn(self._watch_bus(), name="watches the bus")
        await self.register("Shows the fleet in a browser.", metadata={"url": self.url})

    def statistics(self) -> DashboardStatistics:
        """How many pages are open."""
        return DashboardStatistics(
            name=self.name, instance=self.instance, state=self.state, pages=len(self._pages), url=self.url
        )

    async def _serve(self, client: Client) -> None:
        config = self.config
        sessions = Sessions(require_key=config.require_key, is_local=is_local(config.host))
        if config.require_key:
            self.spawn(follow_keys(self.bus, sessions), name="keys")
        elif not is_local(config.host):
            log.warning(
                "anybody who reaches %s may look at this dashboard: set require_key to ask for API keys",
                config.host,
                extra={"action": "dashboard_open"},
            )
        try:
            # an extra of the package, and 2 s of imports that no other command need pay
            from sollol_agents.dashboard.console import Site  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise ConfigError(f"{error}: the dashboard needs an extra, pip install 'sollol-bus[dashboard]'") from error
        bus = self.bus.config
        way_in = WayIn(nats=bus.url, has_members=bus.creds_file is not None)
        context = OperationContext(client=client, view=self.view, way_in=way_in)
        site = Site(self._pages, context, sessions, config.hosts, self.spawn)
        listening = socket.socket(fileno=config.listen_fd) if config.listen_fd >= 0 else None
        remedy = "Choose another with --port (`sollol up`: --dashboard-port)"
        server = HttpServer(
            site.application(), config.host, config.port, remedy=remedy, listening=listening, is_whole=True
        )
        self._server = await self.own(server)

    async def _watch_bus(self) -> None:
        """Notices a server that says nothing although the connection stands."""
        while True:
            await asyncio.sleep(_PING_EVERY_S)
            if not len(self._pages) or not self.view.is_connected:
                self.view.is_bus_silent = False
                continue
            try:
                await self.bus.measure_rtt(_PONG_WITHIN_S)
                self.view.is_bus_silent = False
            except NotConnected:
                self.view.is_bus_silent = True

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_DRAW_EVERY_S)
            self._pages.tick(time.monotonic(), wall_s())
