"""Decisions, told to the world a moment later: a grant is not held up by telling about it."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from sollol_bus.errors import NotConnected
from sollol_bus.observe.request_log import log_decision
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects
from sollol_schemas.decision import DecisionEvent

log = logging.getLogger(__name__)

_TELL_AFTER_S = 0.01
_BYTES_MAX = 4096


class DecisionEvents:
    """Publishes, logs and meters decisions in small bursts."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._untold: list[DecisionEvent] = []

    def add(self, event: DecisionEvent) -> None:
        """Tells of this decision soon."""
        if not self._untold:
            asyncio.get_running_loop().call_later(_TELL_AFTER_S, self.tell)
        self._untold.append(event)

    def tell(self) -> None:
        """Tells of everything that is not told yet."""
        untold, self._untold = self._untold, []
        try:
            for event in untold:
                log_decision(event)
                if self._bus.meter is not None:
                    self._bus.meter.decided(event)
                self._bus.publish(subjects.ROUTING_EVENT.of(event.decision.mode), decision_bytes(event))
        except NotConnected as error:
            log.info("decisions not told: %s", error, extra={"action": "effect_lost"})


def decision_bytes(event: DecisionEvent) -> bytes:
    """The decision event as JSON, with as many candidates and refusals as fit into 4 KiB."""
    event = event.as_event()
    data = encode(event)
    while len(data) > _BYTES_MAX and (event.rejections or len(event.candidates) > 1):
        event = msgspec.structs.replace(
            event,
            rejections=event.rejections[: len(event.rejections) // 2],
            candidates=event.candidates[: max(1, len(event.candidates) - 2)],
        )
        data = encode(event)
    return data
