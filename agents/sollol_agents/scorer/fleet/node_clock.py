"""How far a node's clock is off, as its heartbeats tell."""

from __future__ import annotations

from collections import deque
from typing import Final

from sollol_bus.transport.clock import OFF_S

_HEARTBEATS: Final = 5


class NodeClock:
    """The clock of one node's machine, compared with the server's.

    A heartbeat is read some time after its node looked at the clock, so each makes the clock look slow by that: of the
    last few the one that was fastest counts.
    """

    __slots__ = ("_seen", "ahead_s")

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=_HEARTBEATS)
        self.ahead_s = 0.0
        """Seconds ahead of the server's clock; 0 while that is no more than `OFF_S`, or not known yet."""

    def hear(self, told_unix_s: float, now_unix_s: float) -> bool:
        """Takes what a heartbeat says; whether the clock went wrong, right, or wrong by another amount by that."""
        if not told_unix_s:
            return False
        self._seen.append(told_unix_s - now_unix_s)
        if len(self._seen) < _HEARTBEATS:
            return False
        ahead_s = max(self._seen)
        before, self.ahead_s = self.ahead_s, ahead_s if abs(ahead_s) > OFF_S else 0.0
        if not before or not self.ahead_s:
            return before != self.ahead_s
        if abs(self.ahead_s - before) > OFF_S:
            return True
        self.ahead_s = before
        return False
