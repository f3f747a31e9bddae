"""An inference request as it came over HTTP, understood once. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from sollol_agents.gateway.http.errors import Header
from sollol_agents.gateway.http.routing_headers import check_in, resume_in, routing_in
from sollol_agents.gateway.inference.order import nameless
from sollol_agents.requests.body import Fields, InvalidBody, field, read_fields, read_known, routing_fields
from sollol_agents.requests.checking import Checking, checking_of, without_own
from sollol_agents.requests.dialects import KIND_OF_PATH, Dialect, dialect_of
from sollol_bus.errors import BadRequest
from sollol_bus.sdk.routing_fields import called_here
from sollol_schemas import headers as h
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import RESUME
from sollol_schemas.routing import InvalidRouting, Routing, parse_routing

_DEADLINE = f"{h.ROUTING_PREFIX}Deadline-S".lower()
_NODE = f"{h.ROUTING_PREFIX}Node-Id".lower()


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One inference request."""

    kind: RequestKind
    path: str
    """The path in origin form, with its query."""
    label: str
    """What metrics call the path."""
    body: bytes
    headers: dict[str, str]
    """What it says about routing in its head, as the bus carries it."""
    request_id: str | None
    """The id that the client chose."""
    model: str
    wants_stream: bool
    deadline_s: float
    sees_addresses: bool = False
    """Whether its client is told where engines listen."""
    resumes: bool = True
    """Whether its answer goes on when it breaks off."""
    checking: Checking | None = None
    """What its answers are held against, where several models may be asked."""
    avoid_models: tuple[str, ...] = ()
    """Models of the group that it does not want to be asked."""

    @property
    def dialect(self) -> Dialect:
        """Whose words the client speaks."""
        return dialect_of(self.path)

    @property
    def is_native(self) -> bool:
        """Whether the answer is made of Ollama's objects."""
        return self.kind is not RequestKind.PASSTHROUGH

    @property
    def is_whole(self) -> bool:
        """Whether its client gets the answer as one."""
        return not self.wants_stream and (self.is_native or self.label in KIND_OF_PATH)


class _Read(NamedTuple):
    fields: Fields
    routing: Routing
    model: str
    wants_stream: bool
    wants_resume: bool | None


def read_request(
    kind: RequestKind,
    path: str,
    head: Iterable[Header],
    body: bytes,
    *,
    label: str,
    default_deadline_s: float,
    caller: str = "",
    sees_addresses: bool = False,
) -> HttpRequest:
    """The request, with what routing needs to know of its body's top level; the rest is not looked at.

    Args:
        kind: What it is on the bus.
        path: Its path in origin form.
        head: Its headers.
        body: Its body.
        label: What metrics call the path.
        default_deadline_s: The deadline of a request that names none.
        caller: What the key that it came with is called on the bus.
        sees_addresses: Whether its client is told where engines listen.

    Raises:
        BadRequest: A header or the body cannot be used.
    """
    headers, request_id = routing_in(head)
    is_native = kind is not RequestKind.PASSTHROUGH

    def read(fields: Fields) -> _Read:
        routing = parse_routing(routing_fields(fields) if is_native else {}, headers)
        model, wants_stream = field(fields, "model", str) or "", _wants_stream(fields, label, is_native=is_native)
        return _Read(fields, routing, model, wants_stream, field(fields, RESUME, bool) if is_native else None)

    try:
        (fields, routing, model, wants_stream, wants_resume), usable = read_known(label, body, read)
    except (InvalidBody, InvalidRouting) as error:
        raise BadRequest(str(error)) from error
    if not model:
        raise nameless(label, body)
    if routing.node_id is not None and (node := called_here(routing.node_id)) != routing.node_id:
        headers[_NODE] = node
    if routing.deadline_s is None:
        headers[_DEADLINE] = f"{default_deadline_s:g}"
    headers |= ({} if is_native else {h.PATH: path}) | ({h.CALLER: caller} if caller else {})
    return HttpRequest(
        kind=kind,
        path=path,
        label=label,
        body=without_own(kind, usable, fields),
        headers=headers,
        request_id=request_id,
        model=model,
        wants_stream=wants_stream,
        deadline_s=routing.deadline_s or default_deadline_s,
        sees_addresses=sees_addresses,
        resumes=(wants_resume if (told := resume_in(head)) is None else told) is not False,
        checking=checking_of(kind, label, fields, check_in(head)),
        avoid_models=routing.avoid_models,
    )


def names_a_model(body: bytes) -> bool:
    """Whether a body is a JSON object that says for which model it is."""
    try:
        return "model" in read_fields(body)
    except InvalidBody:
        return False


def _wants_stream(fields: Fields, label: str, *, is_native: bool) -> bool:
    """What the top-level field `stream` says: Ollama streams unless told not to, others only when told to."""
    if is_native:
        return field(fields, "stream", bool) is not False
    return field(fields, "stream", bool if label in KIND_OF_PATH else object) is True
