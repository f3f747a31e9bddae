"""Instants and identities on the wire."""

from __future__ import annotations

import datetime as dt
import itertools
import time

_numbers = itertools.count()


def timestamp() -> str:
    """Returns the present instant as Ollama writes it: RFC 3339 in UTC with nanoseconds."""
    return rfc3339(dt.datetime.now(dt.UTC))  # noqa: TID251 the engine's own clock


def rfc3339(instant: dt.datetime) -> str:
    """Returns an instant as Ollama writes it."""
    return instant.isoformat(timespec="microseconds")[:26] + "000Z"  # several times faster than strftime


def unix_s() -> int:
    """Returns the present instant in seconds of Unix."""
    return int(time.time())  # noqa: TID251 - a calendar instant that goes on the wire


def number() -> int:
    """Returns a number that no other caller of this process gets."""
    return next(_numbers)


def call_id() -> str:
    """Returns the identity of a tool call: 32 letters."""
    return f"call{number():028x}"


def hex_id(prefix: str) -> str:
    """Returns an identity of 24 hexadecimal digits."""
    return f"{prefix}_{number():024x}"
