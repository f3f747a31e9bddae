"""Jobs submitted by request: checked before they are stored, and run again once they have ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from sollol_agents.dispatcher.jobs.intake import accept, check
from sollol_agents.dispatcher.jobs.lookup import Lookup, Refused, meant_by, unknown
from sollol_agents.dispatcher.jobs.records import stored_status
from sollol_agents.dispatcher.jobs.states import Overtaken
from sollol_agents.dispatcher.jobs.tools import JobTools
from sollol_agents.requests.detector import Detector
from sollol_bus.errors import NoResponders, QueueFull
from sollol_bus.jetstream.api import JetStreamRefused, publish_acked
from sollol_bus.sdk.job_making import body_hash, priority_of
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import headers as h
from sollol_schemas import owners, subjects
from sollol_schemas.errors import ErrorCode
from sollol_schemas.ids import new_id
from sollol_schemas.jobs import EnqueueReply, EnqueueRequest, Job, JobNews, JobRef, JobStatus
from sollol_schemas.routing import routing_headers

Recount = Callable[[str], Awaitable[None]]


class Submission:
    """Stores jobs.

    Args:
        tools: The jobs' states and letters.
        lookup: Finds them.
        detector: Finds the task in a prompt.
        recount: Told of a job that runs again, which may be one of a batch.
    """

    def __init__(self, tools: JobTools, lookup: Lookup, detector: Detector, recount: Recount) -> None:
        self._tools = tools
        self._bus = tools.bus
        self._lookup = lookup
        self._detector = detector
        self._recount = recount

    async def enqueue(self, msg: Msg) -> None:
        """Answers a request to store a job."""
        asked = decode(msg.data or b"{}", EnqueueRequest)
        said = asked.job_id or new_id()
        job_id = meant_by(msg, said)
        hosts, owner = self._tools.config.job_callback_hosts, owners.owner_of(job_id)
        accepted = accept(asked.job, msg.headers or {}, hosts=hosts, owner=owner)
        wanted = check(accepted, self._detector)
        priority = self._tools.roster().priority_for(
            owner, wanted if asked.priority is None else priority_of(asked.priority)
        )
        payload = encode(asked.job)
        headers = routing_headers(msg.headers or {})
        if asked.job_id is not None and (known := await self._lookup.known(job_id)) is not None:
            self._bus.respond(msg, _duplicate(said, known, asked.job))
            return
        await self._enter(msg)
        now = self._bus.clock.now_unix()
        due = max(accepted.due_unix_s, now + asked.delay_s)
        if due > now:
            is_new = await self._tools.delays.store(payload, headers, job_id, priority, due)
        else:
            is_new = await self._store(payload, headers, job_id, priority) > 0
        if is_new:
            self._bus.respond(msg, EnqueueReply(job_id=said))
            return
        known = await self._lookup.known(job_id)
        self._bus.respond(
            msg, _duplicate(said, known, asked.job) if known else EnqueueReply(job_id=said, is_duplicate=True)
        )

    async def retry(self, msg: Msg) -> None:
        """Answers a request to run a job again that has ended without an answer."""
        said = decode(msg.data or b"{}", JobRef).job_id
        job_id = meant_by(msg, said)
        found = await self._tools.letters.find(job_id)
        status, revision = await self._tools.states.read(job_id)
        if found is None:
            if status is None:
                raise unknown(said)
            text = f"job {said} is {status.state}; only dead or failed jobs run again"
            raise Refused(ErrorCode.CONFLICT, text, state=status.state.value)
        await self._enter(msg)
        letter, ended = found
        run = max(ended.run, status.run if status is not None else 0) + 1
        seq = await self._store(letter.data, routing_headers(letter.headers), job_id, ended.priority, run)
        if seq:
            subject = subjects.JOB_SUBMIT.of(ended.priority, job_id)
            stored = stored_status(
                subject, letter.data, letter.headers, submitted_at=self._bus.clock.instant(), seq=seq
            )
            fresh = msgspec.structs.replace(
                stored,
                kind=ended.kind,
                model=ended.model,
                run=run,
                result_seq=status.result_seq if status is not None else 0,
            )
            await self._tell_queued(fresh, revision)
            await self._recount(job_id)
        self._bus.respond(msg, EnqueueReply(job_id=said, is_duplicate=not seq))

    async def _enter(self, msg: Msg) -> None:
        """Counts a job in for whoever submits it.

        Raises:
            Refused: It may have no more now.
        """
        try:
            await self._tools.room.enter(owners.caller_of(msg.headers))
        except QueueFull as error:
            raise Refused(error.body.code, error.message, **error.body.details) from error

    async def _tell_queued(self, fresh: JobStatus, revision: int) -> None:
        """From now on it waits, whatever it was; a dispatcher that took it up already has said so."""
        try:
            await self._tools.states.write(fresh, revision)
        except Overtaken:
            return
        self._tools.events.tell(fresh, JobNews.QUEUED)

    async def _store(self, payload: bytes, headers: dict[str, str], job_id: str, priority: int, run: int = 1) -> int:
        """Puts a job into the queue; returns its number there, 0 when it is there already."""
        head = headers | {
            h.MSG_ID: job_id if run == 1 else f"{job_id}.{run}",
            h.EXPECTED_LAST_SUBJECT_SEQUENCE: "0",
        }
        if run > 1:
            head[h.JOB_RUN] = str(run)
        try:
            ack = await publish_acked(self._bus, subjects.JOB_SUBMIT.of(priority, job_id), payload, headers=head)
        except JetStreamRefused as error:
            if error.is_lost_race:
                return 0
            if error.is_full:
                raise Refused(ErrorCode.QUEUE_FULL, f"the queue of jobs is full: {error}", retry_after_s=30) from error
            raise
        except NoResponders as error:
            text = "the queue of jobs is not there (yet), or its disk is full; try again"
            raise Refused(ErrorCode.ACTOR_STOPPED, text) from error
        return 0 if ack.duplicate else ack.seq


def _duplicate(said: str, known: JobStatus, job: Job) -> EnqueueReply:
    """The answer to a job that is known already, called as it was said.

    Raises:
        Refused: It is known with another body.
    """
    if known.body_hash and known.body_hash != body_hash(job):
        raise Refused(ErrorCode.CONFLICT, f"job {said} exists with another body", state=known.state.value)
    return EnqueueReply(job_id=said, state=known.state, is_duplicate=True)
