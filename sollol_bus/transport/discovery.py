"""Discovery: actors as NATS services (ADR-32), so that `nats micro ls`, `info`, `stats` and `ping` show them.

Written on plain subscriptions: the client library's own services run their handlers one after another, cancel
running work when stopped, and echo a request's headers (secrets included) back to the asker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import msgspec

from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.parts import Part
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode
from sollol_bus.transport.subscription import Subscription
from sollol_bus.version import VERSION

COLLECT_S = 0.4
"""How long answers are collected: nobody knows how many will come."""
PING_TYPE = "io.nats.micro.v1.ping_response"
INFO_TYPE = "io.nats.micro.v1.info_response"
STATS_TYPE = "io.nats.micro.v1.stats_response"
OFFICE_TERM = "office_term"
"""Metadata of an actor that is in office: under which term."""
OFFICE = "office"
"""Metadata of an actor that stands for an office: `held` by it, or `stands by`."""
HELD, STANDS_BY = "held", "stands by"
CLOCK_AHEAD_S = "clock_ahead_s"
"""Metadata of an actor whose machine's clock is wrong: by how many seconds it is ahead of the server's."""


class Service(msgspec.Struct, frozen=True):
    """An actor that answered."""

    name: str = ""
    id: str = ""
    version: str = ""
    metadata: dict[str, str] = {}


async def find_services(bus: Bus, name: str = "", *, within_s: float = COLLECT_S) -> list[Service]:
    """The services, of one name or all, that answer within a while; what is no service is passed over."""
    found: list[Service] = []

    def on_answer(msg: Msg | BusError) -> None:
        if not isinstance(msg, BusError):
            with contextlib.suppress(DecodeFailed):
                found.append(decode(msg.data, Service))

    inbox = bus.reply_inbox(on_answer)
    try:
        bus.publish(f"$SRV.PING.{name}" if name else "$SRV.PING", reply=inbox.subject)
        await asyncio.sleep(within_s)
    finally:
        inbox.close()
    return found


class Discovery(Part):
    """Answers the three verbs of one service instance, whose endpoints are those of its connection.

    Args:
        bus: The actor's connection.
        name: Name of the service: `sollol-` and the actor's name.
        instance: The actor's instance id.
        description: One sentence for people.
        metadata: What else others may want to know, as text, and as it is when they ask; a clock that is wrong is
            told beside it.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        name: str,
        instance: str,
        description: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._bus = bus
        self._identity = {"name": name, "id": instance, "version": VERSION}
        self._metadata = {} if metadata is None else metadata
        self._description = description
        self._started = bus.clock.instant()
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Subscribes to the verbs, for everybody, for this service, and for this instance."""
        name, instance = self._identity["name"], self._identity["id"]
        for verb, answer in (("PING", self._on_ping), ("INFO", self._on_info), ("STATS", self._on_stats)):
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{instance}"):
                self._subscriptions.append(self._bus.subscribe(subject, answer))

    async def close(self) -> None:
        """Leaves."""
        for subscription in self._subscriptions:
            subscription.unsubscribe()
        self._subscriptions.clear()

    def _on_ping(self, msg: Msg) -> None:
        self._answer(msg, {"type": PING_TYPE, **self._identity})

    def _on_info(self, msg: Msg) -> None:
        endpoints = [
            {"name": one.name, "subject": one.subject, "queue_group": one.queue, "metadata": one.metadata()}
            for one in self._bus.endpoints
        ]
        self._answer(
            msg, {"type": INFO_TYPE, **self._identity, "description": self._description, "endpoints": endpoints}
        )

    def _on_stats(self, msg: Msg) -> None:
        endpoints = [
            {
                "name": one.name,
                "subject": one.subject,
                "queue_group": one.queue,
                "num_requests": one.requests,
                "num_errors": one.errors,
                "last_error": one.last_error,
                "processing_time": one.processing_ns,
                "average_processing_time": one.processing_ns // max(1, one.requests),
            }
            for one in self._bus.endpoints
        ]
        self._answer(msg, {"type": STATS_TYPE, **self._identity, "started": self._started, "endpoints": endpoints})

    def _answer(self, msg: Msg, reply: dict[str, object]) -> None:
        clock = self._bus.clock
        wrong = {CLOCK_AHEAD_S: f"{clock.ahead_s:.3f}"} if clock.is_off else {}
        self._bus.respond(msg, {**reply, "metadata": {**self._metadata, **wrong}})
