"""Virtual time: a clock that jumps from event to event."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timer:
    """A call that will be made; `cancel` forgets it."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """The call will not be made."""
        self.action = None


class VirtualTime:
    """Makes calls in the order of their instants; equal instants in the order of their making."""

    def __init__(self) -> None:
        self.now = 0.0
        self._calls: list[tuple[float, int, Timer]] = []
        self._made = 0

    def at(self, instant: float, action: Callable[[], None]) -> Timer:
        """Calls `action` at `instant`, or now when that has passed."""
        timer = Timer(action)
        self._made += 1
        heapq.heappush(self._calls, (max(instant, self.now), self._made, timer))
        return timer

    def after(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Calls `action` after a delay."""
        return self.at(self.now + delay_s, action)

    def run_while(self, is_wanted: Callable[[], bool]) -> None:
        """Makes calls until none is left or `is_wanted` says no."""
        while self._calls and is_wanted():
            instant, _, timer = heapq.heappop(self._calls)
            if timer.action is not None:
                self.now = instant
                timer.action()
