"""`X-Sollol-*`: what a client says about routing in its headers, and what it is told about it in ours. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sollol_bus.errors import BadRequest
from sollol_bus.sdk.escalation import Escalation
from sollol_bus.sdk.routing_told import attempts_of
from sollol_schemas import headers as h
from sollol_schemas.continuation import RESUME
from sollol_schemas.decision import Decision
from sollol_schemas.escalation import CHECK_HEADER
from sollol_schemas.execution import Figures
from sollol_schemas.ids import is_request_id
from sollol_schemas.routing import ROUTING_FIELDS, header_max

Header = tuple[bytes, bytes]

_PREFIX: Final = h.ROUTING_PREFIX.lower().encode()
_ROUTING: Final = {_PREFIX + name.replace("_", "-").encode(): name for name in ROUTING_FIELDS}
_REQUEST_ID: Final = _PREFIX + b"request-id"
_TRACEPARENT: Final = h.TRACEPARENT.encode()
_CHECK: Final = CHECK_HEADER.lower().encode()
_RESUME: Final = _PREFIX + RESUME.encode()
_YES_OR_NO: Final = {"true": True, "1": True, "false": False, "0": False}
_VALUE_MAX: Final = 512
_CHECK_MAX: Final = 8192


def routing_in(headers: Iterable[Header]) -> tuple[dict[str, str], str | None]:
    """What a request's headers say about routing and its trace, as the bus carries it, and the id that it chose.

    Raises:
        BadRequest: A value is not printable ASCII, is too long, or is no request id.
    """
    found: dict[str, str] = {}
    request_id = None
    for name, value in headers:
        if name.startswith(_PREFIX):
            if name in _ROUTING:
                found[name.decode()] = _text(name, value, header_max(_ROUTING[name]))
            elif name == _REQUEST_ID:
                request_id = _text(name, value)
                if not is_request_id(request_id):
                    raise BadRequest("header X-Sollol-Request-Id must be 1 to 56 of A-Z a-z 0-9 _ -")
        elif name == _TRACEPARENT:
            found[h.TRACEPARENT] = _text(name, value)
    return found, request_id


def check_in(headers: Iterable[Header]) -> str | None:
    """The check in a request's headers: JSON, which can say everything in ASCII.

    Raises:
        BadRequest: It is not printable ASCII, or too long.
    """
    return next((_text(name, value, _CHECK_MAX) for name, value in headers if name == _CHECK), None)


def resume_in(headers: Iterable[Header]) -> bool | None:
    """Whether a request's headers want an answer that breaks off to go on; None: they do not say.

    Raises:
        BadRequest: They say something else.
    """
    told = next((_text(name, value).lower() for name, value in headers if name == _RESUME), None)
    if told not in (None, *_YES_OR_NO):
        raise BadRequest("header X-Sollol-Resume must be true or false")
    return None if told is None else _YES_OR_NO[told]


def _text(name: bytes, value: bytes, most: int = _VALUE_MAX) -> str:
    text = value.decode("latin-1").strip()
    if len(text) > most or not text.isascii() or not text.isprintable():
        raise BadRequest(f"header {name.decode()} must be printable ASCII of at most {most} characters")
    return text


def told(
    decision: Decision | None,
    request_id: str,
    figures: Figures | None = None,
    escalation: Escalation | None = None,
    *,
    resumed: int = 0,
) -> list[Header]:
    """The headers of an answer that say where it was made, and why; `resumed` is how often it broke off and went on."""
    headers = [(b"x-sollol-request-id", request_id.encode())]
    if decision is not None:
        headers += [
            (b"x-sollol-node", decision.node_id.encode()),
            (b"x-sollol-mode", decision.mode.value.encode()),
            (b"x-sollol-strategy", _value(decision.strategy)),
            (b"x-sollol-predicted-s", b"%.4g" % decision.forecast.total_s),
            (b"x-sollol-queue-s", b"%.4g" % decision.queue_s),
            (b"x-sollol-attempts", b"%d" % attempts_of(decision)),
            (b"x-sollol-reason", _value(decision.reason)),
        ]
        if decision.group:
            headers += [(b"x-sollol-group", _value(decision.group)), (b"x-sollol-model", _value(decision.model))]
        if decision.node_url:
            headers.append((b"x-sollol-node-url", _value(decision.node_url)))
        if decision.rejected:
            refused = ", ".join(f"{reason}={count}" for reason, count in decision.rejected.items())
            headers.append((b"x-sollol-rejected", _value(refused)))
    if resumed:
        headers.append((b"x-sollol-resumed", b"%d" % resumed))
    if figures is not None:
        headers.append((b"x-sollol-actual-s", b"%.4g" % figures.actual_s))
    if escalation is not None and escalation.tried:
        headers.append((b"x-sollol-escalated", b"%d" % len(escalation.tried)))
        headers.append((b"x-sollol-tried", _value("; ".join(f"{one.model}: {one.why}" for one in escalation.tried))))
    if escalation is not None and escalation.failure:
        headers.append((b"x-sollol-check-failure", _value(escalation.failure)))
    return headers


def _value(text: str) -> bytes:
    """A text as the value of a header: printable ASCII, at most 512 bytes."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    return text[:_VALUE_MAX].encode()
