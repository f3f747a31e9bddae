"""Whether a node that sleeps while nobody needs it is there, and how long waking it takes. Pure.

Safety: from the moment at which a node was told that it may sleep until its next heartbeat it gets no work, and of a
node that sleeps nothing is expected before it was woken. Liveness: a node that does not come within three times its
wake time is left alone for a pause that doubles with each failure, up to an hour, and counts as away meanwhile; a node
that was told that it may sleep and stayed is there again with its next heartbeat after ten seconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sollol_agents.scorer.knowledge.clamp import clamped

WAKE_PRIOR_S: Final = 112.0
"""What waking a machine and starting its engine takes, until it was measured."""
WAKE_MOST_S: Final = 3600.0
_WEIGHT: Final = 0.3  # of one measured time
_PRICE_RATIO: Final = 0.5
"""Waking must save so much of its own time besides: it costs energy, and a short request is not worth it."""
_PATIENCE: Final = 3.0
_PATIENCE_LEAST_S: Final = 30.0
_LATE: Final = 1.25
_LATE_S: Final = 5.0
_PAUSE_S: Final = 60.0
_PAUSE_MOST_S: Final = 3600.0
_DOUBLINGS_MOST: Final = 10
_LEAVING_S: Final = 10.0


class Phase(StrEnum):
    """Where a node is between sleeping and being there."""

    AWAKE = "awake"
    LEAVING = "leaving"  # it was told that it may sleep
    ASLEEP = "asleep"
    WAKING = "waking"  # it was woken, and has not come yet


class Sleeper:
    """One node that may sleep."""

    __slots__ = ("_is_late", "failures", "pause_until", "phase", "reason", "samples", "since", "wake_s", "woken_at")

    def __init__(self, now: float, wake_s: float = WAKE_PRIOR_S) -> None:
        self.phase = Phase.AWAKE
        self.since = now
        """When the phase began."""
        self.wake_s = clamped(wake_s, 1.0, WAKE_MOST_S)
        """How long waking it takes: a moving average of measured times."""
        self.samples = 0
        self.failures = 0
        """Tries in a row that failed."""
        self.pause_until = 0.0
        self.woken_at: float | None = None
        self.reason = ""
        """Why it is in this phase."""
        self._is_late = False

    def __repr__(self) -> str:
        return f"<Sleeper {self.phase} wake_s={self.wake_s:.0f} failures={self.failures}>"

    @property
    def is_away(self) -> bool:
        """Whether it sleeps, or has not come yet."""
        return self.phase in (Phase.ASLEEP, Phase.WAKING)

    @property
    def is_late(self) -> bool:
        """Whether it should have come by now: nobody waits for it who can go elsewhere."""
        return self._is_late

    def is_candidate(self, now: float) -> bool:
        """Whether requests may wait for it."""
        return self.phase is Phase.WAKING or (self.phase is Phase.ASLEEP and now >= self.pause_until)

    def retry_in_s(self, now: float) -> float:
        """How long it is left alone after failures; 0: not at all."""
        return max(0.0, self.pause_until - now) if self.phase is Phase.ASLEEP else 0.0

    def ready_at(self, now: float) -> float:
        """When it is expected, if it is woken now at the latest."""
        if self.phase is not Phase.WAKING:
            return now + self.wake_s
        late_s = max(0.0, now - self.since - self.wake_s)
        return max(self.since + self.wake_s, now + 1.0 + 0.5 * late_s)

    def price_s(self) -> float:
        """What waking it costs beside its time; 0 once it was woken."""
        return _PRICE_RATIO * self.wake_s if self.phase is Phase.ASLEEP else 0.0

    def restore(self, wake_s: float) -> None:
        """Goes on from what another process measured."""
        self.wake_s = clamped(wake_s, 1.0, WAKE_MOST_S)
        self.samples = max(1, self.samples)

    def leave(self, now: float) -> None:
        """It was told that it may sleep."""
        self._enter(Phase.LEAVING, now, "")

    def fall_asleep(self, now: float, reason: str) -> None:
        """It said that it goes to sleep."""
        self._enter(Phase.ASLEEP, now, reason)
        self.woken_at = None

    def wake(self, now: float, reason: str) -> None:
        """It is woken."""
        self._enter(Phase.WAKING, now, reason)
        self.woken_at = now

    def come_back(self, now: float) -> float | None:
        """It is there; returns how long waking took, or None where it was not woken or had never gone."""
        took_s = None
        if self.is_away and self.woken_at is not None:
            took_s = clamped(now - self.woken_at, 0.0, WAKE_MOST_S)
            weight = max(_WEIGHT, 1.0 / (self.samples + 2))
            self.wake_s = clamped(self.wake_s + weight * (took_s - self.wake_s), 1.0, WAKE_MOST_S)
            self.samples += 1
        self._enter(Phase.AWAKE, now, "")
        self.failures, self.pause_until, self.woken_at = 0, 0.0, None
        return took_s

    def has_stayed(self, now: float) -> bool:
        """Whether a heartbeat of now means that it is there: the last ones of a node that leaves do not."""
        return self.phase is not Phase.LEAVING or now - self.since > _LEAVING_S

    def patience_s(self) -> float:
        """How long after waking it is taken to have failed."""
        return max(_PATIENCE_LEAST_S, _PATIENCE * self.wake_s)

    def has_failed(self, now: float) -> bool:
        """Whether it was woken and did not come; it is left alone for a while then."""
        if self.phase is not Phase.WAKING or now - self.since <= self.patience_s():
            return False
        waited_s = now - self.since
        self._enter(Phase.ASLEEP, now, f"woken {waited_s:.0f} s ago, and did not come")
        self.failures += 1
        self.pause_until = now + min(_PAUSE_MOST_S, _PAUSE_S * 2.0 ** min(_DOUBLINGS_MOST, self.failures - 1))
        return True

    def look(self, now: float) -> bool:
        """Whether it became late or its pause ended since the last look: who may wait for it changes."""
        is_late = self.phase is Phase.WAKING and now - self.since > _LATE * self.wake_s + _LATE_S
        changed = is_late != self._is_late
        self._is_late = is_late
        if self.phase is Phase.ASLEEP and 0.0 < self.pause_until <= now:
            self.pause_until, changed = 0.0, True
        return changed

    def _enter(self, phase: Phase, now: float, reason: str) -> None:
        self.phase, self.since, self.reason, self._is_late = phase, now, reason, False
