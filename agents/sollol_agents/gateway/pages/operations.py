"""How the gateway and the fleet are: health, counters, statistics, and the document of what can be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sollol_agents.gateway.http.access import guest_of
from sollol_agents.gateway.http.bodies import json_response
from sollol_agents.gateway.http.metrics import Metrics
from sollol_agents.gateway.management.fleet import Fleet
from sollol_agents.gateway.pages.openapi import document
from sollol_agents.gateway.pages.overview import overview
from sollol_bus.errors import BadRequest, BusError, SollolError, error_from
from sollol_bus.jetstream.api import api
from sollol_bus.sdk.client import Client
from sollol_bus.version import VERSION
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.queries import UsageBy, UsageRequest
from sollol_schemas.telemetry import NodeState

_STORE_ANSWER_S: Final = 1.0
_NO_STORE: Final = "JetStream is off or its disk is full: requests go on, jobs are refused"


class OperationPages:
    """The handlers.

    Args:
        client: The gateway's client of the fleet.
        fleet: Answers about the fleet.
        metrics: The gateway's counters.
        connections: How many connections are open.
        is_draining: Whether the gateway is about to stop.
    """

    def __init__(
        self,
        client: Client,
        fleet: Fleet,
        metrics: Metrics,
        *,
        connections: Callable[[], int],
        is_draining: Callable[[], bool],
    ) -> None:
        self._client = client
        self._fleet = fleet
        self._metrics = metrics
        self._connections = connections
        self._is_draining = is_draining

    def routes(self) -> list[Route]:
        """The paths of operations."""
        reads = {
            "/api/stats": self.stats,
            "/api/usage": self.usage,
            "/api/dashboard": self.dashboard,
            "/healthz": self.healthz,
            "/readyz": self.readyz,
            "/metrics": self.metrics,
            "/openapi.json": self.openapi,
        }
        return [Route(path, page, methods=["GET", "HEAD"]) for path, page in reads.items()]

    async def healthz(self, _request: Request) -> Response:
        """That this process lives."""
        return json_response({"status": "ok", "version": VERSION})

    async def readyz(self, _request: Request) -> Response:
        """Whether requests can be served: connected, a scorer in office, a node up."""
        problem = await self._problem()
        ready = {"status": "ready"} if problem is None else {"status": "not ready", "reason": problem}
        if problem is None and not await self._has_store():
            ready["store"] = _NO_STORE
        return json_response(ready, status=200 if problem is None else 503)

    async def _has_store(self) -> bool:
        """Whether JetStream works; requests need it no more than a moment at the start."""
        try:
            await api(self._client.bus, "INFO", timeout_s=_STORE_ANSWER_S)
        except BusError:
            return False
        return True

    async def _problem(self) -> str | None:
        if self._is_draining():
            return "shutting down"
        if not self._client.bus.is_connected:
            return "not connected to the bus"
        try:
            nodes = (await self._fleet.nodes()).nodes
        except SollolError as error:
            return error.message
        return None if any(view.state is NodeState.UP for view in nodes) else "no node is up"

    async def metrics(self, _request: Request) -> Response:
        """Counters for Prometheus."""
        return Response(await self.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def exposition(self) -> bytes:
        """The gateway's counters, and the fleet as the scorer sees it."""
        try:
            fleet = await self._fleet.nodes()
        except SollolError:
            fleet = None
        return self._metrics.text(fleet, self._connections())

    async def openapi(self, _request: Request) -> Response:
        """What can be asked here, for machines."""
        return json_response(document())

    async def stats(self, request: Request) -> Response:
        """Statistics of the cluster."""
        return json_response(await self._client.stats(_window(request), with_patterns=True))

    async def usage(self, request: Request) -> Response:
        """Who has used how much; for administrators."""
        if not guest_of(request).is_admin:
            message = "usage is told to administrators: `sollol keys create NAME --admin`"
            raise error_from(ErrorBody(code=ErrorCode.FORBIDDEN, message=message))
        asked = {"since_s": _window(request), "by": request.query_params.getlist("by") or ["caller"]}
        try:
            return json_response(await self._client.usage(msgspec.convert(asked, UsageRequest)))
        except msgspec.ValidationError as error:
            raise BadRequest(f"by must be one or more of {', '.join(UsageBy)}") from error

    async def dashboard(self, request: Request) -> Response:
        """Everything that a page about the fleet shows, at once."""
        nodes = await self._fleet.nodes()
        if not guest_of(request).is_admin:
            nodes = nodes.without_addresses()
        return json_response(overview(nodes, await self._client.stats(_window(request), with_patterns=True)))


def _window(request: Request) -> float:
    text = request.query_params.get("window_s", "0")
    try:
        window_s = float(text)
    except ValueError:
        window_s = -1.0
    if not 0 <= window_s < 1e9:
        raise BadRequest(f"window_s must be a number of seconds, not {text[:40]!r}")
    return window_s
