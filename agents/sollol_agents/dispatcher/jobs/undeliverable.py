"""Messages that nobody can finish: they leave the queue, with a dead letter that says why."""

from __future__ import annotations

import hashlib
import logging

import msgspec

from sollol_agents.dispatcher.jobs import life
from sollol_agents.dispatcher.jobs.records import fresh_status, result_of, stored_status
from sollol_agents.dispatcher.jobs.states import Overtaken, Unreadable
from sollol_agents.dispatcher.jobs.tools import JobTools
from sollol_bus.errors import DecodeFailed
from sollol_bus.jetstream.pull import ConsumerSpec, Delivery, PullConsumer
from sollol_bus.jetstream.stored import delete_message, stored_message
from sollol_bus.parts import Spawn
from sollol_bus.transport.messages import decode
from sollol_schemas import stores, subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.jobs import TERMINAL, JobNews, JobState, JobStatus

log = logging.getLogger(__name__)

_WINDOW = 8
_ID_CHARACTERS = 16


class _Advisory(msgspec.Struct):
    stream_seq: int
    deliveries: int = 0


class Undeliverable:
    """Takes the server's advisories about messages that were delivered too often, and buries what they name.

    Args:
        tools: The jobs' states, results and letters.
        spawn: Runs a coroutine as a task of the dispatcher.
    """

    def __init__(self, tools: JobTools, spawn: Spawn) -> None:
        self._tools = tools
        self._spawn = spawn
        spec = ConsumerSpec(
            stream=stores.ADVISORIES_STREAM,
            durable="undeliverable",
            about="Dispatchers bury jobs that the server delivers no more.",
        )
        self.consumer = PullConsumer(tools.bus, spec, self._on_advisory, window=_WINDOW)

    def _on_advisory(self, delivery: Delivery) -> None:
        self._spawn(self._bury(delivery), name="undeliverable")

    async def _bury(self, delivery: Delivery) -> None:
        """The server has stopped delivering a message: it gets a letter, a result and a state, and is removed."""
        try:
            advisory = decode(delivery.data, _Advisory)
        except DecodeFailed as error:
            delivery.term(str(error))
            return
        tools = self._tools
        found = await stored_message(tools.bus, stores.JOBS_STREAM, seq=advisory.stream_seq)
        if found is not None:
            known: JobStatus | None = None
            try:
                known, revision = await tools.states.read(subjects.last_token(found.subject))
            except Unreadable as error:
                revision = error.revision
            if known is None or known.state not in TERMINAL:
                stored = stored_status(found.subject, found.data, found.headers, submitted_at=found.time, seq=found.seq)
                status = life.undeliverable(known or stored, advisory.deliveries)
                status = msgspec.structs.replace(status, finished_at=tools.bus.clock.instant())
                await tools.letters.keep(status, found.data, found.headers)
                await self._publish(status, revision, found.data)
            await delete_message(tools.bus, stores.JOBS_STREAM, found.seq)
        delivery.ack()

    async def _publish(self, status: JobStatus, revision: int, payload: bytes) -> None:
        standing, seq = await self._tools.results.publish(result_of(status), status.result_seq)
        await self._tools.callbacks.order_for(payload, standing)
        final = life.concluded(status, standing, seq)
        try:
            await self._tools.states.write(final, revision)
        except Overtaken:
            log.info(
                "job %s: somebody finished it after all",
                status.job_id,
                extra={"action": "job_overtaken", "job_id": status.job_id},
            )
        else:
            self._tools.events.tell(final, JobNews(final.state.value))

    async def bury_nameless(self, delivery: Delivery) -> None:
        """A message whose id no job may have: kept as a dead letter under an id made from its content."""
        job_id = "invalid-" + hashlib.sha256(delivery.data).hexdigest()[:_ID_CHARACTERS]
        name = subjects.last_token(delivery.subject)
        message = f"{name[:80]!r} cannot be a job's id: 1 to 56 of A-Z a-z 0-9 _ - are allowed"
        status = msgspec.structs.replace(
            fresh_status(delivery, None, worker=""),
            job_id=job_id,
            state=JobState.FAILED,
            error=ErrorBody(code=ErrorCode.BAD_REQUEST, message=message),
            finished_at=self._tools.bus.clock.instant(),
        )
        await self._tools.letters.keep(status, delivery.data, delivery.headers)
        log.warning("a job was dropped: %s", message, extra={"action": "job_nameless", "job_id": job_id})
        delivery.ack()
        self._tools.events.tell(status, JobNews.FAILED)
