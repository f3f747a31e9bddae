"""Ollama's own answers: lines of a stream and whole objects, as they are.

Routing is told in the last object, under `_sollol_routing`; nothing else of an engine's words is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from sollol_bus.sdk.escalation import Escalation
from sollol_bus.sdk.routing_told import escalation_told, resumed_told, routing_told
from sollol_schemas.decision import Decision
from sollol_schemas.execution import Figures

ROUTING_FIELD: Final = "_sollol_routing"
_DONE: Final = b'"done":true'
_RENDERED: Final = b',"_debug_info":{'
_ALONE: Final = (b'"done_reason":"load"', b'"done_reason":"unload"', _RENDERED)
_encode = msgspec.json.Encoder().encode


def may_be_last(line: bytes) -> bool:
    """Whether a line may be the last object of a stream; an argument of a tool may be called `done` too."""
    return _DONE in line or _RENDERED in line


def is_alone(line: bytes) -> bool:
    """Whether an answer is one object even to a client that streams: a model was loaded, or a prompt rendered."""
    return any(said in line for said in _ALONE)


class LineRelay:
    """The lines of one stream on their way through; one that may be the last waits for what comes behind it."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = b""
        """The line that waits."""

    def feed(self, *lines: bytes) -> bytes:
        """What may go on now, whole lines with their ends."""
        last = lines[-1]
        may_go = (self.held, *lines) if self.held else lines
        self.held = b""
        if may_be_last(last):
            self.held = last
            may_go = may_go[:-1]
        return b"\n".join((*may_go, b"")) if may_go else b""

    def rest(self) -> bytes:
        """The line that waits, at the end."""
        rest, self.held = self.held, b""
        return rest


def with_routing(line: bytes, routing: bytes) -> bytes:
    """An object with the routing as its last field."""
    body = line.rstrip()
    comma = b"" if body.endswith(b"{}") else b","
    return body[:-1] + comma + b'"%b":%b}' % (ROUTING_FIELD.encode(), routing)


def routing_of(
    decision: Decision | None,
    figures: Figures | None,
    request_id: str,
    escalation: Escalation | None = None,
    decisions: Sequence[Decision] = (),
) -> bytes:
    """Where and why a request ran, as JSON; `decisions` are those of every attempt that spoke."""
    told = routing_told(decision, figures, request_id) | resumed_told(decisions)
    if escalation is not None:
        told |= escalation_told(escalation.tried, escalation.failure)
    return _encode(told)
