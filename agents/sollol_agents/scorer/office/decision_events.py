"""Decisions, told to the world a moment later: a grant is not held up by telling about it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator

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
_STORED_BYTES_MAX = 32 << 10
"""Of a message with several decisions; what one more of the largest may be beyond it included, any server takes it."""


class _Stored(msgspec.Struct, tag="decisions.v1"):
    """`Decisions` of which each is encoded already."""

    decisions: list[msgspec.Raw]


class DecisionEvents:
    """Publishes, logs and meters decisions in small bursts, each by itself for whoever watches and together to store.

    To store, deliver, write and acknowledge each by itself cost the server and the recorder more than to decide.
    """

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
        told = [decision_bytes(event) for event in untold]
        try:
            for stored in stored_together(told):
                self._bus.publish(subjects.DECISIONS_EVENT, stored)
            for event, data in zip(untold, told, strict=True):
                log_decision(event)
                if self._bus.meter is not None:
                    self._bus.meter.decided(event)
                self._bus.publish(subjects.ROUTING_EVENT.of(event.decision.mode), data)
        except NotConnected as error:
            log.info("decisions not told: %s", error, extra={"action": "effect_lost"})


def stored_together(told: Iterable[bytes]) -> Iterator[bytes]:
    """The messages with decisions to store: `Decisions`, as many in each as it bears."""
    some: list[msgspec.Raw] = []
    size_bytes = 0
    for data in told:
        some.append(msgspec.Raw(data))
        size_bytes += len(data)
        if size_bytes >= _STORED_BYTES_MAX:
            yield encode(_Stored(some))
            some, size_bytes = [], 0
    if some:
        yield encode(_Stored(some))


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
