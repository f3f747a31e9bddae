"""When a node may publish the first chunk of an attempt.

Safety: at most one node speaks to a caller. The dispatcher that answers `go` to `accepted` promises not to give
the attempt up for `go_s`, unless the node is known to be dead. The node counts those seconds from the moment it
*sent* `accepted`, so its lease ends before the promise does, however long the answer or this process slept.
Later it asks `start?` and waits for a `go` that holds for good.
Liveness: when nobody listens on the attempt's subject any more, the dispatcher is gone and nobody else can retry
the request, so the node may speak; but not within the seconds after its own reconnect, when others are still
coming back.
Window: between the last look at the clock and the moment the bytes leave lies no wait of ours, but the process may
be stopped exactly there. That remains.
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What the node may do with a first chunk."""

    SPEAK = "speak"  # publish it
    WAIT = "wait"  # an answer is on its way
    ASK = "ask"  # send `start?`
    STOP = "stop"  # the attempt belongs to somebody else now


class Fence:
    """The permission of one attempt to speak.

    Args:
        go_s: How long a `go` given to `accepted` holds, in seconds.
    """

    __slots__ = ("_asked_at", "_go_s", "_has_spoken", "_is_final", "_is_stopped", "_is_waiting", "_lease_until")

    def __init__(self, go_s: float) -> None:
        self._go_s = go_s
        self._asked_at = 0.0
        self._lease_until = float("-inf")
        self._is_waiting = False
        self._is_final = False
        self._is_stopped = False
        self._has_spoken = False

    @property
    def has_spoken(self) -> bool:
        """Whether the first chunk is out: from then on nothing stops the stream but its own end."""
        return self._has_spoken

    def accepted_sent(self, now: float) -> None:
        """`accepted` leaves now."""
        self._asked_at = now
        self._is_waiting = True

    def start_sent(self) -> None:
        """`start?` leaves now."""
        self._is_waiting = True

    def accepted_answered(self, *, go: bool) -> None:
        """The dispatcher answered `accepted`."""
        self._is_waiting = False
        if go:
            self._lease_until = self._asked_at + self._go_s
        else:
            self._is_stopped = True

    def start_answered(self, *, go: bool) -> None:
        """The dispatcher answered `start?`."""
        self._is_waiting = False
        self._is_final = go
        self._is_stopped = not go

    def nobody_listens(self, *, is_settling: bool) -> None:
        """The question met no dispatcher; just after our own reconnect that proves nothing."""
        self._is_waiting = False
        if not is_settling:
            self._is_final = True

    def unanswered(self) -> None:
        """The question got no answer in time: it has to be asked again."""
        self._is_waiting = False

    def void(self) -> None:
        """The lease is worth nothing any more: this process, or its machine, was asleep."""
        self._lease_until = float("-inf")

    def disconnected(self) -> None:
        """The bus is gone: an attempt that has not spoken is over."""
        if not self._has_spoken:
            self._is_stopped = True

    def spoke(self) -> None:
        """The first chunk is out."""
        self._has_spoken = True

    def verdict(self, now: float) -> Verdict:
        """What may be done with the first chunk now.

        Args:
            now: From the clock that `accepted_sent` was given; it must not stand still while the machine sleeps.
        """
        if self._has_spoken:
            return Verdict.SPEAK
        if self._is_stopped:
            return Verdict.STOP
        if self._is_final or now < self._lease_until:
            return Verdict.SPEAK
        return Verdict.WAIT if self._is_waiting else Verdict.ASK
