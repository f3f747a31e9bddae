"""Burial: messages that nobody can finish leave the queue, with a dead letter that says why."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from sollol_agents.dispatcher.jobs import life
from sollol_agents.dispatcher.jobs.persistence import Overtaken, delete_message, stored_message
from sollol_agents.dispatcher.jobs.records import result_of, stored_status
from sollol_bus.errors import DecodeFailed
from sollol_bus.jetstream.pull import ConsumerSpec, Delivery, PullConsumer
from sollol_bus.transport.messages import decode
from sollol_schemas import stores, subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.jobs import TERMINAL, JobNews, JobState, JobStatus

if TYPE_CHECKING:
    from sollol_agents.dispatcher.jobs.runner import JobCrew

log = logging.getLogger(__name__)

_WINDOW = 8
_ID_CHARACTERS = 16


class _Advisory(msgspec.Struct):
    stream_seq: int
    deliveries: int = 0


class Burial:
    """Takes the server's advisories about messages that were delivered too often, and buries what they name."""

    def __init__(self, crew: JobCrew, spawn: Callable[[Coroutine[Any, Any, None], str], object]) -> None:
        self._crew = crew
        self._spawn = spawn
        spec = ConsumerSpec(stream=stores.ADVISORIES_STREAM, durable="burial")
        self.consumer = PullConsumer(crew.bus, spec, self._on_advisory, window=_WINDOW)

    def _on_advisory(self, delivery: Delivery) -> None:
        self._spawn(self._bury(delivery), "burial")

    async def _bury(self, delivery: Delivery) -> None:
        """The server has stopped delivering a message: it gets a letter, a result and a state, and is removed."""
        try:
            advisory = decode(delivery.data, _Advisory)
        except DecodeFailed as error:
            delivery.term(str(error))
            return
        crew = self._crew
        found = await stored_message(crew.bus, stores.JOBS_STREAM, seq=advisory.stream_seq)
        if found is not None:
            known, revision = await crew.states.read(subjects.last_token(found.subject))
            if known is None or known.state not in TERMINAL:
                stored = stored_status(found.subject, found.data, found.headers, submitted_at=found.time, seq=found.seq)
                status = life.undeliverable(known or stored, advisory.deliveries)
                status = msgspec.structs.replace(status, finished_at=crew.now())
                await crew.letters.keep(status, found.data, found.headers)
                await self._publish(status, revision, found.data)
            await delete_message(crew.bus, stores.JOBS_STREAM, found.seq)
        delivery.ack()

    async def _publish(self, status: JobStatus, revision: int, payload: bytes) -> None:
        standing, seq = await self._crew.results.publish(result_of(status), status.result_seq)
        await self._crew.callbacks.order_for(payload, standing)
        final = msgspec.structs.replace(status, state=standing.state, error=standing.error, result_seq=seq)
        try:
            await self._crew.states.write(final, revision)
        except Overtaken:
            log.info(
                "job %s: somebody finished it after all",
                status.job_id,
                extra={"action": "job_overtaken", "job_id": status.job_id},
            )
        else:
            self._crew.tell(final, JobNews(final.state.value))

    async def bury_nameless(self, delivery: Delivery) -> None:
        """A message whose id no job may have: kept as a dead letter under an id made from its content."""
        job_id = "invalid-" + hashlib.sha256(delivery.data).hexdigest()[:_ID_CHARACTERS]
        name = subjects.last_token(delivery.subject)
        message = f"{name[:80]!r} cannot be a job's id: 1 to 56 of A-Z a-z 0-9 _ - are allowed"
        status = JobStatus(
            job_id=job_id,
            state=JobState.FAILED,
            priority=int(delivery.subject.split(".")[-2]),
            error=ErrorBody(code=ErrorCode.BAD_REQUEST, message=message),
            finished_at=self._crew.now(),
        )
        await self._crew.letters.keep(status, delivery.data, delivery.headers)
        log.warning("a job was dropped: %s", message, extra={"action": "job_nameless", "job_id": job_id})
        delivery.ack()
        self._crew.tell(status, JobNews.FAILED)
