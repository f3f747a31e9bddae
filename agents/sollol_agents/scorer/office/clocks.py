"""Says when a node's clock is wrong, and when it is right again."""

from __future__ import annotations

import logging

from sollol_agents.scorer.fleet.nodes import Node
from sollol_bus.transport.clock import Clock, far
from sollol_schemas.instants import seconds_of
from sollol_schemas.telemetry import Telemetry

log = logging.getLogger(__name__)


def compare(node: Node, told: Telemetry, clock: Clock) -> None:
    """Compares the clock of a node, by its heartbeat, with the NATS server's."""
    if not (clock.is_compared and node.clock.hear(seconds_of(told.sent_at), clock.now_unix())):
        return
    ahead_s = node.clock.ahead_s
    log.log(
        logging.WARNING if ahead_s else logging.INFO,
        "the clock of node %s is %s",
        told.node_id,
        f"{far(ahead_s)} the NATS server's; synchronise it (NTP)" if ahead_s else "right again",
        extra={"action": "node_clock", "node_id": told.node_id, "ahead_s": round(ahead_s, 3)},
    )
