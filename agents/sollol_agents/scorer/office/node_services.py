"""Nodes as NATS services: the scorer in office tells of them what they tell it.

A node may speak only where control actors asked it, so that it cannot answer questions that anybody may ask.
"""

from __future__ import annotations

from collections.abc import Iterator

from sollol_agents.scorer.fleet.fleet import Fleet
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.discovery import CONTRACT, Card, Discovery
from sollol_bus.transport.endpoints import Endpoint
from sollol_schemas import subjects
from sollol_schemas.instants import instant
from sollol_schemas.telemetry import NodeState, Telemetry

_NAME = "sollol-node"
_LONGEST_S = 1e9
_SERVED = (subjects.NODE_EXEC, subjects.NODE_CANCEL, subjects.NODE_CONTROL)


def node_services(bus: Bus, fleet: Fleet) -> Discovery:
    """Answers for every node that is not down; to be opened in office, and left with it."""

    def cards() -> Iterator[Card]:
        now = bus.clock.now_unix()
        for node in list(fleet.nodes.values()):
            if node.state is not NodeState.DOWN:
                yield card_of(node.telemetry, node.state, now)

    return Discovery(bus, _NAME, cards)


def card_of(told: Telemetry, state: NodeState, now_unix: float) -> Card:
    """What a node's last heartbeat says of it as a service.

    Args:
        told: The heartbeat.
        state: What the scorer holds of the node.
        now_unix: Seconds since 1970.
    """
    metadata = {
        "node_id": told.node_id,
        "state": state.value,
        "engine": told.engine.kind.value,
        "host": told.host,
        CONTRACT: str(told.contract),
    }
    return Card(
        name=_NAME,
        id=told.instance,
        version=told.version,
        description=f"Runs requests on the engine of node {told.node_id}.",
        started=instant(now_unix - told.uptime_s),
        metadata=metadata,
        endpoints=tuple(_endpoint(row.of(told.node_id), told) for row in _SERVED),
    )


def _endpoint(subject: str, told: Telemetry) -> Endpoint:
    made = Endpoint(subject, "")
    for asked in told.asked:
        if asked.what == made.name:
            made.requests, made.errors, made.last_error = asked.requests, asked.errors, asked.last_error
            made.processing_ns = round(min(asked.processing_s, _LONGEST_S) * 1e9)
    return made
