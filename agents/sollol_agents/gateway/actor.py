"""The gateway at the bus: HTTP in, calls out, answers back. It holds no routing state; any number run side by side."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection
from typing import Any, ClassVar

import msgspec
from starlette.middleware.cors import CORSMiddleware

from sollol_agents.gateway.application import Application
from sollol_agents.gateway.batches.pages import BatchPages, now_s
from sollol_agents.gateway.batches.run import Desk, Limits
from sollol_agents.gateway.batches.store import Contents, Records
from sollol_agents.gateway.batches.workers import Keeper
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.access import Access
from sollol_agents.gateway.http.hosts import is_local
from sollol_agents.gateway.http.metrics import Metrics
from sollol_agents.gateway.inference.serving import Inference
from sollol_agents.gateway.management.fleet import Fleet
from sollol_agents.gateway.management.operations import Management
from sollol_agents.gateway.pages.application import pages
from sollol_agents.gateway.pages.jobs import JobPages
from sollol_agents.gateway.pages.models import ModelPages
from sollol_agents.gateway.pages.operations import OperationPages
from sollol_agents.http_server import USUAL_LIMITS, ClientLimits, HttpServer
from sollol_bus.actor import Actor, ActorState
from sollol_bus.sdk.jobs import Jobs
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.batches import BatchRecord, FileRecord

log = logging.getLogger(__name__)


def with_cors(app: Application, config: GatewayConfig) -> Any:  # noqa: ANN401 an ASGI application
    """The application, callable from the web pages of the configured origins."""
    if not config.cors_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=config.cors_origins,
        allow_methods=["GET", "POST", "DELETE", "HEAD"],
        allow_headers=["*"],
        expose_headers=["*"],
    )


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
    """

    name: ClassVar[str] = "gateway"

    def __init__(self, config: GatewayConfig, bus_config: BusConfig, limits: ClientLimits = USUAL_LIMITS) -> None:
        super().__init__(config, bus_config)
        self._limits = limits
        self.drain_timeout_s = config.drain_timeout_s

    @property
    def url(self) -> str:
        """Base address that it serves."""
        return self._server.url

    async def on_start(self) -> None:
        """Listens."""
        metrics = Metrics()
        self._inference = Inference(
            self.bus,
            self.config,
            self._limits,
            metrics,
            spawn=self.spawn,
            on_end=self.drain_progress,
        )
        access = Access(self.bus, require_key=self.config.require_key, is_local=is_local(self.config))
        await access.start(self.spawn)
        if not is_local(self.config) and not self.config.require_key:
            log.warning(
                "anybody who reaches %s may use this gateway: set require_key to ask for API keys",
                self.config.host,
                extra={"action": "gateway_open"},
            )
        desk = self._batch_desk()
        self._keeper = Keeper(
            self.bus,
            desk,
            instance=self.instance,
            at_once=self.config.batches_at_once,
            keep_s=self.config.files_keep_s,
            spawn=self.spawn,
        )
        batches = BatchPages(self.config, desk, self._keeper)
        fleet = Fleet(self.bus)
        self._operations = OperationPages(self.bus, fleet, metrics, lambda: self._server.connections)
        rooms = (
            ModelPages(fleet),
            Management(self.config, self.bus, fleet),
            self._operations,
            JobPages(desk.jobs),
            batches,
        )
        self._application = Application(
            self.config,
            self.bus,
            limits=self._limits,
            access=access,
            inference=self._inference,
            metrics=metrics,
            pages=pages(route for room in rooms for route in room.routes()),
        )
        self._server = HttpServer(
            with_cors(self._application, self.config),
            self.config.host,
            self.config.port,
            remedy="Choose another with --port (`sollol up`: --http-port)",
            reuse_port=self.config.reuse_port,
            limits=self._limits,
        )
        await self.own(self._server)
        await self.own(self._keeper)
        self.spawn(self._keeper.run(), name="batches")
        await self.register("Serves HTTP clients.", metadata={"url": self._server.url})

    def announce_draining(self) -> None:
        """Answers new requests on open connections with 503."""
        self._application.is_draining = self._operations.is_draining = True

    def stop_intake(self) -> None:
        """Takes no new connections."""
        super().stop_intake()
        self._keeper.stop()
        self._server.stop_accepting()

    def in_flight(self) -> Collection[str]:
        """Ids of the requests that are not answered yet."""
        return self._inference.active.keys()

    def hand_back(self, reason: str) -> None:
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

    def _batch_desk(self) -> Desk:
        limits = Limits(
            requests=self.config.max_batch_requests,
            line_bytes=self.bus.max_payload // 2,
            keep_s=self.config.files_keep_s,
        )
        return Desk(
            Contents(self.bus),
            Records(self.bus, "file", FileRecord),
            Records(self.bus, "batch", BatchRecord),
            Jobs(self.bus),
            limits,
            now_s=now_s,
            new_id=lambda prefix: f"{prefix}-{secrets.token_hex(12)}",
        )
