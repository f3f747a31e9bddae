"""How reliable a node proved to be: decayed counts of successes and a lower confidence bound.

Counts lose half their weight every 50 attempts, so at most about 72 attempts ever count and the bound cannot
pass `CEILING`. The bound is the lower end of the Wilson interval at 80 % (one-sided): 0 without history,
0.95 after 16 successes, about 0.955 with one failure among the latest 50. A plain average would fail a floor
of 0.98 for 15 requests after a single error.
"""

from __future__ import annotations

import math

from sollol_schemas.learned import LearnedRecord

_HALF_LIFE = 50.0
_KEEP = 0.5 ** (1.0 / _HALF_LIFE)
_Z = 0.8416
_DISPERSION_ALPHA = 0.1


def lower_bound(successes: float, attempts: float) -> float:
    """Success ratio that is exceeded with 80 % confidence; 0 to 1, 0 without attempts."""
    if attempts <= 0:
        return 0.0
    p = min(1.0, successes / attempts)
    z2 = _Z * _Z
    centre = p + z2 / (2 * attempts)
    spread = _Z * math.sqrt(p * (1 - p) / attempts + z2 / (4 * attempts * attempts))
    return max(0.0, (centre - spread) / (1 + z2 / attempts))


def strayed(actual_s: float, predicted_s: float) -> float | None:
    """How far an actual time strayed from the predicted one, as the absolute log-ratio, 3 at most; None: not known."""
    return min(3.0, abs(math.log(actual_s / predicted_s))) if actual_s > 0 and predicted_s > 0 else None


CEILING = lower_bound(1.0 / (1.0 - _KEEP), 1.0 / (1.0 - _KEEP))
"""The bound of a node that never failed: no higher floor can ever be proven."""


class Record:
    """Successes and failures of one node, or of one model on it."""

    __slots__ = ("_bound", "_deviation", "attempts", "successes")

    def __init__(self) -> None:
        self.attempts = 0.0
        self.successes = 0.0
        self._deviation = 0.0
        self._bound: float | None = 0.0

    def count(self, *, is_success: bool) -> None:
        """Counts one attempt that is charged to the node."""
        self.attempts = self.attempts * _KEEP + 1.0
        self.successes = self.successes * _KEEP + (1.0 if is_success else 0.0)
        self._bound = None

    def compare(self, off: float | None) -> None:
        """Learns how far actual times stray from predicted ones, as `strayed` tells; nothing from None."""
        if off is not None:
            self._deviation += _DISPERSION_ALPHA * (off - self._deviation)

    def learned(self) -> LearnedRecord:
        """The counts as plain data."""
        return LearnedRecord(
            attempts=round(self.attempts, 6),
            successes=round(min(self.successes, self.attempts), 6),
            deviation=round(self._deviation, 6),
        )

    def restore(self, learned: LearnedRecord) -> None:
        """Goes on from counts of a former process; does nothing when this one has counted already."""
        if not self.attempts:
            self.attempts, self.successes, self._deviation = learned.attempts, learned.successes, learned.deviation
            self._bound = None

    def forget(self) -> None:
        """Begins anew."""
        self.attempts = self.successes = self._deviation = self._bound = 0.0

    @property
    def expected(self) -> float:
        """Expected success ratio of the next attempt, (s + 1) / (n + 2) but optimistic without history; 0 to 1."""
        return (self.successes + 2.0) / (self.attempts + 2.0)

    @property
    def bound(self) -> float:
        """Lower confidence bound of the success ratio; 0 to 1."""
        bound = self._bound
        if bound is None:
            bound = self._bound = lower_bound(self.successes, self.attempts)
        return bound

    @property
    def dispersion(self) -> float:
        """Mean absolute log-ratio of actual to predicted time; 0 is perfectly steady."""
        return self._deviation
