"""The dispatcher's side of the fence: which attempt may speak to the caller, and when one may be given up. Pure.

Safety: at any time at most one attempt of a request may publish to the caller. A `go` answered to `accepted` is a
lease of `go_s`, which the node counts from the moment it asked and the dispatcher from the moment it answered: the
node's lease ends first. While a lease runs, the attempt is given up only when the node is known to be dead.
Liveness: an attempt whose node is silent is given up as soon as its lease has run out. One that streams is not: its
tokens pass by here unseen; it ends when its node is dead, or has no heartbeat either.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """How far an attempt has come, as the dispatcher knows it."""

    SENT = "sent"  # exec is out, the node has not answered: it may not speak yet
    LEASED = "leased"  # it may begin to speak until the lease runs out
    STREAMING = "streaming"  # it has begun, or was told that it may for good: never retried
    ABANDONED = "abandoned"  # another attempt may speak; this one gets `no`
    ENDED = "ended"  # it reported its end


class AttemptFence:
    """The fence of one attempt."""

    __slots__ = ("_go_s", "_lease_until", "phase")

    def __init__(self, go_s: float) -> None:
        self._go_s = go_s
        self._lease_until = 0.0
        self.phase = Phase.SENT

    @property
    def is_open(self) -> bool:
        """Whether the attempt may still serve the request."""
        return self.phase in (Phase.SENT, Phase.LEASED, Phase.STREAMING)

    def on_accepted(self, now: float) -> bool:
        """The answer to `accepted`: a lease, or no."""
        if self.phase is Phase.SENT:
            self.phase = Phase.LEASED
        if self.phase is Phase.LEASED:
            self._lease_until = now + self._go_s
        return self.is_open

    def on_start_asked(self) -> bool:
        """The answer to `start?`: for good, or no."""
        if self.is_open:
            self.phase = Phase.STREAMING
        return self.is_open

    def on_first_token(self) -> None:
        """The first chunk is out."""
        if self.is_open:
            self.phase = Phase.STREAMING

    def may_abandon_at(self, now: float) -> float | None:
        """When an attempt of a silent node may be given up: at once, later, or (None) never for that alone."""
        match self.phase:
            case Phase.SENT:
                return now
            case Phase.LEASED:
                return max(now, self._lease_until)
            case _:
                return None

    def may_move(self, now: float) -> bool:
        """Whether the request may begin elsewhere now: this attempt has not spoken, and holds no lease to do so."""
        may_at = self.may_abandon_at(now)
        return may_at is not None and may_at <= now

    def abandon(self) -> None:
        """Gives the attempt up; it is told `no` from now on."""
        if self.phase is not Phase.ENDED:
            self.phase = Phase.ABANDONED

    def end(self) -> None:
        """The attempt reported its end."""
        self.phase = Phase.ENDED
