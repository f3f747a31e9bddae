"""Discovery: actors as NATS services (ADR-32), so that `nats micro ls`, `info`, `stats` and `ping` show them.

Written on plain subscriptions: the client library's own services run their handlers one after another, cancel
running work when stopped, and echo a request's headers (secrets included) back to the asker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import msgspec

from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.parts import Part
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.endpoints import Endpoint
from sollol_bus.transport.messages import Msg, decode
from sollol_bus.transport.subscription import Subscription
from sollol_bus.version import VERSION
from sollol_schemas import contract

COLLECT_S = 0.4
"""How long answers are collected: nobody knows how many will come."""
PING_TYPE = "io.nats.micro.v1.ping_response"
INFO_TYPE = "io.nats.micro.v1.info_response"
STATS_TYPE = "io.nats.micro.v1.stats_response"
_BEFORE_ID = 3  # $SRV, the verb, the name
OFFICE_TERM = "office_term"
"""Metadata of an actor that is in office: under which term."""
OFFICE = "office"
"""Metadata of an actor that stands for an office: `held` by it, or `stands by`."""
HELD, STANDS_BY = "held", "stands by"
CLOCK_AHEAD_S = "clock_ahead_s"
"""Metadata of an actor whose machine's clock is wrong: by how many seconds it is ahead of the server's."""
CONTRACT, OLDEST = "contract", "contract_oldest"
"""Metadata of every actor: which messages it understands, and the oldest that it still does."""
SHARES_PORT = "shares_port"
"""Metadata of a gateway: whether another may listen on its port before it goes."""
PROCESS = "process"
"""Metadata of every actor: `host:pid`; actors of one process stop together."""


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


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What one service says of itself."""

    name: str
    id: str
    version: str
    description: str
    started: str
    metadata: Mapping[str, str]
    endpoints: tuple[Endpoint, ...]


class Discovery(Part):
    """Answers the three verbs of services of one name, each with what stands on its card then.

    Args:
        bus: A connection.
        name: Name of the services.
        cards: Those that there are, asked for at each question.
        instance: The id of the only one; `*` when there may be several.
    """

    def __init__(self, bus: Bus, name: str, cards: Callable[[], Iterable[Card]], *, instance: str = "*") -> None:
        self._bus = bus
        self._name = name
        self._cards = cards
        self._instance = instance
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Begins to answer."""
        self.open()

    def open(self) -> None:
        """Subscribes to the verbs, for everybody, for this name, and for each instance."""
        for verb, told in (("PING", _ping), ("INFO", _info), ("STATS", _stats)):
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{self._name}", f"$SRV.{verb}.{self._name}.{self._instance}"):
                self._subscriptions.append(self._bus.subscribe(subject, partial(self._answer, told)))

    async def close(self) -> None:
        """Leaves."""
        self.leave()

    def leave(self) -> None:
        """Answers no more."""
        for subscription in self._subscriptions:
            subscription.unsubscribe()
        self._subscriptions.clear()

    def _answer(self, told: Callable[[Card], dict[str, object]], msg: Msg) -> None:
        wanted = msg.subject.split(".", _BEFORE_ID)[_BEFORE_ID:]
        for card in self._cards():
            if wanted in ([], [card.id]):
                identity = {"name": card.name, "id": card.id, "version": card.version, "metadata": card.metadata}
                self._bus.respond(msg, told(card) | identity)


def own_card(
    bus: Bus, name: str, instance: str, description: str, metadata: Mapping[str, str] | None = None
) -> Callable[[], tuple[Card]]:
    """What an actor says of itself: its endpoints are those of its connection.

    Args:
        bus: The actor's connection.
        name: Name of the service: `sollol-` and the actor's name.
        instance: The actor's instance id.
        description: One sentence for people.
        metadata: What else others may want to know, as text, and as it is when they ask; a clock that is wrong is
            told beside it.
    """
    started = bus.clock.instant()
    told_of_all = {
        CONTRACT: str(contract.CONTRACT),
        OLDEST: str(contract.OLDEST),
        PROCESS: f"{socket.gethostname()}:{os.getpid()}",
    }

    def card() -> tuple[Card]:
        wrong = {CLOCK_AHEAD_S: f"{bus.clock.ahead_s:.3f}"} if bus.clock.is_off else {}
        told = Card(
            name=name,
            id=instance,
            version=VERSION,
            description=description,
            started=started,
            metadata={**told_of_all, **(metadata or {}), **wrong},
            endpoints=tuple(bus.endpoints),
        )
        return (told,)

    return card


def _ping(_card: Card) -> dict[str, object]:
    return {"type": PING_TYPE}


def _info(card: Card) -> dict[str, object]:
    endpoints = [
        {"name": one.name, "subject": one.subject, "queue_group": one.queue, "metadata": one.metadata()}
        for one in card.endpoints
    ]
    return {"type": INFO_TYPE, "description": card.description, "endpoints": endpoints}


def _stats(card: Card) -> dict[str, object]:
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
            "data": None,  # the Python client looks for it
        }
        for one in card.endpoints
    ]
    return {"type": STATS_TYPE, "started": card.started, "endpoints": endpoints}
