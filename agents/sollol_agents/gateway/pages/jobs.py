"""Durable jobs over HTTP, under `/api/jobs`.

Whoever has a key sees the jobs alone that belong to it. An administrator sees all, with their owners in front.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sollol_agents.gateway.http.access import Guest, guest_of
from sollol_agents.gateway.http.bodies import body_of, json_response, number_in
from sollol_agents.gateway.http.errors import PLAIN_JSON
from sollol_agents.requests.paths import is_closed
from sollol_bus.errors import BadRequest, Conflict, QueueFull, RequestTimedOut, SollolError, error_from
from sollol_bus.sdk.job_making import checked_id, make_job, priority_of
from sollol_bus.sdk.jobs import JobAnswer, Jobs
from sollol_bus.trust.job_room import JobRoom
from sollol_schemas.callers import name_of_key
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.ids import is_request_id
from sollol_schemas.jobs import TERMINAL, Job, JobState, JobStatus
from sollol_schemas.plain_words import in_plain_words
from sollol_schemas.routing import DEFAULT_PRIORITY

PREFIX: Final = "/api/jobs"
_WAIT_S: Final = 30
_WAIT_MAX_S: Final = 300
_WAITS_MAX: Final = 512
_LIST: Final = 100
_LIST_MAX: Final = 1000
_BODY_BYTES: Final = 4 << 20


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job as it is submitted over HTTP."""

    body: dict[str, Any]
    """The body of `generate`, `chat`, `embed` or of another engine path, with routing fields if any."""
    id: str | None = None
    """An id of the caller's choice, so that submitting it again is harmless."""
    kind: RequestKind | None = None
    path: str = ""
    """The engine's path, for `passthrough`."""
    priority: int | str | None = None
    not_before: str | None = None
    deadline_s: float | None = None
    max_tries: int | None = None
    callback_url: str = ""
    callback_subject: str = ""


class JobPages:
    """The handlers.

    Args:
        jobs: Durable jobs.
        room: How many each key may have.
    """

    def __init__(self, jobs: Jobs, room: JobRoom) -> None:
        self._jobs = jobs
        self._room = room
        self._waits = 0

    def routes(self) -> list[Route]:
        """The paths of jobs."""
        one = f"{PREFIX}/{{job_id}}"
        return [
            Route(PREFIX, self.submit, methods=["POST"]),
            Route(PREFIX, self.list_jobs, methods=["GET"]),
            Route(f"{PREFIX}/dead", self.dead, methods=["GET"]),
            Route(one, self.status, methods=["GET"]),
            Route(one, self.forget, methods=["DELETE"]),
            Route(f"{one}/wait", self.wait, methods=["GET"]),
            Route(f"{one}/result", self.result, methods=["GET"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
            Route(f"{one}/retry", self.retry, methods=["POST"]),
        ]

    async def submit(self, request: Request) -> Response:
        """Stores a job."""
        guest = guest_of(request)
        try:
            asked = msgspec.convert(await body_of(request, _BODY_BYTES), JobRequest)
        except msgspec.ValidationError as error:
            raise BadRequest(in_plain_words(str(error))) from error
        job = _job(asked, guest)
        job_id = None if asked.id is None else _checked(guest, asked.id)
        job_id = await self._of(guest).submit(job, job_id=job_id, priority=_priority(asked, guest))
        where = {"location": f"{PREFIX}/{job_id}"}
        return json_response({"job_id": job_id, "state": JobState.QUEUED}, status=202, headers=where)

    async def list_jobs(self, request: Request) -> Response:
        """The caller's latest jobs, and how many wait in the whole queue."""
        states = request.query_params.getlist("state")
        return json_response(await self._of(guest_of(request)).latest(*states, limit=_limit(request)))

    async def dead(self, request: Request) -> Response:
        """The caller's jobs that ended dead or failed and can run again."""
        return json_response(await self._of(guest_of(request)).dead(_limit(request)))

    async def status(self, request: Request) -> Response:
        """What is known about a job."""
        jobs, job_id = await self._asked(request)
        return json_response(await jobs.get(job_id))

    async def wait(self, request: Request) -> Response:
        """What is known about a job once it has ended; 202 when it has not within `timeout_s`."""
        timeout_s = number_in(request, "timeout_s", _WAIT_S)
        if timeout_s > _WAIT_MAX_S:
            raise BadRequest(f"timeout_s must be at most {_WAIT_MAX_S}, not {timeout_s}")
        if self._waits >= _WAITS_MAX:
            raise QueueFull(f"{self._waits} requests wait for jobs already; ask for the state now and then")
        jobs, job_id = await self._asked(request)
        self._waits += 1
        try:
            answer = await jobs.end(job_id, timeout_s=timeout_s)
        except RequestTimedOut:
            return json_response(await jobs.get(job_id), status=202)
        finally:
            self._waits -= 1
        return json_response(answer.status)

    async def result(self, request: Request) -> Response:
        """A job's answer as the engine gave it; the error that ended it with that error's status."""
        jobs, job_id = await self._asked(request)
        answer = await jobs.answer(job_id)
        return Response(_body_of(answer), media_type=PLAIN_JSON.decode(), headers=_headers(answer))

    async def cancel(self, request: Request) -> Response:
        """Cancels a job."""
        jobs, job_id = await self._asked(request)
        return json_response(await jobs.cancel(job_id))

    async def retry(self, request: Request) -> Response:
        """Runs a dead or failed job again, under its id."""
        jobs, job_id = await self._asked(request)
        await jobs.retry(job_id)
        return json_response({"job_id": job_id, "state": JobState.QUEUED}, status=202)

    async def forget(self, request: Request) -> Response:
        """Forgets a job that has ended, with its result."""
        jobs, job_id = await self._asked(request)
        await jobs.purge(job_id=job_id)
        return json_response({"job_id": job_id, "purged": True})

    def _of(self, guest: Guest) -> Jobs:
        """The jobs that a guest may see."""
        if guest.is_admin:
            return self._jobs
        name = name_of_key(guest.owner)
        return self._jobs.of(name, partial(self._room.enter, name))

    async def _asked(self, request: Request) -> tuple[Jobs, str]:
        """The job that a guest asks about, and among whose jobs it is.

        Those of older versions have no owner: their ids begin with the key's.
        """
        guest = guest_of(request)
        jobs, job_id = self._of(guest), _checked(guest, request.path_params["job_id"])
        if guest.is_admin or not job_id.startswith(f"{guest.owner}-"):
            return jobs, job_id
        try:
            await jobs.get(job_id)
        except SollolError as error:
            if error.body.code is not ErrorCode.UNKNOWN_JOB:
                raise
            return self._jobs, job_id
        return jobs, job_id


def _checked(guest: Guest, job_id: str) -> str:
    """The id, if a guest may say it: only administrators name a job's owner.

    Raises:
        SollolError: It may not.
    """
    if guest.is_admin or is_request_id(job_id):
        return checked_id(job_id)
    message = f"not a job id: {job_id[:80]!r}; 1 to 56 of A-Z a-z 0-9 _ - are allowed"
    raise BadRequest(message)


def _job(asked: JobRequest, guest: Guest) -> Job:
    """The job of a request.

    Raises:
        SollolError: It has a field that this guest may not use, or that cannot be used.
    """
    if is_closed(asked.path):
        raise error_from(ErrorBody(code=ErrorCode.FORBIDDEN, message=f"{asked.path[:80]} is not for jobs"))
    if asked.callback_subject and not guest.is_admin:
        message = "callback_subject speaks on the bus: only administrators may set it; use callback_url"
        raise error_from(ErrorBody(code=ErrorCode.FORBIDDEN, message=message))
    return make_job(
        asked.body,
        kind=asked.kind,
        path=asked.path,
        not_before=asked.not_before,
        deadline_s=asked.deadline_s,
        max_tries=asked.max_tries,
        callback_url=asked.callback_url,
        callback_subject=asked.callback_subject,
    )


def _priority(asked: JobRequest, guest: Guest) -> int | None:
    """The priority to submit with: what is asked for, at most the key's; None leaves it to the body."""
    stated = asked.priority
    if stated is None and asked.kind is not RequestKind.PASSTHROUGH and not asked.path:
        stated = asked.body.get("priority")
    if stated is None:
        return min(DEFAULT_PRIORITY, guest.max_priority)
    if isinstance(stated, bool) or not isinstance(stated, (int, str)):
        raise BadRequest("priority must be 0 to 10, or a name")
    return min(priority_of(stated), guest.max_priority)


def _limit(request: Request) -> int:
    limit = number_in(request, "limit", _LIST)
    if not 1 <= limit <= _LIST_MAX:
        raise BadRequest(f"limit must be 1 to {_LIST_MAX}, not {limit}")
    return limit


def _body_of(answer: JobAnswer) -> bytes:
    """The engine's answer.

    Raises:
        SollolError: What ended the job without one; `Conflict` while it has not ended.
    """
    if answer.state not in TERMINAL:
        raise Conflict(f"job {answer.job_id} is {answer.state}: it has no result yet")
    if answer.error is not None:
        raise answer.error
    assert answer.result is not None  # else `error` says that it has expired
    return bytes(answer.result.body)


def _headers(answer: JobAnswer) -> dict[str, str]:
    status: JobStatus = answer.status
    headers = {"x-sollol-job-id": answer.job_id, "x-sollol-attempts": str(status.tries)}
    return headers | ({"x-sollol-node": status.node_id} if status.node_id else {})
