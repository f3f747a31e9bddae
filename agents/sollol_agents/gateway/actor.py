"""The gateway at the bus: HTTP in, calls out, answers back. It holds no routing state; any number run side by side."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

import msgspec

from sollol_agents.gateway.application import Application
from sollol_agents.gateway.batches.pages import BatchPages
from sollol_agents.gateway.batches.resources import resources_of
from sollol_agents.gateway.batches.workers import BatchWorkers
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.access import Access
from sollol_agents.gateway.http.hops import Hops
from sollol_agents.gateway.http.metrics import Metrics
from sollol_agents.gateway.inference.serving import Inference
from sollol_agents.gateway.management.fleet import Fleet
from sollol_agents.gateway.management.operations import Management
from sollol_agents.gateway.pages.account import AccountPages
from sollol_agents.gateway.pages.application import pages
from sollol_agents.gateway.pages.feedback import FeedbackPages
from sollol_agents.gateway.pages.groups import GroupPages
from sollol_agents.gateway.pages.jobs import JobPages
from sollol_agents.gateway.pages.models import ModelPages
from sollol_agents.gateway.pages.operations import OperationPages
from sollol_agents.http_server import USUAL_LIMITS, ClientLimits, HttpServer
from sollol_bus.actor import Actor, ActorState
from sollol_bus.jetstream.server_time import ServerTime
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import BusConfig
from sollol_bus.transport.discovery import SHARES_PORT
from sollol_bus.trust.job_room import JobRoom


class GatewayStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway can say about itself."""

    name: str
    instance: str
    state: ActorState
    in_flight: int
    connections: int
    url: str


class Gateway(Actor[GatewayConfig]):
    """One of any number of gateways.

    Args:
        config: Settings.
        bus_config: How to reach the bus.
        limits: What clients may do.
        certificate: Files of a certificate and its key, with which it speaks HTTPS; None: it speaks HTTP.
    """

    name: ClassVar[str] = "gateway"

    def __init__(
        self,
        config: GatewayConfig,
        bus_config: BusConfig,
        limits: ClientLimits = USUAL_LIMITS,
        *,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__(config, bus_config)
        self._limits = limits
        self.drain_timeout_s = config.drain_timeout_s
        self._certificate = certificate

    @property
    def url(self) -> str:
        """Base address that it serves."""
        return self._server.url

    async def on_start(self) -> None:
        """Listens."""
        await self.own(ServerTime(self.bus, self.spawn))
        config, client = self.config, await self.own(Client(self.bus))
        access = await self.own(Access(self.bus, config, self.spawn))
        room = JobRoom(self.bus, lambda: access.roster)
        metrics, resources, fleet = Metrics(), resources_of(client, config, room.most), Fleet(client)
        self._inference = Inference(
            self.bus, config, self._limits, metrics, spawn=self.spawn, on_end=self.drain_progress
        )
        self._operations = OperationPages(
            client, fleet, metrics, connections=lambda: self._server.connections, is_draining=self._is_draining
        )
        rooms = (
            ModelPages(fleet, self.instance),
            AccountPages(fleet),
            Management(config, self.bus, fleet),
            self._operations,
            GroupPages(client, fleet),
            FeedbackPages(self.bus),
            JobPages(client.jobs, room),
            BatchPages(config, resources),
        )
        application = Application(
            config,
            self.bus,
            limits=self._limits,
            access=access,
            inference=self._inference,
            metrics=metrics,
            hops=Hops(self.bus, self.instance),
            pages=pages(route for room in rooms for route in room.routes()),
        )
        self._server = await self.own(
            HttpServer(
                application,
                config.host,
                config.port,
                remedy="Choose another with --port (`sollol up`: --http-port)",
                reuse_port=config.reuse_port,
                limits=self._limits,
                certificate=self._certificate,
            )
        )
        self._workers = await self.own(
            BatchWorkers(self.bus, resources, instance=self.instance, at_once=config.batches_at_once, spawn=self.spawn)
        )
        shown = {"url": self._server.url, SHARES_PORT: "yes" if self.config.reuse_port else "no"}
        await self.register("Serves HTTP clients.", metadata=shown)

    def _is_draining(self) -> bool:
        return self.state is ActorState.DRAINING

    async def stop_intake(self) -> None:
        """Takes no new connections, and of those that are open one request more."""
        await super().stop_intake()
        self._workers.stop()
        await self._server.stop_accepting()

    def in_flight(self) -> Collection[str]:
        """Ids of the requests that are not answered yet, and a word for those that may be on their way."""
        coming = ("the next request",) if self._server.may_be_asked else ()
        return (*self._inference.active.keys(), *coming)

    async def hand_back(self, reason: str) -> None:
        """Ends the answers that could not finish in time."""
        self._inference.hand_back(reason)

    async def exposition(self) -> bytes:
        """What `/metrics` has: this gateway, and the fleet."""
        return await self._operations.exposition()

    def statistics(self) -> GatewayStatistics:
        """Requests and connections that are open."""
        return GatewayStatistics(
            name=self.name,
            instance=self.instance,
            state=self.state,
            in_flight=len(self.in_flight()),
            connections=self._server.connections,
            url=self._server.url,
        )
