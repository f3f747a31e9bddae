"""Instants on the wire: RFC 3339 in UTC, with `Z` and milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)


class InvalidInstant(ValueError):
    """The text is not an instant with a time zone."""


def instant(at: datetime | float) -> str:
    """The text of an aware instant, or of seconds of Unix time; nothing is later than the year 9999."""
    if not isinstance(at, datetime):
        at = datetime.fromtimestamp(min(at, _LATEST.timestamp()), UTC)
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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


def retold(text: str) -> str:
    """An instant that somebody else wrote, in the form of messages; empty for what is none."""
    try:
        return instant(parse_instant(text))
    except (ValueError, OverflowError):
        return ""
