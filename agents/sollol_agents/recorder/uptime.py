"""How long nodes were there, from the events that told of their coming and going."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sollol_schemas.telemetry import NodeState


class Passage(NamedTuple):
    """A node changed its state."""

    at: float
    """Seconds of Unix time."""
    state: str


class Uptime(NamedTuple):
    """What is known of a node's presence."""

    up_for_s: float
    """Seconds since it was last down, or first seen; 0 while it is down."""
    ratio: float
    """Share of the time since it was first seen in which it was not down; 0 to 1."""


def uptime_of(passages: Iterable[Passage], now: float) -> Uptime:
    """Presence from events, oldest first; a node that is suspect or drains is there.

    A scorer that restarts tells again that nodes are up: only a passage through `down` ends a presence.
    """
    first_at = up_since = None
    down_s, down_at = 0.0, None
    for at, state in passages:
        if first_at is None:
            first_at = at
        if state == NodeState.DOWN:
            up_since, down_at = None, at if down_at is None else down_at
        elif up_since is None:
            up_since = at
            if down_at is not None:
                down_s += max(0.0, at - down_at)
                down_at = None
    if first_at is None:
        return Uptime(0.0, 0.0)
    if down_at is not None:
        down_s += max(0.0, now - down_at)
    known_s = now - first_at
    ratio = 1.0 - down_s / known_s if known_s > 0 else float(down_at is None)
    return Uptime(max(0.0, now - up_since) if up_since is not None else 0.0, min(1.0, max(0.0, ratio)))
