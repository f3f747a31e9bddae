"""Intake of jobs: a stored message becomes a request that can be dispatched, or an error that ends the job. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sollol_agents.dispatcher.requests.intake import ATTEMPTS_PER_RESEND, Rejected, Request, take_in
from sollol_agents.requests.body import InvalidBody, read_native
from sollol_agents.requests.detector import Detector
from sollol_bus.errors import DecodeFailed
from sollol_bus.transport.messages import decode
from sollol_schemas import headers as h
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.ids import is_request_id
from sollol_schemas.inboxes import is_callback_subject
from sollol_schemas.instants import InvalidInstant, parse_instant
from sollol_schemas.jobs import Job, JobStatus
from sollol_schemas.routing import RoutingMode

UNLIMITED_S = 366 * 86_400.0
"""Deadline of a job that names none: patient work may wait without limit."""
TRIES_PER_TAKE = 100
"""Tries that have numbers of their own each time a job is taken up; after them it is as if it were taken up again."""
_TRIES_NUMBERED = 999_999
"""A number of an attempt has seven digits at most, so that its id is no longer than an id may be."""
_NO_INBOX = "_INBOX.job"


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A job that can be run."""

    job: Job
    request: Request
    """Its request, but for inbox, age and attempt numbers."""
    not_before_unix_s: float = 0.0

    @property
    def deadline_s(self) -> float | None:
        """Seconds from when it is due until it must have ended; None: no limit."""
        return self.job.deadline_s or self.request.routing.deadline_s


def is_job_id(text: str) -> bool:
    """Whether a job may have this id."""
    return is_request_id(text)


def read_job(payload: bytes, headers: Mapping[str, str], *, hosts: tuple[str, ...], detector: Detector) -> Accepted:
    """The job in a message.

    Raises:
        Rejected: It is malformed, its body cannot be used, or its callback is not permitted.
    """
    try:
        job = decode(payload, Job)
        not_before = parse_instant(job.not_before) if job.not_before else 0.0
    except (DecodeFailed, InvalidInstant) as error:
        raise Rejected(ErrorBody(code=ErrorCode.BAD_REQUEST, message=f"the job is malformed: {error}")) from error
    return accept(job, headers, hosts=hosts, detector=detector, not_before_unix_s=not_before)


def accept(
    job: Job, headers: Mapping[str, str], *, hosts: tuple[str, ...], detector: Detector, not_before_unix_s: float
) -> Accepted:
    """The job, checked.

    Raises:
        Rejected: Its body cannot be used, or its callback is not permitted.
    """
    check_callback(job, hosts)
    body = bytes(job.body)
    head = {name: text for name, text in headers.items() if name.lower().startswith(h.ROUTING_PREFIX.lower())}
    head[h.STREAM] = "1"
    if job.path:
        head[h.PATH] = job.path
    if h.TRACEPARENT in headers:
        head[h.TRACEPARENT] = headers[h.TRACEPARENT]
    request = take_in(_kind(job, body), body, head, _NO_INBOX, default_deadline_s=UNLIMITED_S, detector=detector)
    return Accepted(job=job, request=request, not_before_unix_s=not_before_unix_s)


def request_for(
    accepted: Accepted, status: JobStatus, *, tries_here: int, reply_to: str, waited_s: float, secret: str
) -> Request:
    """The request of one try, the one after `tries_here` others since the job was taken up.

    Its attempts are numbered apart from those of every other try, so that no two ever share an id.
    """
    tries_before = (status.takes * TRIES_PER_TAKE + tries_here) % _TRIES_NUMBERED
    routing = msgspec.structs.replace(
        accepted.request.routing, routing_mode=RoutingMode.ASYNC, priority=status.priority, deadline_s=None
    )
    return msgspec.structs.replace(
        accepted.request,
        request_id=status.job_id,
        reply_to=reply_to,
        wants_stream=True,
        routing=routing,
        deadline_s=accepted.deadline_s or waited_s + UNLIMITED_S,
        waited_s=waited_s,
        first_attempt=1 + ATTEMPTS_PER_RESEND * tries_before,
        resend=tries_before,
        secret=secret,
        control_inbox="",
    )


def check_callback(job: Job, hosts: tuple[str, ...]) -> None:
    """Passes a job whose result may be delivered where it says.

    Raises:
        Rejected: The subject or the host is not permitted.
    """
    if job.callback_subject and not is_callback_subject(job.callback_subject):
        message = f"callback_subject {job.callback_subject[:80]!r} must be an inbox or begin with 'callbacks.'"
        raise Rejected(ErrorBody(code=ErrorCode.FORBIDDEN, message=message))
    if job.callback_url and not is_permitted_url(job.callback_url, hosts):
        message = (
            f"callback_url {job.callback_url[:80]!r} names no permitted host; the operator sets job_callback_hosts"
        )
        raise Rejected(ErrorBody(code=ErrorCode.FORBIDDEN, message=message))


def is_permitted_url(url: str, hosts: tuple[str, ...]) -> bool:
    """Whether results may be posted to this address: plain http or https to a listed host, without credentials."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("http", "https") or not url.isascii() or not url.isprintable() or " " in url:
        return False
    authority = rest.partition("/")[0].partition("?")[0].partition("#")[0]
    if not authority or "@" in authority or "\\" in authority:
        return False
    host = authority.lower()
    bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return any(known.lower() in (host, bare) for known in hosts)


def _kind(job: Job, body: bytes) -> RequestKind:
    if job.kind is not None:
        return job.kind
    if job.path:
        return RequestKind.PASSTHROUGH
    try:
        fields, _ = read_native(body)
    except InvalidBody as error:
        raise Rejected(ErrorBody(code=ErrorCode.BAD_REQUEST, message=f"the job's body: {error}")) from error
    if "messages" in fields:
        return RequestKind.CHAT
    if "input" in fields and "prompt" not in fields:
        return RequestKind.EMBED
    return RequestKind.GENERATE
