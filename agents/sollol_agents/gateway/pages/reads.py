"""Every path that is not inference: lists of models, questions about the fleet, operations."""

from __future__ import annotations

from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sollol_agents.gateway.application import NOT_ALLOWED, NOT_FOUND
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.bodies import body_of
from sollol_agents.gateway.http.errors import JSON, PLAIN_JSON, refusal
from sollol_agents.gateway.http.metrics import Metrics
from sollol_agents.gateway.http.server import HttpServer
from sollol_agents.gateway.management import model_lists
from sollol_agents.gateway.management.fleet import Fleet
from sollol_agents.gateway.management.operations import Management
from sollol_agents.gateway.pages.openapi import document
from sollol_agents.requests.dialects import KIND_OF_PATH, dialect_of
from sollol_agents.requests.names import canonical
from sollol_bus.errors import BadRequest, SollolError, UnknownModel
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_bus.version import VERSION
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.telemetry import NodeState

_OLLAMA_VERSION: Final = "0.33.0"
"""Told when no Ollama is in the fleet: the API that is spoken here."""


class Pages:
    """The handlers."""

    def __init__(self, config: GatewayConfig, bus: Bus, fleet: Fleet, metrics: Metrics, more: list[Route]) -> None:
        self._more = more
        self._config = config
        self._bus = bus
        self._fleet = fleet
        self._metrics = metrics
        self._management = Management(config, bus, fleet)
        self.server: HttpServer | None = None
        """Set once it listens."""
        self.is_draining = False

    def application(self) -> Starlette:
        """The ASGI application of these pages."""
        reads: dict[str, Any] = {
            "/": self.root,
            "/api/version": self.version,
            "/api/status": self.status,
            "/api/tags": self.tags,
            "/api/ps": self.running,
            "/api/stats": self.stats,
            "/api/dashboard": self.dashboard,
            "/v1/models": self.openai_models,
            "/v1/models/{model:path}": self.openai_model,
            "/healthz": self.healthz,
            "/readyz": self.readyz,
            "/metrics": self.metrics,
            "/openapi.json": self.openapi,
        }
        routes = [Route(path, page, methods=["GET", "HEAD"]) for path, page in reads.items()]
        routes.append(Route("/api/show", self.show, methods=["POST"]))
        routes += self._management.routes()
        routes += self._more
        routes += [Route(path, _never, methods=["POST"]) for path in KIND_OF_PATH]
        return Starlette(
            routes=routes,
            exception_handlers={HTTPException: _plain, SollolError: self._refuse, ClientDisconnect: _gone},
        )

    # -- Ollama ---------------------------------------------------------------------------------------------

    async def root(self, _request: Request) -> Response:
        """What Ollama's command line looks for."""
        return PlainTextResponse("Ollama is running")

    async def version(self, _request: Request) -> Response:
        """The version of the oldest Ollama in the fleet."""
        return _json({"version": model_lists.lowest_version((await self._fleet.nodes()).nodes, _OLLAMA_VERSION)})

    async def status(self, _request: Request) -> Response:
        """That nothing here goes to a vendor's cloud."""
        return _json({"cloud": {"disabled": True, "source": "env"}})

    async def tags(self, _request: Request) -> Response:
        """The models on all disks."""
        return _json({"models": await self._fleet.tags()})

    async def running(self, _request: Request) -> Response:
        """The models in all memories."""
        return _json({"models": await self._fleet.running()})

    async def show(self, request: Request) -> Response:
        """One model's details."""
        body = await body_of(request)
        model = body.get("model") or body.get("name")
        if not isinstance(model, str) or not model:
            raise BadRequest("model is required")
        return Response(await self._fleet.show(model, body), media_type=JSON.decode())

    # -- OpenAI ---------------------------------------------------------------------------------------------

    async def openai_models(self, _request: Request) -> Response:
        """The models of the fleet."""
        rows = [model_lists.openai_model(row) for row in await self._fleet.tags()]
        return _json({"object": "list", "data": rows}, PLAIN_JSON)

    async def openai_model(self, request: Request) -> Response:
        """One model of the fleet."""
        name = request.path_params["model"]
        wanted = canonical(name)
        rows = await self._fleet.tags()
        for row in rows:
            if canonical(str(row["name"])) == wanted:
                return _json(model_lists.openai_model(row), PLAIN_JSON)
        shown = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
        details = {"model": shown, "models": [row["name"] for row in rows][:50]}
        raise UnknownModel(
            body=ErrorBody(code=ErrorCode.UNKNOWN_MODEL, message=f"model '{shown}' not found", details=details)
        )

    # -- operations -----------------------------------------------------------------------------------------

    async def healthz(self, _request: Request) -> Response:
        """That this process lives."""
        return _json({"status": "ok", "version": VERSION})

    async def readyz(self, _request: Request) -> Response:
        """Whether requests can be served: connected, a scorer in office, a node up."""
        problem = await self._problem()
        ready = {"status": "ready"} if problem is None else {"status": "not ready", "reason": problem}
        return _json(ready, status=200 if problem is None else 503)

    async def _problem(self) -> str | None:
        if self.is_draining:
            return "shutting down"
        if not self._bus.is_connected:
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
        return self._metrics.text(fleet, self.server.connections if self.server is not None else 0)

    async def openapi(self, _request: Request) -> Response:
        """What can be asked here, for machines."""
        return _json(document(), PLAIN_JSON)

    async def stats(self, request: Request) -> Response:
        """Statistics of the cluster."""
        return _json(await self._fleet.stats(_window(request)))

    async def dashboard(self, request: Request) -> Response:
        """Everything that a page about the fleet shows, at once."""
        nodes = await self._fleet.nodes()
        return _json({"nodes": nodes, "stats": await self._fleet.stats(_window(request))})

    # -- errors ---------------------------------------------------------------------------------------------

    async def _refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, SollolError)
        path = request.url.path
        refused = refusal(dialect_of(path), error.body, path)
        return Response(refused.body, refused.status, {k.decode(): v.decode() for k, v in refused.headers})


def _json(value: object, content_type: bytes = JSON, status: int = 200) -> Response:
    return Response(encode(value), status, media_type=content_type.decode())


def _window(request: Request) -> float:
    text = request.query_params.get("window_s", "0")
    try:
        window_s = float(text)
    except ValueError:
        window_s = -1.0
    if not 0 <= window_s < 1e9:
        raise BadRequest(f"window_s must be a number of seconds, not {text[:40]!r}")
    return window_s


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = {404: NOT_FOUND, 405: NOT_ALLOWED}.get(error.status_code, str(error.detail).encode())
    headers = {**(error.headers or {}), "content-type": "text/plain"}
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods_at(request)))
    return Response(text, error.status_code, headers=headers)


def _methods_at(request: Request) -> set[str]:
    """What may be asked of a path: Starlette itself names the methods of one route alone."""
    matching = [r for r in request.app.routes if isinstance(r, Route) and r.path_regex.match(request.url.path)]
    return {method for route in matching if route.path == matching[0].path for method in route.methods or ()}


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)


async def _never(_request: Request) -> Response:
    """POST to these paths is served elsewhere; they stand here so that other methods get 405."""
    raise HTTPException(404)
