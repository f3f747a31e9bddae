"""How many attempts of a model an engine really runs side by side, where that is fewer than its slots promise.

An attempt that makes no token long after its prompt should have been read, while others of its model stream, waits
inside the engine. When that happened to several attempts and never more than so many streamed at a time, the engine
runs only so many. One more that streams shows the contrary, and now and then the belief is dropped, because only
granting more can test it.
"""

from __future__ import annotations

_STUCK_ATTEMPTS = 4
_PATIENCE = 3.0
_PATIENCE_LEAST_S = 1.0
_BELIEVED_S = 600.0


class Concurrency:
    """What is seen of the attempts of one model on one node."""

    __slots__ = ("_believed_at", "_most", "_stuck", "limit")

    def __init__(self) -> None:
        self.limit = 0
        """Attempts that it runs at a time; 0: nothing speaks against its slots."""
        self._most = 0
        self._stuck: set[str] = set()
        self._believed_at = 0.0

    def observe(self, streaming: int, silent_s: dict[str, float], prompts_s: float, now: float) -> bool:
        """Takes note of what runs; returns whether `limit` changed.

        Args:
            streaming: Attempts that make tokens.
            silent_s: Attempts that made none yet, with the seconds since they began.
            prompts_s: Seconds that the prompts of all that are silent take together.
            now: The present instant.
        """
        before = self.limit
        if streaming > self._most or (self.limit and now - self._believed_at > _BELIEVED_S):
            self._stuck.clear()
            self._most, self.limit = streaming, 0
        patience_s = _PATIENCE_LEAST_S + _PATIENCE * prompts_s
        if 0 < streaming == self._most:
            self._stuck.update(attempt_id for attempt_id, age_s in silent_s.items() if age_s > patience_s)
        if not self.limit and len(self._stuck) >= _STUCK_ATTEMPTS:
            self.limit, self._believed_at = self._most, now
            self._stuck.clear()
        return self.limit != before
