"""Instants on the wire, and ages by the server's clock."""

from __future__ import annotations

from datetime import UTC, datetime

LATEST = datetime(9999, 1, 1, tzinfo=UTC)


class InvalidInstant(ValueError):
    """The text is not an instant with a time zone."""


def parse_instant(text: str) -> float:
    """Seconds of Unix time of an RFC 3339 instant.

    Raises:
        InvalidInstant: It is not one, or has no time zone.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInstant(f"{text[:40]!r} is not an instant such as 2026-01-31T18:00:00Z") from error
    if instant.tzinfo is None:
        raise InvalidInstant(f"{text[:40]!r} needs a time zone, for example Z")
    return instant.timestamp()


def instant(unix_s: float) -> str:
    """An instant as RFC 3339 in UTC, to the millisecond."""
    at = datetime.fromtimestamp(min(unix_s, LATEST.timestamp()), UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
