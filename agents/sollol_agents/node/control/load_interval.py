"""How often a node tells its load: at once, but no more than 20 times a second."""

from __future__ import annotations

from typing import Final

LEAST_INTERVAL_S: Final = 0.05


class LoadInterval:
    """Spaces messages without losing the last change: a change is told at once, or when the interval has passed."""

    __slots__ = ("_is_pending", "_last_at")

    def __init__(self) -> None:
        self._last_at = float("-inf")
        self._is_pending = False

    def changed(self, now: float) -> float | None:
        """Seconds until the change shall be told: 0 is now, None that a message is planned already.

        Whoever gets a number calls `sent` after so many seconds.
        """
        if self._is_pending:
            return None
        left = self._last_at + LEAST_INTERVAL_S - now
        self._is_pending = True
        return max(0.0, left)

    def sent(self, now: float) -> None:
        """A message with everything that changed so far leaves now."""
        self._is_pending = False
        self._last_at = now
