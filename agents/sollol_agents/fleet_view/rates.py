"""How much happened per second, lately."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_S: Final = 10


class Rate:
    """A sum over the last `WINDOW_S` whole seconds, divided by them; the second that still runs is left out."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: deque[tuple[int, float]] = deque(maxlen=WINDOW_S + 2)

    def add(self, amount: float, now: float) -> None:
        """Counts `amount` at `now` (monotonic seconds)."""
        second = int(now)
        if self._slots and self._slots[-1][0] >= second:
            last, sum_ = self._slots[-1]
            self._slots[-1] = (last, sum_ + amount)
        else:
            self._slots.append((second, amount))

    def per_s(self, now: float) -> float:
        """The mean rate over the window that ends with the last whole second."""
        this = int(now)
        return sum(amount for second, amount in self._slots if this - WINDOW_S <= second < this) / WINDOW_S
