"""Models of the fleet's engines: pull, push, create, copy and delete over HTTP, for administrators.

Bodies go to engines as they are, and what an engine says of them comes back as it is: here is only decided which
nodes are asked.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.access import guest_of, require_admin
from sollol_agents.gateway.http.bodies import body_of, json_response, pieces_of, text_in
from sollol_agents.gateway.http.errors import JSON, PLAIN_JSON
from sollol_agents.gateway.management import blobs
from sollol_agents.gateway.management.fleet import Fleet
from sollol_agents.gateway.management.progress import Operation, at_the_end, streamed, while_there
from sollol_agents.gateway.management.targets import Targets
from sollol_bus.errors import BadRequest
from sollol_bus.transport.connection import Bus
from sollol_schemas.control import ControlEngine, EngineOperation

_NAME: Final = ("model", "name")


class Management:
    """The handlers."""

    def __init__(self, config: GatewayConfig, bus: Bus, fleet: Fleet) -> None:
        self._config = config
        self._bus = bus
        self._fleet = fleet
        self._targets = Targets(fleet)

    def routes(self) -> list[Route]:
        """The paths of model management."""
        return [
            Route("/api/pull", self.pull, methods=["POST"]),
            Route("/api/push", self.push, methods=["POST"]),
            Route("/api/create", self.create, methods=["POST"]),
            Route("/api/copy", self.copy, methods=["POST"]),
            Route("/api/delete", self.delete, methods=["DELETE"]),
            Route("/api/blobs/{digest}", self.has_blob, methods=["HEAD"]),
            Route("/api/blobs/{digest}", self.put_blob, methods=["POST"]),
        ]

    async def pull(self, request: Request) -> Response:
        """Downloads a model to one node, the one with most free memory unless a header names it, or to all."""
        body = await _allowed(request)
        model = text_in(body, *_NAME)
        nodes = await self._targets.named(request) or [await self._targets.for_new(model)]
        asked = ControlEngine(operation=EngineOperation.PULL, body=_streaming(body))
        return await self._progress(request, body, Operation(nodes=nodes, request=asked, model=model))

    async def push(self, request: Request) -> Response:
        """Uploads a model from a node that has it."""
        body = await _allowed(request)
        nodes = await self._targets.named(request) or (await self._targets.holders(text_in(body, *_NAME)))[:1]
        asked = ControlEngine(operation=EngineOperation.PUSH, body=_streaming(body))
        return await self._progress(request, body, Operation(nodes=nodes, request=asked))

    async def create(self, request: Request) -> Response:
        """Makes a model on a node that has what it is made from."""
        body = await _allowed(request)
        nodes = await self._targets.named(request) or [await self._targets.for_create(body)]
        asked = ControlEngine(operation=EngineOperation.CREATE, body=body)
        return await self._progress(request, body, Operation(nodes=nodes, request=asked, model=text_in(body, *_NAME)))

    async def copy(self, request: Request) -> Response:
        """Gives a model a second name, on every node that has it."""
        body = await _allowed(request)
        nodes = await self._targets.named(request) or await self._targets.holders(text_in(body, "source"))
        asked = ControlEngine(operation=EngineOperation.COPY, body=body)
        await at_the_end(self._fleet, Operation(nodes=nodes, request=asked, model=text_in(body, "destination")))
        return Response(status_code=200)

    async def delete(self, request: Request) -> Response:
        """Deletes a model from every node that has it."""
        body = await _allowed(request)
        model = text_in(body, *_NAME)
        nodes = await self._targets.named(request) or await self._targets.holders(model)
        asked = ControlEngine(operation=EngineOperation.DELETE, body=body)
        await at_the_end(self._fleet, Operation(nodes=nodes, request=asked, model=model, makes=False))
        return Response(status_code=200)

    async def has_blob(self, request: Request) -> Response:
        """Whether the node that would get a file has it."""
        require_admin(guest_of(request))
        digest = request.path_params["digest"]
        if not blobs.is_digest(digest):
            return json_response({}, JSON, 400)
        node_id = (await self._targets.named(request) or [await self._targets.home()])[0]
        is_there = await blobs.has(self._fleet, node_id, digest)
        return Response(status_code=200) if is_there else json_response({}, JSON, 404)

    async def put_blob(self, request: Request) -> Response:
        """Gives a file to one node, the biggest unless a header names it."""
        require_admin(guest_of(request))
        digest = request.path_params["digest"]
        if not blobs.is_digest(digest):
            raise BadRequest("invalid digest format")
        nodes = await self._targets.named(request) or [await self._targets.home()]
        if len(nodes) > 1:
            raise BadRequest("a file goes to one node at a time: name it, or leave the choice to the gateway")
        pieces = pieces_of(request)
        sender = blobs.Sender(self._bus, nodes[0], pieces, self._config.max_blob_bytes)
        try:
            status = await blobs.upload(self._fleet, nodes[0], digest, sender)
        finally:
            await pieces.aclose()
        return Response(status_code=status, headers={"x-sollol-node": nodes[0]})

    async def _progress(self, request: Request, body: dict[str, Any], operation: Operation) -> Response:
        if _wants_stream(body):
            return await streamed(self._fleet, operation, request.url.path)
        last = await while_there(request, at_the_end(self._fleet, operation))
        return Response(last, media_type=PLAIN_JSON.decode())


def _wants_stream(body: dict[str, Any]) -> bool:
    return body.get("stream") is not False


def _streaming(body: dict[str, Any]) -> dict[str, Any]:
    """A body that asks for a stream, so that an engine which is silent for long is one that hangs."""
    return body | {"stream": True}


async def _allowed(request: Request) -> dict[str, Any]:
    require_admin(guest_of(request))
    return await body_of(request)
