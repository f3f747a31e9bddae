"""Delayed jobs: the server keeps them until they are due, and dispatchers move them to the others."""

from __future__ import annotations

import logging

from sollol_agents.dispatcher.jobs.persistence import persistently
from sollol_agents.dispatcher.jobs.records import is_job
from sollol_bus.errors import BusError
from sollol_bus.jetstream.api import JetStreamRefused, publish_acked
from sollol_bus.jetstream.pull import ConsumerSpec, Delivery, PullConsumer
from sollol_bus.parts import Spawn
from sollol_bus.transport.connection import Bus
from sollol_schemas import headers as h
from sollol_schemas import stores, subjects
from sollol_schemas.instants import instant
from sollol_schemas.routing import routing_headers

log = logging.getLogger(__name__)

_TARGET = "Nats-Schedule-Target"
_WINDOW = 64
_RETRY_S = 2.0


class Delays:
    """Puts jobs aside until they are due, and brings them back.

    Args:
        bus: The connection.
        spawn: Runs a coroutine as a task of the dispatcher.
        ack_wait_s: When a due job that nobody moved goes to another dispatcher.
    """

    def __init__(self, bus: Bus, spawn: Spawn, ack_wait_s: float) -> None:
        self._bus = bus
        self._spawn = spawn
        spec = ConsumerSpec(
            stream=stores.DELAYED_STREAM,
            durable="due",
            about="Dispatchers move jobs that have come due to the others.",
            filter_subjects=(subjects.JOB_DUE.all,),
            ack_wait_s=ack_wait_s,
        )
        self.consumer = PullConsumer(bus, spec, self._on_due, window=_WINDOW)

    async def postpone(self, delivery: Delivery, job_id: str, priority: int, not_before_unix_s: float) -> None:
        """Moves a job that was submitted too early; goes on through outages."""
        headers = _kept(delivery.headers)
        await persistently(
            lambda: self.store(delivery.data, headers, job_id, priority, not_before_unix_s), f"delayed job {job_id}"
        )
        delivery.ack()

    async def store(
        self, payload: bytes, headers: dict[str, str], job_id: str, priority: int, not_before_unix_s: float
    ) -> bool:
        """Stores a job until it is due; False when one with this id and priority waits already."""
        head = headers | {
            h.SCHEDULE: f"@at {instant(not_before_unix_s)}",
            _TARGET: subjects.JOB_DUE.of(priority, job_id),
            h.EXPECTED_LAST_SUBJECT_SEQUENCE: "0",
        }
        try:
            await publish_acked(self._bus, subjects.JOB_DELAYED.of(priority, job_id), payload, headers=head)
        except JetStreamRefused as error:
            if error.is_lost_race:
                return False
            raise
        return True

    def _on_due(self, delivery: Delivery) -> None:
        if not is_job(delivery.subject):
            log.warning("dropped what is no job's and was due", extra={"action": "job_due"})
            delivery.term("its subject is no job's")
            return
        self._spawn(self._move(delivery), name="due")

    async def _move(self, delivery: Delivery) -> None:
        """Stores a due job for work; one that lies there already is the same."""
        priority, job_id = delivery.subject.split(".")[-2:]
        headers = _kept(delivery.headers) | {
            h.MSG_ID: f"{job_id}.due.{delivery.stream_seq}",
            h.EXPECTED_LAST_SUBJECT_SEQUENCE: "0",
        }
        try:
            await publish_acked(self._bus, subjects.JOB_SUBMIT.of(priority, job_id), delivery.data, headers=headers)
        except JetStreamRefused as error:
            if not error.is_lost_race:
                log.warning("job %s is due but cannot be stored: %s", job_id, error, extra={"action": "job_due"})
                delivery.nak(_RETRY_S)
                return
        except BusError as error:
            log.debug("job %s is due; moved later: %s", job_id, error)
            delivery.nak(_RETRY_S)
            return
        delivery.ack()


def _kept(headers: dict[str, str]) -> dict[str, str]:
    """The headers that stay with a job wherever it lies."""
    own = {name: headers[name] for name in (h.JOB_RUN, h.TRACEPARENT) if name in headers}
    return routing_headers(headers) | own
