"""Models of the fleet's engines: pull, push, create, copy and delete over HTTP, for administrators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.access import guest_of, require_admin
from sollol_agents.gateway.http.bodies import body_of, model_in, pieces_of
from sollol_agents.gateway.http.errors import JSON, NDJSON, error_in_stream
from sollol_agents.gateway.management import blobs, model_lists
from sollol_agents.gateway.management.fleet import Fleet
from sollol_agents.requests.dialects import Dialect
from sollol_bus.errors import BadRequest, SollolError, error_from
from sollol_bus.transport.connection import Bus
from sollol_schemas.control import ControlEngine, ControlPull, EngineOperation
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.ids import is_bus_id
from sollol_schemas.queries import NodeView
from sollol_schemas.telemetry import EngineKind

EVERY_NODE: Final = "*"
_NODE_HEADER: Final = "x-sollol-node-id"
_SUCCESS: Final = b'"status":"success"'
_LINES_MAX: Final = 256


class Management:
    """The handlers."""

    def __init__(self, config: GatewayConfig, bus: Bus, fleet: Fleet) -> None:
        self._config = config
        self._bus = bus
        self._fleet = fleet

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
        model = model_in(body)
        nodes = await self._chosen(request) or await self._roomiest(model)
        return await self._progress(request, body, nodes, ControlPull(model=model))

    async def push(self, request: Request) -> Response:
        """Uploads a model from a node that has it."""
        body = await _allowed(request)
        nodes = await self._chosen(request) or (await self._fleet.holders(model_in(body)))[:1]
        return await self._progress(request, body, nodes, ControlEngine(operation=EngineOperation.PUSH, body=body))

    async def create(self, request: Request) -> Response:
        """Makes a model on a node that has what it is made from."""
        body = await _allowed(request)
        source, model = body.get("from"), model_in(body)
        nodes = await self._chosen(request)
        if not nodes and isinstance(source, str) and source:
            nodes = (await self._fleet.holders(source))[:1]
        if not nodes and (digests := blobs.digests_in(body)):
            nodes = [await self._holder_of(digests)]
        nodes = nodes or await self._roomiest(model)
        return await self._progress(request, body, nodes, ControlEngine(operation=EngineOperation.CREATE, body=body))

    async def copy(self, request: Request) -> Response:
        """Gives a model a second name, on every node that has it."""
        body = await _allowed(request)
        source = body.get("source")
        if not isinstance(source, str) or not source:
            raise BadRequest("source is required")
        nodes = await self._chosen(request) or await self._fleet.holders(source)
        return await self._everywhere(nodes, ControlEngine(operation=EngineOperation.COPY, body=body))

    async def delete(self, request: Request) -> Response:
        """Deletes a model from every node that has it."""
        body = await _allowed(request)
        nodes = await self._chosen(request) or await self._fleet.holders(model_in(body))
        return await self._everywhere(nodes, ControlEngine(operation=EngineOperation.DELETE, body=body))

    async def has_blob(self, request: Request) -> Response:
        """Whether the node that would get a file has it."""
        digest = blobs.checked_digest(request.path_params["digest"])
        node_id = (await self._chosen(request) or [await self._home()])[0]
        return Response(status_code=200 if await blobs.has(self._fleet, node_id, digest) else 404)

    async def put_blob(self, request: Request) -> Response:
        """Gives a file to one node, the biggest unless a header names it."""
        require_admin(guest_of(request))
        digest = blobs.checked_digest(request.path_params["digest"])
        nodes = await self._chosen(request) or [await self._home()]
        if len(nodes) > 1:
            raise BadRequest("a file goes to one node at a time: name it, or leave the choice to the gateway")
        pieces = pieces_of(request)
        sender = blobs.Sender(self._bus, pieces, self._config.max_blob_bytes)
        try:
            status = await blobs.upload(self._fleet, nodes[0], digest, sender)
        finally:
            await pieces.aclose()
        return Response(status_code=status, headers={"x-sollol-node": nodes[0]})

    # -- which nodes ----------------------------------------------------------------------------------------

    async def _chosen(self, request: Request) -> list[str]:
        """The node that the header names, or all for `*`; empty without the header.

        Raises:
            SollolError: The header is unusable, or there is no node.
        """
        asked = request.headers.get(_NODE_HEADER, "").strip()
        if asked == EVERY_NODE:
            return [view.node_id for view in await self._manageable()]
        if asked and not is_bus_id(asked):
            raise BadRequest(f"header {_NODE_HEADER} must be a node's id or {EVERY_NODE}")
        return [asked] if asked else []

    async def _roomiest(self, model: str) -> list[str]:
        return [roomiest(await self._manageable(), model).node_id]

    async def _home(self) -> str:
        return blobs.home_of(await self._manageable()).node_id

    async def _holder_of(self, digests: list[str]) -> str:
        """The node that has all these files.

        Raises:
            BadRequest: None has; the message names the first that is missing where files go.
        """
        home = await self._home()
        others = [view.node_id for view in await self._manageable() if view.node_id != home]
        missing = ""
        for node_id in [home, *others]:
            lacks = [one for one in digests if not await blobs.has(self._fleet, node_id, blobs.checked_digest(one))]
            if not lacks:
                return node_id
            missing = missing or lacks[0]
        raise BadRequest(f"file does not exist: {missing}; upload every file of a model to one node")

    async def _manageable(self) -> list[NodeView]:
        views = [v for v in model_lists.present((await self._fleet.nodes()).nodes) if _is_manageable(v)]
        if not views:
            raise error_from(ErrorBody(code=ErrorCode.NO_NODES, message="no node with an Ollama is up"))
        return views

    # -- answers --------------------------------------------------------------------------------------------

    async def _progress(
        self, request: Request, body: dict[str, Any], nodes: list[str], operation: ControlEngine | ControlPull
    ) -> Response:
        objects = self._fleet.operate(nodes[0], operation) if len(nodes) == 1 else self._merged(nodes, operation)
        if body.get("stream") is False:
            last = b"{}"
            async for one in objects:
                last = one
            return Response(last, media_type=JSON.decode())
        return await streamed(objects, request.url.path)

    async def _everywhere(self, nodes: list[str], operation: ControlEngine) -> Response:
        for node_id in nodes:
            await self._fleet.whole(node_id, operation)
        return Response(status_code=200)

    async def _merged(self, nodes: list[str], operation: ControlEngine | ControlPull) -> AsyncIterator[bytes]:
        """The progress of several nodes, each object with its node; `success` is said once, when all have."""
        lines: asyncio.Queue[bytes | None] = asyncio.Queue(_LINES_MAX)
        failed: list[str] = []

        async def follow(node_id: str) -> None:
            try:
                async for one in self._fleet.operate(node_id, operation):
                    if _SUCCESS in one:
                        one = msgspec.json.encode({"status": f"success on {node_id}"})  # noqa: PLW2901 told at the end
                    await lines.put(with_node(one, node_id))
            except SollolError as error:
                failed.append(node_id)
                await lines.put(with_node(error_in_stream(Dialect.OLLAMA, error.body), node_id))
            finally:
                await lines.put(None)

        async with asyncio.TaskGroup() as group:
            for node_id in nodes:
                group.create_task(follow(node_id))
            running = len(nodes)
            while running:
                line = await lines.get()
                if line is None:
                    running -= 1
                else:
                    yield line
        if not failed:
            yield b'{"status":"success"}'


def roomiest(views: list[NodeView], model: str) -> NodeView:
    """The node for a new model: the one with most free memory of those that do not have it yet."""
    without = [view for view in views if not model_lists.having([view], model)] or views
    return max(without, key=_free_mib)


def _free_mib(view: NodeView) -> tuple[float, float]:
    telemetry = view.telemetry
    return sum(gpu.memory_free_mib for gpu in telemetry.gpus), telemetry.ram_available_mib


def _is_manageable(view: NodeView) -> bool:
    return view.telemetry.engine.kind is EngineKind.OLLAMA


def with_node(line: bytes, node_id: str) -> bytes:
    """An object with the node that it is about."""
    return line.rstrip()[:-1] + b',"node_id":' + msgspec.json.encode(node_id) + b"}"


async def streamed(objects: AsyncIterator[bytes], path: str) -> Response:
    """Objects as they come, a line each; an error before the first is an answer of its own."""
    first = await anext(objects, None)

    async def lines() -> AsyncIterator[bytes]:
        if first is None:
            return
        yield first.rstrip() + b"\n"
        try:
            async for one in objects:
                yield one.rstrip() + b"\n"
        except SollolError as error:
            yield error_in_stream(Dialect.OLLAMA, error.body, path)

    return StreamingResponse(lines(), media_type=NDJSON.decode())


async def _allowed(request: Request) -> dict[str, Any]:
    require_admin(guest_of(request))
    return await body_of(request)
