"""An inference request as it came over HTTP. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from sollol_agents.gateway.http import routing_headers
from sollol_agents.requests.dialects import Dialect
from sollol_bus.errors import SollolError, error_from
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorBody, ErrorCode

_STREAM: Final = re.compile(rb'"stream"\s*:\s*(true|false)')
_DEADLINE: Final = re.compile(rb'"deadline_s"\s*:\s*([0-9.]+)')
_DEADLINE_HEADER: Final = "x-sollol-deadline-s"


class Asked(msgspec.Struct):
    """One inference request as it came."""

    kind: RequestKind
    dialect: Dialect
    path: str
    """The path in origin form, with its query."""
    label: str
    """What metrics call the path."""
    body: bytes
    wishes: routing_headers.Wishes

    @property
    def is_native(self) -> bool:
        """Whether the answer is made of Ollama's objects."""
        return self.kind is not RequestKind.PASSTHROUGH


class _StreamField(msgspec.Struct):
    stream: bool | None = None


def wants_stream(body: bytes, *, default: bool) -> bool:
    """What the top-level field `stream` says; looked at closely only when the word stands somewhere."""
    found = _STREAM.search(body)
    if found is None or found.group(1) == (b"true" if default else b"false"):
        return default
    try:
        stated = msgspec.json.decode(body, type=_StreamField).stream
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return default
    return default if stated is None else stated


def deadline_in(asked: Asked, default_s: float) -> float:
    """How long a request may take by its own word; the dispatcher checks and keeps the deadline."""
    stated = asked.wishes.headers.get(_DEADLINE_HEADER)
    if stated is None and asked.is_native and (found := _DEADLINE.search(asked.body)):
        stated = found.group(1).decode()
    try:
        return max(0.0, float(stated)) if stated is not None else default_s
    except ValueError:
        return default_s


def bad_request(message: str) -> SollolError:
    """The refusal of a request that cannot be used."""
    return error_from(ErrorBody(code=ErrorCode.BAD_REQUEST, message=message))
