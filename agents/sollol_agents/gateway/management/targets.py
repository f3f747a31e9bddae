"""Which nodes an operation on models goes to. Whether its body makes sense is for the engine to say."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request

from sollol_agents.gateway.http.bodies import text_in
from sollol_agents.gateway.management import blobs, model_lists
from sollol_agents.gateway.management.fleet import Fleet
from sollol_bus.errors import BadRequest, error_from
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.queries import NodeView
from sollol_schemas.routing import InvalidRouting, parse_routing
from sollol_schemas.telemetry import EngineKind

EVERY_NODE: Final = "*"
_NODE_HEADER: Final = "x-sollol-node-id"
_STRICT_HEADER: Final = "x-sollol-strict"


def insisted_on(request: Request) -> str:
    """The one node that a request is about by its headers; empty when it is about the fleet.

    Raises:
        BadRequest: A header is unusable.
    """
    said = {name: request.headers[name] for name in (_NODE_HEADER, _STRICT_HEADER) if name in request.headers}
    if said.get(_NODE_HEADER, "").strip() == EVERY_NODE:
        return ""
    try:
        routing = parse_routing({}, said)
    except InvalidRouting as error:
        raise BadRequest(str(error)) from error
    return (routing.node_id or "") if routing.strict else ""


class Targets:
    """Chooses nodes; one of those whose engines answer, unless a header names another."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def named(self, request: Request) -> list[str]:
        """The node that the header names, or all for `*`; empty without the header.

        Raises:
            SollolError: The header is unusable, or there is no node.
        """
        asked = request.headers.get(_NODE_HEADER, "").strip()
        if asked == EVERY_NODE:
            return [view.node_id for view in await self._manageable()]
        return [await self._fleet.id_of(asked)] if asked else []

    async def home(self) -> str:
        """The node for files, and for what no node in particular can answer.

        Raises:
            SollolError: No engine that could is up.
        """
        return blobs.home_of(await self._manageable()).node_id

    async def for_new(self, model: str) -> str:
        """The node for a new model: the one with most free memory of those that do not have it yet.

        Raises:
            SollolError: No engine that could take it is up.
        """
        return roomiest(await self._manageable(), model).node_id

    async def holders(self, model: str) -> list[str]:
        """The nodes that have a model; without any the one whose engine will say so.

        Raises:
            SollolError: Nobody has it, and no engine that could say so is up.
        """
        return await self._fleet.holders(model) or [await self.home()]

    async def for_create(self, body: dict[str, Any]) -> str:
        """The node that has what a model is made from; one with room when its engine must pull that first.

        Raises:
            SollolError: No engine that could make it is up, or the files lie on different nodes.
        """
        views = {view.node_id for view in await self._manageable()}
        found = [one for one in await self._fleet.holders(text_in(body, "from")) if one in views]
        if found:
            return found[0]
        digests = blobs.digests_in(body)
        return await self._holder_of(digests) if digests else await self.for_new(text_in(body, "model", "name"))

    async def _holder_of(self, digests: list[str]) -> str:
        """The node whose engine has all these files; when some have none of them, the one that will say so.

        Raises:
            BadRequest: They lie on different nodes; the message names the first that is missing where files go.
        """
        home = await self.home()
        if not all(map(blobs.is_digest, digests)):
            return home
        missing, somewhere = "", set[str]()
        for node_id in [home, *(view.node_id for view in await self._manageable() if view.node_id != home)]:
            there = {one for one in digests if await blobs.has(self._fleet, node_id, one)}
            if there == set(digests):
                return node_id
            somewhere |= there
            missing = missing or next(one for one in digests if one not in there)
        if somewhere < set(digests):
            return home
        raise BadRequest(f"file does not exist: {missing}; upload every file of a model to one node")

    async def _manageable(self) -> list[NodeView]:
        nodes = model_lists.present((await self._fleet.nodes()).nodes)
        views = [view for view in nodes if _is_manageable(view)]
        if not views:
            raise error_from(ErrorBody(code=ErrorCode.NO_NODES, message="no node with an Ollama is up"))
        return views


def roomiest(views: list[NodeView], model: str) -> NodeView:
    """The node for a new model: the one with most free memory of those that do not have it yet."""
    without = [view for view in views if not model_lists.having([view], model)] or views
    return max(without, key=_free_mib)


def _free_mib(view: NodeView) -> tuple[float, float]:
    telemetry = view.telemetry
    return sum(gpu.memory_free_mib for gpu in telemetry.gpus), telemetry.ram_available_mib


def _is_manageable(view: NodeView) -> bool:
    engine = view.telemetry.engine
    return engine.kind is EngineKind.OLLAMA and engine.is_reachable
