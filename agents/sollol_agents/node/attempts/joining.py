"""Chunks of an answer that nobody reads one by one: those that come close together leave as one message.

They are held for a time in which no silence is sudden (`sollol_bus.sdk.silence`), so that whoever receives the message
still notices that an engine stopped, and has nearly all that was said when the answer breaks off. What is held at the
end is in the message that ends the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sollol_bus.transport.joined import BETWEEN_OBJECTS
from sollol_schemas.context import RequestKind
from sollol_schemas.execution import HELD_S, Exec

HELD_BYTES: Final = 32 << 10
"""So much is held at most."""


class Joining:
    """What is held of one answer.

    Args:
        between: What stands between two chunks of a message.
        limit_bytes: What is more does not wait.
        on_due: Called when what is held was held for long enough.
    """

    __slots__ = ("_between", "_bytes", "_held", "_limit_bytes", "_on_due", "_timer")

    def __init__(self, between: bytes, limit_bytes: int, on_due: Callable[[], None]) -> None:
        self._between = between
        self._limit_bytes = limit_bytes
        self._on_due = on_due
        self._held: list[bytes] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_holding(self) -> bool:
        """Whether anything is held."""
        return bool(self._held)

    def has_room(self, chunks: list[bytes]) -> bool:
        """Whether these may be held too."""
        return self._bytes + _size(chunks) <= self._limit_bytes

    def together(self, chunks: list[bytes]) -> list[bytes]:
        """Chunks as one; none of none."""
        return [self._between.join(chunks)] if len(chunks) > 1 else chunks

    def hold(self, chunks: list[bytes]) -> bool:
        """Holds chunks; returns whether so much is held that it should leave."""
        self._held += chunks
        self._bytes += _size(chunks)
        if self._held and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HELD_S, self._due)
        return self._bytes > self._limit_bytes

    def take(self) -> list[bytes]:
        """All that is held, as one chunk; nothing when nothing is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held, self._held, self._bytes = self._held, [], 0
        return self.together(held)

    def _due(self) -> None:
        self._timer = None
        self._on_due()


def _size(chunks: list[bytes]) -> int:
    """Bytes of chunks, and of what stands between them."""
    return sum(map(len, chunks)) + len(chunks)


def between(exec_: Exec, *, is_rest: bool) -> bytes | None:
    """What stands between two chunks in one message of an answer; None: each chunk is a message.

    Args:
        exec_: What is asked.
        is_rest: Whether the answer goes on: a rest is told in native objects.
    """
    if not (exec_.stream and exec_.is_joined):
        return None
    return BETWEEN_OBJECTS if is_rest or exec_.decision.kind is not RequestKind.PASSTHROUGH else b""
