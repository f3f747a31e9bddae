"""How many attempts ran beside one: the mean over its own time, exactly, at constant cost a change."""

from __future__ import annotations


class Concurrency:
    """The integral over time of the number of running attempts.

    Args:
        now: Monotonic seconds.
    """

    __slots__ = ("_area", "_at", "_running")

    def __init__(self, now: float) -> None:
        self._area = 0.0
        self._at = now
        self._running = 0

    def set_running(self, running: int, now: float) -> None:
        """From now on so many run."""
        if now > self._at:
            self._area += self._running * (now - self._at)
            self._at = now
        self._running = running

    def area(self, now: float) -> float:
        """Attempt-seconds up to now."""
        return self._area + self._running * (now - self._at) if now > self._at else self._area


def mean_co_runners(area_before: float, area_after: float, elapsed_s: float) -> float:
    """Mean number of others that ran during `elapsed_s`, from the integral at its begin and end."""
    if elapsed_s <= 0:
        return 0.0
    return max(0.0, (area_after - area_before) / elapsed_s - 1.0)
