"""Notices a second scorer in office, which only another JetStream can have let in: each then answers every request.

The holder asks now and then who is in office. Changes of office overlap for a moment, so a rival is one who was seen
twice in a row.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from sollol_bus.errors import BusError
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.discovery import OFFICE_TERM, Service, find_services

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0


def in_office(services: Iterable[Service]) -> frozenset[str]:
    """The instances that say that they hold an office."""
    return frozenset(service.id for service in services if OFFICE_TERM in service.metadata)


class Rivals:
    """Who else holds the office of this scorer.

    Args:
        bus: The scorer's connection.
        instance: The scorer.
        is_leader: Whether it is in office itself.
        every_s: How often it asks.
    """

    def __init__(
        self, bus: Bus, instance: str, is_leader: Callable[[], bool], *, every_s: float = _LOOK_EVERY_S
    ) -> None:
        self.known: frozenset[str] = frozenset()
        """Who is known to be in office beside this scorer."""
        self._bus = bus
        self._instance = instance
        self._is_leader = is_leader
        self._every_s = every_s
        self._seen: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Asks until it is cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            others: frozenset[str] = frozenset()
            if self._is_leader():
                try:
                    others = in_office(await find_services(self._bus, "sollol-scorer")) - {self._instance}
                except BusError:
                    continue
            self.look(others)

    def look(self, others: frozenset[str]) -> None:
        """Takes in who else was in office at this look, and says so when that has changed."""
        found, self._seen = others & self._seen, others
        if found == self.known:
            return
        self.known = found
        if found:
            log.error(
                "another scorer is in office, too: %s; each answers every request, and jobs may run twice: "
                "two JetStreams know this fleet, name one for all with nats.jetstream_domain",
                ", ".join(sorted(found)),
                extra={"action": "office_doubled"},
            )
        else:
            log.warning("no other scorer is in office any more", extra={"action": "office_single"})
