"""Intake of jobs: a stored message becomes the request that its runner sends, or an error that ends the job. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from sollol_agents.dispatcher.requests.intake import Rejected, check_path, take_in
from sollol_agents.posting import is_permitted_url
from sollol_agents.requests.body import Fields, InvalidBody, read_fields, read_native
from sollol_agents.requests.checking import Checking, checking_of, without_own
from sollol_agents.requests.detector import Detector
from sollol_agents.requests.ollama import gojson
from sollol_agents.requests.ollama.gojson import BodyError
from sollol_agents.requests.request import MODEL_NAME_MAX
from sollol_bus.errors import BadRequest, DecodeFailed
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import headers as h
from sollol_schemas import owners
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import RESUME
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.escalation import CHECK_HEADER
from sollol_schemas.instants import InvalidInstant, parse_instant
from sollol_schemas.jobs import Job
from sollol_schemas.routing import (
    DEFAULT_DEADLINE_S,
    InvalidRouting,
    RoutingMode,
    parse_routing,
    routing_header,
    routing_headers,
)

_NO_INBOX = "_INBOX.job"
_WORK = ("messages", "prompt", "input")
"""What a bare body asks for, by the kinds of request that it may be."""
_BESIDE = ("not_before", "deadline_s", "max_tries", "callback_subject", "callback_url")
"""Fields of a job that may stand in a bare body."""


class Accepted(NamedTuple):
    """A job that can be asked for."""

    job: Job
    kind: RequestKind
    model: str
    due_unix_s: float
    """Instant before which it does not start, in seconds of Unix time; 0: it may at once."""
    headers: dict[str, str]
    """What goes with each of its requests, beside what the runner knows better: mode, priority, deadline."""
    body: bytes
    """What is asked of the engine: the job's without what is for this side."""
    checking: Checking | None = None
    """What its answers are held against, where several models may be asked."""
    avoid_models: tuple[str, ...] = ()
    resumes: bool = True
    """Whether its answer goes on when it breaks off."""


def read_job(payload: bytes, headers: Mapping[str, str], *, hosts: tuple[str, ...], owner: str = "") -> Accepted:
    """The job in a message. Its routing and the rest of its body are judged by the dispatcher that takes its request.

    Raises:
        Rejected: It is malformed, or its callback is not permitted.
    """
    try:
        job = job_in(payload)
    except DecodeFailed as error:
        raise _bad_request(f"the job is malformed: {error}") from error
    return accept(job, headers, hosts=hosts, owner=owner)


def job_in(payload: bytes) -> Job:
    """The job in a message: as it is, or made of an engine's bare body that came in its place.

    What a job may say beside its body may stand in a bare one.

    Raises:
        DecodeFailed: It is neither.
    """
    try:
        return decode(payload, Job)
    except DecodeFailed as error:
        fields = _mended(payload, error)
    if "body" in fields:
        return decode(encode(fields), Job)
    if not fields.keys() & set(_WORK):
        raise DecodeFailed(f"it has no `body`, and is no bare one either: that has one of {', '.join(_WORK)}")
    beside = {name: fields.pop(name) for name in _BESIDE if name in fields}
    return decode(encode(beside | {"body": fields}), Job)


def _mended(payload: bytes, error: DecodeFailed) -> Fields:
    """The fields of what is no job as it stands, read as Ollama reads bodies: with half pairs, or bytes behind it."""
    try:
        return read_native(payload)[0]
    except InvalidBody:
        try:
            return read_native(json.dumps(gojson.read(payload)).encode())[0]
        except (BodyError, InvalidBody):
            raise error from None


def accept(job: Job, headers: Mapping[str, str], *, hosts: tuple[str, ...], owner: str = "") -> Accepted:
    """The job, as it was submitted.

    Raises:
        Rejected: Its body is no object, its time no instant, or its path or callback is not permitted.
    """
    check_callback(job, hosts, owner)
    try:
        due = parse_instant(job.not_before) if job.not_before else 0.0
        fields = read_fields(bytes(job.body))
    except (InvalidInstant, InvalidBody) as error:
        raise _bad_request(f"the job is malformed: {error}") from error
    kept = routing_headers(headers)
    if job.path:
        kept[h.PATH] = check_path(job.path)
    if h.TRACEPARENT in headers:
        kept[h.TRACEPARENT] = headers[h.TRACEPARENT]
    kind = _kind(job, fields)
    try:
        checking = checking_of(kind, job.path.partition("?")[0], fields, _check_header(headers))
        avoided = parse_routing({}, kept).avoid_models or _avoided(kind, fields)
    except (BadRequest, InvalidRouting) as error:
        raise _bad_request(str(error)) from error
    return Accepted(
        job,
        kind,
        _model(fields),
        due,
        kept,
        without_own(kind, bytes(job.body), fields),
        checking,
        avoided,
        kind is RequestKind.PASSTHROUGH or bytes(fields.get(RESUME, b"")) != b"false",
    )


def _check_header(headers: Mapping[str, str]) -> str | None:
    return next((text for name, text in headers.items() if name.lower() == CHECK_HEADER.lower()), None)


def _avoided(kind: RequestKind, fields: Fields) -> tuple[str, ...]:
    if kind is RequestKind.PASSTHROUGH or "avoid_models" not in fields:
        return ()
    return parse_routing({"avoid_models": msgspec.json.decode(fields["avoid_models"])}).avoid_models


def check(accepted: Accepted, detector: Detector) -> int:
    """The priority that a job asks for, once all of it is known to be usable.

    Raises:
        Rejected: It is not.
    """
    request = take_in(
        accepted.kind,
        accepted.body,
        accepted.headers,
        _NO_INBOX,
        default_deadline_s=DEFAULT_DEADLINE_S,
        detector=detector,
    )
    return request.routing.priority


def headers_for(accepted: Accepted, job_id: str, priority: int) -> dict[str, str]:
    """The headers of one request of a job: patient work under the subject's priority."""
    known = {"routing_mode": RoutingMode.ASYNC.value, "priority": str(priority)}
    if accepted.job.deadline_s is not None:
        known["deadline_s"] = str(accepted.job.deadline_s)
    forced = {routing_header(field): text for field, text in known.items()}
    hidden = {name.lower() for name in forced}
    owner = owners.owner_of(job_id)
    kept = {name: text for name, text in accepted.headers.items() if name.lower() not in hidden}
    return kept | forced | ({h.CALLER: owner} if owner else {}) | {h.JOB: job_id}


def check_callback(job: Job, hosts: tuple[str, ...], owner: str) -> None:
    """Passes a job whose result may be delivered where it says, for its owner.

    Raises:
        Rejected: The subject or the host is not permitted.
    """
    if job.callback_subject and not owners.may_be_called_back(owner, job.callback_subject):
        where = (
            f"one of your own inboxes, or begin with 'callbacks.{owner}.'"
            if owner
            else "an inbox or begin with 'callbacks.'"
        )
        message = f"callback_subject {job.callback_subject[:80]!r} must be {where}"
        raise Rejected(ErrorBody(code=ErrorCode.FORBIDDEN, message=message))
    if job.callback_url and not is_permitted_url(job.callback_url, hosts):
        message = (
            f"callback_url {job.callback_url[:80]!r} names no permitted host; the operator sets job_callback_hosts"
        )
        raise Rejected(ErrorBody(code=ErrorCode.FORBIDDEN, message=message))


def _kind(job: Job, fields: Fields) -> RequestKind:
    if job.kind is not None:
        return job.kind
    if job.path:
        return RequestKind.PASSTHROUGH
    if "messages" in fields:
        return RequestKind.CHAT
    if "input" in fields and "prompt" not in fields:
        return RequestKind.EMBED
    return RequestKind.GENERATE


def _model(fields: Fields) -> str:
    """What the body names as its model, as far as it can be shown."""
    try:
        return msgspec.json.decode(fields.get("model", b""), type=str)[:MODEL_NAME_MAX]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _bad_request(message: str) -> Rejected:
    return Rejected(ErrorBody(code=ErrorCode.BAD_REQUEST, message=message))
