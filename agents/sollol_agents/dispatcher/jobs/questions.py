"""The desk: requests about jobs, answered by whichever dispatcher gets them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from sollol_agents.dispatcher.jobs.intake import accept
from sollol_agents.dispatcher.jobs.listing import Listing
from sollol_agents.dispatcher.jobs.lookup import Lookup, Refused, unknown
from sollol_agents.dispatcher.jobs.persistence import (
    Expired,
    Overtaken,
)
from sollol_agents.dispatcher.jobs.records import stored_status
from sollol_agents.dispatcher.jobs.removal import Endings
from sollol_agents.dispatcher.requests.intake import Rejected
from sollol_bus.errors import BusError, DecodeFailed, NoResponders
from sollol_bus.jetstream.streams import JetStreamRefused, publish_acked
from sollol_bus.sdk.job_making import body_hash
from sollol_bus.sdk.job_storing import FULL_QUEUE
from sollol_bus.transport.connection import INBOX_ROOT
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.instants import InvalidInstant, parse_instant
from sollol_schemas.jobs import (
    TERMINAL,
    EnqueueReply,
    EnqueueRequest,
    Job,
    JobGet,
    JobListRequest,
    JobNews,
    JobRef,
    JobReply,
    JobResult,
    JobState,
    JobStatus,
)

if TYPE_CHECKING:
    from sollol_agents.dispatcher.jobs.runner import JobCrew

log = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[[Msg], Coroutine[Any, Any, None]]

MAX_OPEN = 512
_PROVISIONED_WITHIN_S = 5.0
_PART_BYTES = 512 << 10
_RUN_ID_BYTES = 8


class JobDesk:
    """Answers what callers ask about jobs.

    Args:
        crew: The jobs' states, results and letters.
        spawn: Runs a coroutine as a task of the dispatcher.
    """

    def __init__(self, crew: JobCrew, spawn: Callable[[Coroutine[Any, Any, None], str], object]) -> None:
        self._crew = crew
        self._bus = crew.bus
        self._spawn = spawn
        self._listing = Listing(crew.bus)
        self._lookup = Lookup(crew.bus, crew.states)
        self._endings = Endings(crew, self._lookup, self._listing)
        self._open = 0

    @property
    def subjects(self) -> dict[str, Callable[[Msg], None]]:
        """What it answers, and how; for the dispatcher to subscribe."""
        handlers: dict[str, Handler] = {
            subjects.JOB_ENQUEUE: self._enqueue,
            subjects.JOB_GET: self._get,
            subjects.JOB_LIST: self._list,
            subjects.JOB_DEAD: self._dead,
            subjects.JOB_CANCEL: self._endings.cancel,
            subjects.JOB_RETRY: self._retry,
            subjects.JOB_PURGE: self._endings.purge,
        }
        return {subject: self._taking(handler) for subject, handler in handlers.items()}

    def _taking(self, handler: Handler) -> Callable[[Msg], None]:
        def take(msg: Msg) -> None:
            if self._open >= MAX_OPEN:
                full = ErrorBody(code=ErrorCode.QUEUE_FULL, message="too many requests at once; try again")
                self._bus.respond_error(msg.reply, full)
                return
            self._open += 1
            self._spawn(self._answer(handler, msg), "desk")

        return take

    async def _answer(self, handler: Handler, msg: Msg) -> None:
        try:
            await self._check_provisioned()
            await handler(msg)
        except Refused as refused:
            self._bus.respond_error(msg.reply, refused.error)
        except Rejected as rejected:
            self._bus.respond_error(msg.reply, rejected.error)
        except DecodeFailed as error:
            self._bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error)))
        except (BusError, Overtaken) as error:
            log.info("a request about jobs failed: %s", error, extra={"action": "job_request_failed"})
            message = f"the queue of jobs does not answer: {error}"
            self._bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.ACTOR_STOPPED, message=message))
        finally:
            self._open -= 1

    async def _check_provisioned(self) -> None:
        if not await self._crew.until_provisioned(_PROVISIONED_WITHIN_S):
            raise Refused(ErrorCode.ACTOR_STOPPED, "the queue of jobs is not there (yet); try again")

    # -- submitting ---------------------------------------------------------------------------------------

    async def _enqueue(self, msg: Msg) -> None:
        asked = decode(msg.data, EnqueueRequest)
        not_before = _not_before(asked.job)
        accepted = accept(
            asked.job,
            msg.headers or {},
            hosts=self._crew.config.job_callback_hosts,
            detector=self._crew.detector,
            not_before_unix_s=not_before,
        )
        priority = accepted.request.routing.priority if asked.priority is None else asked.priority
        payload = encode(asked.job)
        headers = {n: t for n, t in (msg.headers or {}).items() if n.lower().startswith(h.ROUTING_PREFIX.lower())}
        job_id = asked.job_id or secrets.token_hex(_RUN_ID_BYTES)
        if asked.job_id is not None and (known := await self._lookup.known(job_id)) is not None:
            self._bus.respond(msg, _duplicate(known, payload))
            return
        if not_before > self._crew.now_unix():
            is_new = await self._crew.delays.store(payload, headers, job_id, priority, not_before)
        else:
            is_new = await self._store(payload, headers, job_id, priority) > 0
        if is_new:
            self._bus.respond(msg, EnqueueReply(job_id=job_id))
            return
        known = await self._lookup.known(job_id)
        self._bus.respond(msg, _duplicate(known, payload) if known else EnqueueReply(job_id=job_id, is_duplicate=True))

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
            if error.err_code in FULL_QUEUE:
                raise Refused(ErrorCode.QUEUE_FULL, f"the queue of jobs is full: {error}", retry_after_s=30) from error
            raise
        except NoResponders as error:
            raise Refused(ErrorCode.ACTOR_STOPPED, "the queue of jobs is not there (yet); try again") from error
        return 0 if ack.duplicate else ack.seq

    async def _retry(self, msg: Msg) -> None:
        job_id = decode(msg.data, JobRef).job_id
        found = await self._crew.letters.find(job_id)
        status, revision = await self._crew.states.read(job_id)
        if found is None:
            if status is None:
                raise unknown(job_id)
            raise Refused(ErrorCode.CONFLICT, f"job {job_id} is {status.state}; only dead or failed jobs run again")
        letter, ended = found
        headers = {n: t for n, t in letter.headers.items() if n.lower().startswith(h.ROUTING_PREFIX.lower())}
        run = max(ended.run, status.run if status is not None else 0) + 1
        seq = await self._store(letter.data, headers, job_id, ended.priority, run)
        if seq:
            subject = subjects.JOB_SUBMIT.of(ended.priority, job_id)
            stored = stored_status(subject, letter.data, letter.headers, submitted_at=self._crew.now(), seq=seq)
            fresh = msgspec.structs.replace(
                stored,
                kind=ended.kind,
                model=ended.model,
                run=run,
                result_seq=status.result_seq if status is not None else 0,
                takes=max(ended.takes, status.takes if status is not None else 0) + 1,
            )
            await self._tell_queued(fresh, revision)
        self._bus.respond(msg, EnqueueReply(job_id=job_id, is_duplicate=not seq))

    async def _tell_queued(self, fresh: JobStatus, revision: int) -> None:
        """From now on it waits, whatever it was; a dispatcher that took it up already has said so."""
        try:
            await self._crew.states.write(fresh, revision)
        except Overtaken:
            return
        self._crew.tell(fresh, JobNews.QUEUED)

    # -- asking -------------------------------------------------------------------------------------------

    async def _get(self, msg: Msg) -> None:
        asked = decode(msg.data, JobGet)
        status = await self._lookup.status(asked.job_id)
        if not asked.with_result:
            self._bus.respond(msg, JobReply(status=status))
            return
        if not msg.reply.startswith(INBOX_ROOT):
            return
        result: JobResult | None = None
        body = b""
        if status.state in TERMINAL:
            result, _ = await self._crew.results.read(asked.job_id)
        if result is not None and result.state is JobState.DONE:
            try:
                body = await self._crew.results.body(result)
                result = msgspec.structs.replace(result, body=msgspec.Raw(b"null"))
            except Expired:
                result = None
        self._bus.publish(msg.reply, encode(JobReply(status=status, result=result)))
        parts = range(0, len(body), _PART_BYTES)
        for start in parts:
            await self._bus.make_room()
            self._bus.publish(msg.reply, body[start : start + _PART_BYTES])
        self._bus.publish(msg.reply, b"", headers={h.CHUNKS: str(1 + len(parts))})

    async def _list(self, msg: Msg) -> None:
        asked = decode(msg.data, JobListRequest)
        self._bus.respond(msg, await self._listing.latest(asked))

    async def _dead(self, msg: Msg) -> None:
        asked = decode(msg.data, JobListRequest)
        self._bus.respond(msg, await self._listing.dead(asked))


def _not_before(job: Job) -> float:
    try:
        return parse_instant(job.not_before) if job.not_before else 0.0
    except InvalidInstant as error:
        raise Refused(ErrorCode.BAD_REQUEST, f"not_before: {error}") from error


def _duplicate(known: JobStatus, payload: bytes) -> EnqueueReply:
    """The answer to a job that is known already.

    Raises:
        Refused: It is known with another body.
    """
    if known.body_hash and known.body_hash != body_hash(payload):
        raise Refused(ErrorCode.CONFLICT, f"job {known.job_id} exists with another body", state=known.state.value)
    return EnqueueReply(job_id=known.job_id, state=known.state, is_duplicate=True)
