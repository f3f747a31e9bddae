"""Each attempt's share of its node: of the seconds in which it was busy, and of the energy that it drew meanwhile.

What runs at the same time shares alike, so that the shares of all attempts add up to the node's busy time and to what
it drew while it was busy; what it draws while idle is nobody's.
"""

from __future__ import annotations

from typing import NamedTuple

from sollol_schemas.prices import Power

_SAMPLE_WEIGHT = 0.1
_UNKNOWN_RATIO = 0.01  # so much of an attempt may have run without a reading of the power


class Share(NamedTuple):
    """One attempt's share."""

    busy_s: float
    energy_j: float | None
    """None where the power was not known all the time."""


class Shares:
    """The integrals over time of what one of the running attempts gets.

    Args:
        now: Monotonic seconds.
    """

    __slots__ = ("_at", "_busy_s", "_energy_j", "_metered_s", "_running", "_watts")

    def __init__(self, now: float) -> None:
        self._at = now
        self._busy_s = self._energy_j = self._metered_s = 0.0
        self._running = 0
        self._watts: float | None = None

    def set_running(self, running: int, now: float) -> None:
        """From now on so many run."""
        self._advance(now)
        self._running = running

    def set_power(self, watts: float | None, now: float) -> None:
        """From now on the node draws so much; None: nobody knows."""
        self._advance(now)
        self._watts = watts

    def mark(self, now: float) -> Mark:
        """Where the integrals stand, for `since`."""
        self._advance(now)
        return Mark(self._busy_s, self._energy_j, self._metered_s)

    def since(self, mark: Mark, now: float) -> Share:
        """The share of an attempt that has run since the mark."""
        self._advance(now)
        busy_s = max(0.0, self._busy_s - mark.busy_s)
        is_known = self._watts is not None and self._metered_s - mark.metered_s >= (1.0 - _UNKNOWN_RATIO) * busy_s
        return Share(busy_s, max(0.0, self._energy_j - mark.energy_j) if is_known else None)

    def _advance(self, now: float) -> None:
        if now <= self._at:
            return
        elapsed_s, self._at = now - self._at, now
        if self._running:
            share_s = elapsed_s / self._running
            self._busy_s += share_s
            if self._watts is not None:
                self._metered_s += share_s
                self._energy_j += share_s * self._watts


class Mark(NamedTuple):
    """The integrals at one instant."""

    busy_s: float
    energy_j: float
    metered_s: float


class PowerMeter:
    """What the node draws, idle and busy: as its owner states it, else as its drivers tell on average.

    Args:
        idle_w: Stated; 0: not.
        busy_w: Stated; 0: not.
    """

    def __init__(self, idle_w: float, busy_w: float) -> None:
        self.told = Power(idle_w=idle_w or None, busy_w=busy_w or None, is_stated=bool(idle_w or busy_w))

    def observe(self, measured_w: float | None, *, is_busy: bool) -> float | None:
        """Takes a reading of all GPUs; returns the watts by which attempts are charged from now on."""
        told = self.told
        if told.is_stated:
            return told.busy_w
        if measured_w is not None:
            idle_w, busy_w = (told.idle_w, measured_w) if is_busy else (measured_w, told.busy_w)
            self.told = Power(idle_w=_mean(told.idle_w, idle_w), busy_w=_mean(told.busy_w, busy_w))
        return measured_w


def _mean(known_w: float | None, fresh_w: float | None) -> float | None:
    if known_w is None or fresh_w is None:
        return fresh_w if known_w is None else known_w
    return round(known_w + _SAMPLE_WEIGHT * (fresh_w - known_w), 1)
