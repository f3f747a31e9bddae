"""Requests about jobs, answered by whichever dispatcher gets them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from sollol_agents.dispatcher.jobs.batches import Batches
from sollol_agents.dispatcher.jobs.listing import Listing
from sollol_agents.dispatcher.jobs.lookup import Lookup, Refused, meant_by
from sollol_agents.dispatcher.jobs.records import told
from sollol_agents.dispatcher.jobs.removal import Removal
from sollol_agents.dispatcher.jobs.results import Expired
from sollol_agents.dispatcher.jobs.states import Overtaken
from sollol_agents.dispatcher.jobs.submission import Submission
from sollol_agents.dispatcher.jobs.tools import JobTools
from sollol_agents.dispatcher.requests.intake import Rejected
from sollol_agents.requests.detector import Detector
from sollol_bus.errors import BadRequest, BusError, DecodeFailed
from sollol_bus.parts import Spawn
from sollol_bus.transport.connection import INBOX_ROOT
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_bus.waiting import happens
from sollol_schemas import headers as h
from sollol_schemas import owners, subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.jobs import TERMINAL, JobGet, JobListReply, JobListRequest, JobReply, JobResult, JobState

log = logging.getLogger(__name__)

Handler = Callable[[Msg], Coroutine[Any, Any, None]]

MAX_OPEN = 512
_PROVISIONED_WITHIN_S = 5.0
_PART_BYTES = 512 << 10
_WITH_RESULT = re.compile(rb'"with_result"\s*:\s*true')


class JobQuestions:
    """Answers what callers ask about jobs.

    Args:
        tools: The jobs' states, results and letters.
        detector: Finds the task in a prompt.
        spawn: Runs a coroutine as a task of the dispatcher.
    """

    def __init__(self, tools: JobTools, detector: Detector, spawn: Spawn) -> None:
        self._tools = tools
        self._bus = tools.bus
        self._spawn = spawn
        self._listing = Listing(tools.bus)
        self._lookup = Lookup(tools.bus, tools.states)
        self._batches = Batches(tools)
        self._submission = Submission(tools, self._lookup, detector, self._batches.recount)
        self._removal = Removal(tools, self._lookup, self._listing, self._batches)
        self._open = 0

    @property
    def subjects(self) -> dict[str, Callable[[Msg], None]]:
        """What it answers, and how; for the dispatcher to subscribe."""
        handlers: dict[str, Handler] = {
            subjects.JOB_ENQUEUE: self._submission.enqueue,
            subjects.JOB_GET: self._get,
            subjects.JOB_LIST: self._list,
            subjects.JOB_DEAD: self._dead,
            subjects.JOB_CANCEL: self._removal.cancel,
            subjects.JOB_RETRY: self._submission.retry,
            subjects.JOB_PURGE: self._removal.purge,
            **self._batches.handlers,
        }
        return {subject: self._taking(handler) for subject, handler in handlers.items()}

    def _taking(self, handler: Handler) -> Callable[[Msg], None]:
        def take(msg: Msg) -> None:
            if self._open >= MAX_OPEN:
                full = ErrorBody(
                    code=ErrorCode.QUEUE_FULL,
                    message="too many requests at once; try again",
                    details={"retry_after_s": 1},
                )
                self._refuse(msg, full)
                return
            self._open += 1
            self._spawn(self._answer(handler, msg), name="question")

        return take

    async def _answer(self, handler: Handler, msg: Msg) -> None:
        try:
            await self._check_provisioned()
            await handler(msg)
        except Refused as refused:
            self._refuse(msg, refused.error)
        except Rejected as rejected:
            self._refuse(msg, rejected.error)
        except BadRequest as error:
            self._refuse(msg, error.body)
        except DecodeFailed as error:
            self._refuse(msg, ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error)))
        except (BusError, Overtaken) as error:
            log.info("a request about jobs failed: %s", error, extra={"action": "job_request_failed"})
            message = f"the queue of jobs does not answer: {error}"
            self._refuse(msg, ErrorBody(code=ErrorCode.ACTOR_STOPPED, message=message))
        finally:
            self._open -= 1

    def _refuse(self, msg: Msg, error: ErrorBody) -> None:
        is_stream = msg.subject == subjects.JOB_GET and _WITH_RESULT.search(msg.data) is not None
        self._bus.respond_error(msg.reply, error, is_stream=is_stream)

    async def _check_provisioned(self) -> None:
        if not await happens(self._tools.is_provisioned, _PROVISIONED_WITHIN_S):
            raise Refused(ErrorCode.ACTOR_STOPPED, "the queue of jobs is not there (yet); try again")

    async def _get(self, msg: Msg) -> None:
        asked = decode(msg.data or b"{}", JobGet)
        job_id, caller = meant_by(msg, asked.job_id), owners.caller_of(msg.headers)
        status = told(caller, await self._lookup.status(job_id, called=asked.job_id))
        if not asked.with_result:
            prompt = await self._lookup.prompt(job_id) if asked.with_prompt else ""
            self._bus.respond(msg, JobReply(status=status, prompt=prompt))
            return
        if not msg.reply.startswith(INBOX_ROOT):
            return
        result: JobResult | None = None
        body = b""
        if status.state in TERMINAL:
            result, _ = await self._tools.results.read(job_id)
        if result is not None and result.state is JobState.DONE:
            try:
                body = await self._tools.results.body(result)
                result = msgspec.structs.replace(result, body=msgspec.Raw(b"null"))
            except Expired:
                result = None
        if result is not None:
            result = msgspec.structs.replace(result, job_id=status.job_id)
        self._bus.publish(msg.reply, encode(JobReply(status=status, result=result)))
        parts = range(0, len(body), _PART_BYTES)
        for start in parts:
            await self._bus.make_room()
            self._bus.publish(msg.reply, body[start : start + _PART_BYTES])
        self._bus.publish(msg.reply, b"", headers={h.CHUNKS: str(1 + len(parts))})

    async def _list(self, msg: Msg) -> None:
        asked = decode(msg.data or b"{}", JobListRequest)
        self._bus.respond(msg, _listed(msg, await self._listing.latest(asked, owners.caller_of(msg.headers))))

    async def _dead(self, msg: Msg) -> None:
        asked = decode(msg.data or b"{}", JobListRequest)
        self._bus.respond(msg, _listed(msg, await self._listing.dead(asked, owners.caller_of(msg.headers))))


def _listed(msg: Msg, reply: JobListReply) -> JobListReply:
    """The list as it is told to whoever asks."""
    caller = owners.caller_of(msg.headers)
    return msgspec.structs.replace(reply, jobs=tuple(told(caller, job) for job in reply.jobs))
