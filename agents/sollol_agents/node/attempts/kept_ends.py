"""How attempts ended, kept as long as it may have been lost on the way, and when it is said again. Pure.

Bytes that were sent to a server that had stopped are lost without a word. So an end counts as unheard until a later
pong proves that the server took it; when the connection breaks before that, it is said again on the next one. Servers
of a cluster lose what was on its way to one of them that stopped, so what was said in the seconds before one came or
went is said again too. And an end that reached nobody (the server answers 503) is said again for a while, since whoever
waits for it may be on the way back.
Safety: an end may be said more than once, but only the same end. Bounds: in number, in bytes, in time, in repetitions.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import Final, Generic, TypeVar

EndT = TypeVar("EndT")

COUNT_MAX: Final = 16_384
BYTES_MAX: Final = 16 << 20
PROVEN_KEPT_S: Final = 30.0
"""The servers of a cluster notice within this time that one of them has stopped."""
_PROOF_S: Final = 2.5
"""Proofs that come closer together count as the later one."""
UNPROVEN_KEPT_S: Final = 600.0
"""Nobody waits longer for an answer, unless they asked to."""
AGAIN_AFTER_S: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Between the sayings of an end that reaches nobody."""


class _Kept(Generic[EndT]):
    """One end."""

    __slots__ = ("end", "is_proven", "kept_at", "refusals", "said_at", "size")

    def __init__(self, end: EndT, size: int, now: float, *, is_said: bool) -> None:
        self.end = end
        self.size = size
        self.kept_at = now
        self.said_at = now if is_said else None
        """When it was said last; None: not on this connection."""
        self.is_proven = False
        self.refusals = 0


class KeptEnds(Generic[EndT]):
    """The ends of one node; each is known by a key. Instants are monotonic seconds."""

    def __init__(self) -> None:
        self.bytes = 0
        """What all that is kept weighs."""
        self._kept: dict[str, _Kept[EndT]] = {}
        self._due: dict[str, float] = {}
        self._proofs: deque[tuple[float, float]] = deque(maxlen=2 + round(PROVEN_KEPT_S / _PROOF_S))
        """What was said before the first instant had reached the server at the second one."""

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> EndT | None:
        """An end that is kept."""
        kept = self._kept.get(key)
        return kept.end if kept is not None else None

    def items(self) -> list[tuple[str, EndT]]:
        """All that are kept, with their keys."""
        return [(key, kept.end) for key, kept in self._kept.items()]

    def keep(self, key: str, end: EndT, size: int, now: float, *, is_said: bool) -> None:
        """Keeps an end; the oldest ones give way to it.

        Args:
            key: What it is known by.
            end: The end.
            size: Its bytes; one of more than `BYTES_MAX` is not kept.
            now: The time.
            is_said: Whether it was said just now; else it is once there is a connection.
        """
        if key in self._kept:
            self._drop(key)
        if size > BYTES_MAX:
            return
        self._kept[key] = _Kept(end, size, now, is_said=is_said)
        self.bytes += size
        while self.bytes > BYTES_MAX or len(self._kept) > COUNT_MAX:
            self._drop(next(iter(self._kept)))

    def said(self, key: str, now: float) -> None:
        """It was said again."""
        self._due.pop(key, None)
        if (kept := self._kept.get(key)) is not None:
            kept.said_at, kept.is_proven = now, False

    def unsaid(self, key: str) -> None:
        """It could not be said: the connection is down."""
        self._due.pop(key, None)
        if (kept := self._kept.get(key)) is not None:
            kept.said_at, kept.is_proven = None, False

    def refused(self, key: str, now: float) -> float | None:
        """It reached nobody; returns when it is said again, None when it is not."""
        kept = self._kept.get(key)
        if kept is None or kept.refusals == len(AGAIN_AFTER_S):
            return None
        self._due[key] = due_at = now + AGAIN_AFTER_S[kept.refusals]
        kept.refusals += 1
        return due_at

    def lost(self, proven_until: float) -> None:
        """The connection broke; what was said on it before `proven_until` had reached its server."""
        for key, kept in self._kept.items():
            if kept.said_at is not None:
                kept.is_proven = kept.is_proven or kept.said_at < proven_until
                if not kept.is_proven or key in self._due:
                    kept.said_at = None
        self._due.clear()

    def connected(self, now: float) -> None:
        """There is a connection again: what the last one lost is due, and what had reached nobody yet."""
        for key, kept in self._kept.items():
            if kept.said_at is None:
                kept.refusals = 0
                self._due[key] = now

    def doubted(self, now: float) -> None:
        """A server of the cluster came or went: everything is due once more."""
        for key, kept in self._kept.items():
            kept.refusals = 0
            self._due[key] = now

    def due(self, now: float) -> list[tuple[str, EndT]]:
        """What is to be said again now, the oldest first; tell with `said` or `unsaid` what became of it."""
        if not self._due:
            return []
        return [(key, kept.end) for key, kept in self._kept.items() if self._due.get(key, now + 1.0) <= now]

    def expire(self, now: float, proven_until: float) -> None:
        """Forgets what nobody can be waiting for any more; what reached nobody, and is due again, is waited for.

        Args:
            now: The time.
            proven_until: What was said before has reached the server by now.
        """
        last = self._proofs[-1] if self._proofs else (-PROVEN_KEPT_S, -PROVEN_KEPT_S)
        if proven_until > last[0] and now - last[1] >= _PROOF_S:
            self._proofs.append((proven_until, now))
        oldest = takewhile(lambda item: now - item[1].kept_at >= PROVEN_KEPT_S, self._kept.items())
        self._drop_all([key for key, kept in oldest if key not in self._due and self._is_over(kept, now)])

    def _is_over(self, kept: _Kept[EndT], now: float) -> bool:
        """Whether it reached the server so long ago, or was said so long ago, that nobody waits for it.

        It may have been on its way from when it was said until that is proven: a line can freeze for long.
        """
        said_at = kept.said_at
        if now - kept.kept_at >= UNPROVEN_KEPT_S:
            return True
        if said_at is None:
            return False
        proven_at = next((at for until, at in self._proofs if said_at < until), said_at if kept.is_proven else now)
        return now - proven_at >= PROVEN_KEPT_S

    def next_at(self) -> float | None:
        """When the next one is due to be said again."""
        return min(self._due.values(), default=None)

    def _drop_all(self, keys: list[str]) -> None:
        for key in keys:
            self._drop(key)

    def _drop(self, key: str) -> None:
        self._due.pop(key, None)
        if (kept := self._kept.pop(key, None)) is not None:
            self.bytes -= kept.size
