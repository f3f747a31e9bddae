"""Intake: a message becomes a request that can be dispatched, or an error that says what is wrong with it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from sollol_agents.dispatcher.requests import continuing
from sollol_agents.dispatcher.requests.continuing import Resumer
from sollol_agents.requests.body import Fields, InvalidBody, field, read_known, routing_fields, without
from sollol_agents.requests.detector import Detector
from sollol_agents.requests.dialects import NATIVE_PATH
from sollol_agents.requests.hops import header_of, marks_in
from sollol_agents.requests.paths import is_management, is_plain
from sollol_agents.requests.request import DEFAULT_DETECTOR, analyse
from sollol_bus.trust.callers import Roster
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.callers import word_of
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.continuation import Continuation, ContinueFrom
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.escalation import CHECK
from sollol_schemas.grant import JOBS_CLOCK, Birth
from sollol_schemas.ids import is_request_id, new_id
from sollol_schemas.inboxes import is_client_inbox
from sollol_schemas.modes import resolve
from sollol_schemas.owners import is_reference
from sollol_schemas.routing import ROUTING_FIELDS, InvalidRouting, Routing, parse_routing

_NOT_CHECKED_HERE: Final = (
    "field 'check': answers go past dispatchers; gateways, jobs and the Python client check them. Whoever checks one "
    "itself asks again with avoid_models"
)
SUBJECT_OF: Final = {
    RequestKind.GENERATE: subjects.GENERATE,
    RequestKind.CHAT: subjects.CHAT,
    RequestKind.EMBED: subjects.EMBED,
    RequestKind.PASSTHROUGH: subjects.PASSTHROUGH,
}
"""Where requests of each kind come in."""
UNLIMITED_S: Final = 366 * 86_400.0
"""The deadline of a job's try that names none: patient work may wait without limit."""
ATTEMPTS_PER_RESEND = 10
_NUMBER_MAX = 10_000
_TRACEPARENT_MAX = 128  # more than twice as long as one can be
_JOB_PLACE_PARTS = 3
_DIGITS = 20
_STREAMS = re.compile(rb'"stream"\s*:\s*true')
_EVERYBODY: Final = Roster()
_NOT_THE_ENGINES: Final = continuing.OWN_FIELDS | ROUTING_FIELDS


def in_use(request_id: str) -> ErrorBody:
    """What who takes another one's id is told."""
    return ErrorBody(code=ErrorCode.CONFLICT, message=f"request id {request_id} is in use")


class Rejected(Exception):
    """The request cannot be taken; `error` says why."""

    def __init__(self, error: ErrorBody) -> None:
        super().__init__(error.message)
        self.error = error


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request, ready to be dispatched."""

    request_id: str
    kind: RequestKind
    body: bytes
    """What the engine gets."""
    payload: bytes
    """What came."""
    headers: Mapping[str, str]
    """What came with it."""
    path: str
    reply_to: str
    wants_stream: bool
    is_joined: bool
    """Whether chunks of that stream that come close together may leave as one message."""
    context: TaskContext
    routing: Routing
    deadline_s: float
    waited_s: float
    birth: Birth | None
    """When a job was stored; None for any other request, which is as old as its receipt here."""
    behind: int
    """Jobs of its priority that wait in the stream behind a job."""
    number: int
    """Of its next attempt, as another dispatcher told; 0: none did."""
    resend: int
    secret: str
    control_inbox: str
    traceparent: str
    via: str = ""
    """Which gateways and nodes it came through."""
    caller: str = ""
    """Who asks, as an opaque word; empty: not known."""
    resumer: Resumer = Resumer.NOBODY
    """Who goes on with its answer when that breaks off."""
    said: ContinueFrom | None = None
    """What was said of its answer so far, by attempts of which its caller has heard; None: it begins."""
    relayed: bytes = b""
    """Of one that a dispatcher goes on with: the body of what it asks itself."""

    @property
    def first_attempt(self) -> int:
        """Number of its first attempt here: a request that was sent again counts from 11, 21 and so on."""
        return max(1 + self.resend * ATTEMPTS_PER_RESEND, self.number)

    @property
    def is_resumable(self) -> bool:
        """Whether somebody goes on with its answer, so that an attempt may be moved."""
        return self.resumer is not Resumer.NOBODY

    def is_again(self, before: Request) -> bool:
        """Whether its caller sent it again, in the place of what has the same id."""
        return self.resend > before.resend and self.caller == before.caller and before.has_secret(self.secret)

    def may_be_cancelled(self, secret: str, caller: str) -> bool:
        """Whether who shows this secret may end it; a member only its own, although it knows or guessed the secret."""
        return bool(self.secret) and self.has_secret(secret) and caller in ("", self.caller)

    def has_secret(self, secret: str) -> bool:
        """Whether its caller chose this secret, or none and this is none."""
        return secrets.compare_digest(secret.encode(), self.secret.encode())

    @property
    def excluded(self) -> tuple[str, ...]:
        """Nodes that broke off its answer before."""
        return self.said.excluded if self.said is not None else ()

    def continuation(self, cuts: int) -> Continuation | None:
        """What the scorer is told of its answer, whose attempts here were moved so often before they spoke."""
        return continuing.told_of(self.said, cuts)

    def too_large(self, error: ErrorBody) -> ErrorBody:
        """What its caller is told when it has become too long for one message."""
        return continuing.too_large(error, self.said)


class _Asked(NamedTuple):
    """What a body and its headers ask for."""

    routing: Routing
    context: TaskContext
    wants_stream: bool
    body: bytes
    resumer: Resumer
    said: ContinueFrom | None
    relayed: bytes


def take_in(
    kind: RequestKind,
    payload: bytes,
    headers: Mapping[str, str] | None,
    reply_to: str,
    *,
    default_deadline_s: float,
    detector: Detector = DEFAULT_DETECTOR,
    roster: Roster = _EVERYBODY,
) -> Request:
    """The request in a message; a priority above its caller's ceiling is lowered to that.

    Raises:
        Rejected: The body, a routing field, a header or the path is not usable.
    """
    head = headers or {}
    caller = head.get(h.CALLER, "")
    path = check_path(head.get(h.PATH, "")) if kind is RequestKind.PASSTHROUGH else ""
    asked = _read(kind, path, payload, head, detector)
    context = asked.context
    routing = _lowered(asked.routing, roster.priority_for(caller, asked.routing.priority))
    control_inbox = _control_inbox(head.get(h.CONTROL_INBOX, ""))
    # a job may wait for ever: nothing else would tell that its runner is gone than news that it does not hear
    else_s = UNLIMITED_S if context.job_id and control_inbox else default_deadline_s
    birth, behind = _job_place(head.get(h.JOB_PLACE, "")) if context.job_id else (None, 0)
    limit_s = routing.deadline_s or else_s
    return Request(
        request_id=_id(h.REQUEST_ID, head[h.REQUEST_ID]) if h.REQUEST_ID in head else new_id(),
        kind=kind,
        body=asked.body,
        payload=payload,
        headers=head,
        path=path,
        reply_to=reply_to,
        wants_stream=asked.wants_stream,
        is_joined=head.get(h.STREAM) == h.JOINED,
        context=context,
        routing=routing,
        deadline_s=limit_s,
        waited_s=_number(head.get(h.WAITED), upper=limit_s),
        birth=birth,
        behind=behind,
        number=int(_number(head.get(h.NUMBER), upper=_NUMBER_MAX)),
        resend=int(_number(head.get(h.RESEND), upper=100)),
        secret=head.get(h.CANCEL_SECRET, ""),
        control_inbox=control_inbox,
        traceparent=head.get(h.TRACEPARENT, "")[:_TRACEPARENT_MAX],
        via=header_of(*marks_in(head.get(h.VIA, ""))),
        caller=word_of(caller),
        resumer=asked.resumer,
        said=asked.said,
        relayed=asked.relayed,
    )


def seems_to_stream(payload: bytes, headers: Mapping[str, str]) -> bool:
    """Whether the caller waits for a stream, as far as a request says that cannot be used."""
    return h.STREAM in headers or _STREAMS.search(payload) is not None


def check_path(path: str) -> str:
    """A passthrough path in origin form.

    Raises:
        Rejected: It is not a plain path, or it belongs to model management.
    """
    if not is_plain(path):
        message = f"header {h.PATH} must be an absolute path without host, '..' or '//': {path[:80]!r}"
        raise Rejected(ErrorBody(code=ErrorCode.BAD_REQUEST, message=message))
    if is_management(path):
        message = f"{path.partition('?')[0]} manages models; use `sollol pull`, `load` or `unload`"
        raise Rejected(ErrorBody(code=ErrorCode.FORBIDDEN, message=message))
    return path


def _id(header: str, given: str) -> str:
    if not is_request_id(given):
        message = f"header {header} must be 1 to 56 of A-Z a-z 0-9 _ -"
        raise Rejected(ErrorBody(code=ErrorCode.BAD_REQUEST, message=message))
    return given


def _read(kind: RequestKind, path: str, payload: bytes, head: Mapping[str, str], detector: Detector) -> _Asked:
    """What a message asks for, and the engine's part of it."""
    is_native = kind is not RequestKind.PASSTHROUGH

    def read(fields: Fields) -> tuple[Fields, Routing, TaskContext, bool]:
        if is_native and CHECK in fields:
            raise InvalidBody(_NOT_CHECKED_HERE)
        routing = resolve(parse_routing(routing_fields(fields) if is_native else {}, head))
        context = analyse(kind, fields, path=path, detector=detector)
        return fields, routing, context, h.STREAM in head or field(fields, "stream", bool) is True

    try:
        body, behind = continuing.split(payload, head)
        (fields, routing, context, is_stream), body = read_known(
            NATIVE_PATH.get(kind, path.partition("?")[0]), body, read
        )
        ours = fields if is_native else {}
        said = continuing.said_in(ours, behind)
        continuing.check_said(said, context, is_stream=is_stream)
        resumer = continuing.resumer_of(ours, head, context, is_stream=is_stream)
        continuing.check_resumer(said, resumer)
        relayed = without(body, ours, continuing.OWN_FIELDS) if resumer is Resumer.DISPATCHER else b""
        body = without(body, ours, _NOT_THE_ENGINES)
        if h.JOB in head:
            context = msgspec.structs.replace(context, job_id=_job(head[h.JOB]))
    except (InvalidBody, InvalidRouting) as error:
        raise Rejected(ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error))) from error
    return _Asked(routing, context, is_stream, body, resumer, said, relayed)


def _job(given: str) -> str:
    if not is_reference(given):
        raise Rejected(ErrorBody(code=ErrorCode.BAD_REQUEST, message=f"header {h.JOB} must name a job"))
    return given


def _lowered(routing: Routing, priority: int) -> Routing:
    return routing if routing.priority == priority else msgspec.structs.replace(routing, priority=priority)


def _control_inbox(given: str) -> str:
    if given and not is_client_inbox(given):
        raise Rejected(ErrorBody(code=ErrorCode.BAD_REQUEST, message=f"header {h.CONTROL_INBOX} must be an inbox"))
    return given


def _job_place(text: str) -> tuple[Birth | None, int]:
    """When a job was stored, and how many wait behind it; what is not told right counts as not told."""
    numbers = text.split()
    if len(numbers) != _JOB_PLACE_PARTS or not all(n.isascii() and n.isdigit() and len(n) < _DIGITS for n in numbers):
        return None, 0
    stored_at_ns, number, behind = map(int, numbers)
    return Birth(at_s=stored_at_ns / 1e9, clock=JOBS_CLOCK, number=number), behind


def _number(text: str | None, *, upper: float) -> float:
    """A number between 0 and `upper` from a header; what is not one counts as 0."""
    if text is None:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return min(upper, value) if value > 0 else 0.0  # NaN compares false
