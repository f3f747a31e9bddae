"""Jobs that members publish: stored for them, with JetStream's own ack for whoever published.

A member publishes to no subject that JetStream stores: the server would send its ack, with the server's rights,
wherever the publisher says. The dispatcher publishes the job once more, under its owner's name and with the publisher's
inbox as the reply subject, so that the ack of every client library's publish is the true one. Nothing is kept here: an
ack that does not come is missed by the publisher, who publishes again under the same `Nats-Msg-Id`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from sollol_bus.errors import BusError, NotConnected, PayloadTooLarge, QueueFull
from sollol_bus.jetstream.api import ack_of, refusal
from sollol_bus.parts import Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg
from sollol_bus.trust.callers import Roster
from sollol_bus.trust.job_room import JobRoom
from sollol_schemas import headers as h
from sollol_schemas import owners, subjects
from sollol_schemas.ids import is_request_id
from sollol_schemas.inboxes import is_client_inbox
from sollol_schemas.routing import routing_headers

log = logging.getLogger(__name__)

_EVERYBODY: Final = Roster()
_PRIORITIES: Final = frozenset(map(str, subjects.JOB_PRIORITIES))
_CONDITIONS: Final = frozenset(
    {h.EXPECTED_STREAM, h.EXPECTED_LAST_SEQUENCE, h.EXPECTED_LAST_SUBJECT_SEQUENCE, h.TRACEPARENT}
)
"""Passed on as they are. Other orders to JetStream would ask about, or act on, jobs of others."""
_TO_JETSTREAM: Final = "nats-"
_BAD_REQUEST: Final = 10003
_TOO_LARGE: Final = 10054
_TOO_MANY: Final = 10077
_ACK_S: Final = 10.0


class Unfit(Exception):
    """The message cannot be stored as it is; the text says why."""


class ToStore(NamedTuple):
    """A job as it goes to JetStream."""

    subject: str
    headers: dict[str, str]


class Reception:
    """Stores what members publish.

    Args:
        bus: The dispatcher's connection.
        roster: Tells the callers, as they are known now.
        room: How many jobs each may have.
        spawn: Runs a coroutine as a task of the dispatcher.
    """

    def __init__(self, bus: Bus, roster: Callable[[], Roster], room: JobRoom, spawn: Spawn) -> None:
        self._bus = bus
        self._roster = roster
        self._room = room
        self._spawn = spawn

    def on_job(self, msg: Msg) -> None:
        """Stores a job; its ack goes to whoever published it, who has proved that the inbox is its own."""
        if msg.reply and not is_client_inbox(msg.reply):
            return
        owner = owners.caller_of(msg.headers)
        if self._room.most(owner):
            self._spawn(self._store_if_room(msg, owner), name="job.enter")
        else:
            self._store(msg)

    async def _store_if_room(self, msg: Msg, owner: str) -> None:
        """A repeat is refused like any other: the ceiling is looked at before the job is."""
        try:
            await self._room.enter(owner)
        except QueueFull as error:
            self._refuse(msg, _TOO_MANY, error.message)
        except BusError as error:
            log.info("a job was not stored: %s", error, extra={"action": "job_uncounted", "caller": owner})
        else:
            self._store(msg)

    def _store(self, msg: Msg) -> None:
        try:
            job = to_store(msg.subject, msg.headers or {}, self._roster())
            if msg.reply:
                self._bus.publish(job.subject, msg.data, reply=msg.reply, headers=job.headers)
                self._bus.endpoints.over(msg.reply)
            else:
                self._bus.ask(job.subject, msg.data, _note_ack, timeout_s=_ACK_S, headers=job.headers)
        except Unfit as error:
            self._refuse(msg, _BAD_REQUEST, str(error))
        except PayloadTooLarge as error:
            self._refuse(msg, _TOO_LARGE, error.message)
        except NotConnected:
            log.debug("a job was not stored: the bus is down")  # its publisher misses the ack

    def _refuse(self, msg: Msg, code: int, why: str) -> None:
        log.info(
            "a job was not stored: %s", why, extra={"action": "job_unfit", "caller": owners.caller_of(msg.headers)}
        )
        self._bus.answer(msg, refusal(code, why))


def to_store(subject: str, headers: Mapping[str, str], roster: Roster = _EVERYBODY) -> ToStore:
    """The subject and headers under which a published job is stored.

    Args:
        subject: The plain one.
        headers: As they were published, with the caller whom the transport has established.
        roster: The callers; a priority above the ceiling of this one is lowered to that.

    Raises:
        Unfit: It has no job's priority or id, or an order to JetStream that is not for jobs.
    """
    *_, priority, job_id = subject.split(".")
    if priority not in _PRIORITIES:
        raise Unfit(f"priority {priority[:80]!r} is not allowed: 0 to 10")
    if not is_request_id(job_id):
        raise Unfit(f"{job_id[:80]!r} cannot be a job's id: 1 to 56 of A-Z a-z 0-9 _ - are allowed")
    owner = owners.caller_of(headers)
    kept = routing_headers(headers)
    for name, text in headers.items():
        if name in _CONDITIONS:
            kept[name] = text
        elif name == h.MSG_ID:
            kept[name] = owners.reference(owner, text)
        elif name.lower().startswith(_TO_JETSTREAM):
            raise Unfit(f"the header {name[:80]} is not for jobs")
    lowered = roster.priority_for(owner, int(priority))
    return ToStore(subjects.JOB_SUBMIT.of(lowered, owners.reference(owner, job_id)), kept)


def _note_ack(reply: Msg | BusError) -> None:
    """Whoever published wants no ack, so that only the log tells."""
    try:
        ack_of(reply)
    except BusError as error:
        log.warning("a job whose publisher wants no ack was not stored: %s", error, extra={"action": "job_not_stored"})
