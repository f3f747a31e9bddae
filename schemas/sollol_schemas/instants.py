"""Instants on the wire and in what is kept: RFC 3339 in UTC, with `Z` and milliseconds.

Every field that says when something happened is such a text, and its name is or ends in `at`, or in `before`. Numbers
are durations, or readings of a clock that is no calendar's. Two things follow somebody else's form: an answer in the
dialect of an engine, and what the NATS server reads.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import msgspec

NOT_WRITTEN: Final = 0.0
"""Of a `units.FormerInstant`: this very object, because a default is left out by its identity."""
_LATEST_S: Final = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
_MICROSECONDS: Final = 1_000_000


class InvalidInstant(ValueError):
    """The text is not an instant with a time zone."""


def instant(at: datetime | float) -> str:
    """The text of an aware instant, or of seconds of Unix time; nothing is later than the year 9999."""
    if isinstance(at, datetime):
        return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    part, whole_s = math.modf(min(at, _LATEST_S))
    seconds, microseconds = divmod(int(whole_s) * _MICROSECONDS + round(part * _MICROSECONDS), _MICROSECONDS)
    return f"{_second(seconds)}.{microseconds // 1000:03d}Z"


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    """A second of Unix time; most that is told happened within few."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec="seconds")


def parse_instant(text: str) -> float:
    """Seconds of Unix time of an RFC 3339 instant, in any time zone.

    Raises:
        InvalidInstant: It is not one, or has no time zone.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInstant(f"{text[:40]!r} is not an instant such as 2026-01-31T18:00:00Z") from error
    if at.tzinfo is None:
        raise InvalidInstant(f"{text[:40]!r} needs a time zone, for example Z")
    return at.timestamp()


def seconds_of(text: str) -> float:
    """Seconds of Unix time of an instant that was kept; 0 for what is none."""
    try:
        return parse_instant(text)
    except (ValueError, OverflowError):
        return 0.0


def take_over(struct: msgspec.Struct, former: str, field: str) -> None:
    """Moves an instant to its field from another one, where older versions wrote it as seconds of Unix time."""
    seconds = getattr(struct, former)
    if seconds:
        if not getattr(struct, field):
            msgspec.structs.force_setattr(struct, field, instant(seconds))
        msgspec.structs.force_setattr(struct, former, NOT_WRITTEN)


def retold(text: str) -> str:
    """An instant that somebody else wrote, in the form of messages; empty for what is none."""
    try:
        return instant(parse_instant(text))
    except (ValueError, OverflowError):
        return ""
