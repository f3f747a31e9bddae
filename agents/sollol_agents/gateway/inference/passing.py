"""Chunks of a stream straight from the bus to the client."""

from __future__ import annotations

from typing import Protocol

from sollol_agents.gateway.http.reply import Reply


class Relay(Protocol):
    """Gives what may go on of what came."""

    def feed(self, data: bytes, /) -> bytes:
        """What may go on now; empty: nothing yet."""


class Passing:
    """Writes what a relay lets go on; a call takes it where it may do so at once.

    Args:
        reply: The answer, whose head has left or leaves with its next piece.
        relay: Gives what may go on.
    """

    __slots__ = ("_relay", "_reply")

    def __init__(self, reply: Reply, relay: Relay) -> None:
        self._reply = reply
        self._relay = relay

    @property
    def has_room(self) -> bool:
        """Whether a chunk would leave at once."""
        return self._reply.has_room

    def take(self, data: bytes) -> None:
        """Writes one chunk."""
        data = self._relay.feed(data)
        if data:
            self._reply.write_now(data)
