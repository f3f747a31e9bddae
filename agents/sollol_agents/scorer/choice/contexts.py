"""How long a prompt a node can take, and how long one a request brings.

What a request brings is an estimate, so it never rules a node out for good: it only says where the request goes as
long as there is a node with more room, and engines judge the rest. Rooms that are not known count as large enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sollol_agents.scorer.fleet.fleet import Fleet
from sollol_agents.scorer.fleet.nodes import Node
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.telemetry import EngineKind

_DOUBT: Final = 1.25
"""Prompts are estimated by their characters; so much longer they may be."""
_TEMPLATE_TOKENS: Final = 128
_SMALLEST_TOKENS: Final = 1024
_KNOWN_MAX: Final = 512

Needs = tuple[int, ...]
"""Tokens that a request would like to have room for, the largest first; empty where every node has the room."""


def wanted_room(context: TaskContext) -> Needs:
    """What a request brings: the context it asks for, its prompt with the answer it asks for, its prompt alone.

    Rounded up to powers of two, so that few classes of requests come of it.
    """
    if context.is_load_only:
        return ()
    prompt = _rounded(context.prompt_tokens * _DOUBT + _TEMPLATE_TOKENS)
    wanted = {prompt, _whole(context), most_room(context)}
    return tuple(sorted(wanted, reverse=True))


def most_room(context: TaskContext) -> int:
    """The largest of what a request brings; 0 for one that is not read."""
    if context.is_load_only:
        return 0
    whole = _whole(context)
    return whole if context.num_ctx is None else max(whole, context.num_ctx)


def _whole(context: TaskContext) -> int:
    return _rounded(context.prompt_tokens * _DOUBT + _TEMPLATE_TOKENS + (context.max_output_tokens or 0))


def _rounded(tokens: float) -> int:
    return 1 << (int(tokens) - 1).bit_length() if tokens > _SMALLEST_TOKENS else _SMALLEST_TOKENS


def room_tokens(node: Node, model: str, context: TaskContext) -> int:
    """The context that a request would get on a node; 0 when that is not known.

    Ollama gives it what it asks for, up to the training context. Who asks for nothing gets what is loaded, and who
    cannot ask, because the dialect has no word for it, what the engine gives by itself.
    """
    installed, loaded = node.installed.get(model), node.loaded_context_tokens(model)
    if installed is None:
        return 0
    if node.telemetry.engine.kind is not EngineKind.OLLAMA:
        return loaded or installed.context_length
    if context.num_ctx:
        return installed.context_length
    usual = installed.usual_context_length
    return (usual or loaded) if context.kind is RequestKind.PASSTHROUGH else (loaded or usual)


def with_room(nodes: Iterable[Node], model: str, context: TaskContext, needs: Needs) -> dict[str, int]:
    """The nodes with most of the room that a request would like, each with what it has."""
    rooms = {node.node_id: room_tokens(node, model, context) for node in nodes}
    for need in needs:
        large = {node_id: room for node_id, room in rooms.items() if not 0 < room < need}
        if large:
            return large
    most = max(rooms.values(), default=0)
    return {node_id: room for node_id, room in rooms.items() if room == most}


class Rooms:
    """The smallest room that any node has for a model, as long as the fleet keeps its shape. Bounded."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._version = -1
        self._smallest: dict[tuple[str, bool, bool], int] = {}

    def needs_of(self, model: str, context: TaskContext) -> Needs:
        """What a request brings, where some node has less room than that."""
        smallest = self._smallest_of(model, context)
        return wanted_room(context) if smallest and smallest < most_room(context) else ()

    def _smallest_of(self, model: str, context: TaskContext) -> int:
        if self._version != self._fleet.shape_version or len(self._smallest) > _KNOWN_MAX:
            self._version = self._fleet.shape_version
            self._smallest.clear()
        key = (model, context.num_ctx is not None, context.kind is RequestKind.PASSTHROUGH)
        known = self._smallest.get(key)
        if known is None:
            rooms = (room_tokens(node, model, context) for node in self._fleet.nodes.values())
            known = self._smallest[key] = min((room for room in rooms if room), default=0)
        return known
