"""What happened to nodes, told to the world."""

from __future__ import annotations

import logging

import msgspec

from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects
from sollol_schemas.events import ASLEEP, LEFT, BreakerEvent, NodeEvent
from sollol_schemas.scaling import SleepEvent, SleepNews

log = logging.getLogger(__name__)


def tell_of_fleet(bus: Bus, event: NodeEvent | BreakerEvent | SleepEvent) -> None:
    """Logs and publishes a change of a node."""
    told = msgspec.structs.replace(event, at=bus.clock.instant())
    match event:
        case NodeEvent():
            said = LEFT if event.has_left else ASLEEP if event.is_asleep else f"is {event.state}: {event.reason}"
            extra = {"action": "node_state", "node_id": event.node_id}
            log.info("node %s %s", event.node_id, said, extra=extra)
            bus.publish(subjects.NODE_EVENT.of(event.node_id, event.state), encode(told))
        case BreakerEvent():
            extra = {"action": "breaker", "node_id": event.node_id}
            log.warning("breaker of %s %s is %s", event.node_id, event.model, event.state, extra=extra)
            bus.publish(subjects.BREAKER_EVENT.of(event.node_id, event.state), encode(told))
        case SleepEvent():
            extra = {"action": "sleep", "node_id": event.node_id}
            level = logging.WARNING if event.news is SleepNews.FAILED else logging.INFO
            log.log(level, "node %s %s: %s", event.node_id, event.news.value, event.reason, extra=extra)
            bus.publish(subjects.SLEEP_EVENT.of(event.node_id), encode(told))
