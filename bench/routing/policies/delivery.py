"""What lies between a caller and the scorer: the queue of jobs with the dispatcher's window, and the way of a question.

A dispatcher takes so many jobs of each priority ahead of their slots. Their questions reach the scorer one after
another, because it works out a plan for each; in a burst the last of them arrive late.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable

from bench.routing.virtual import VirtualTime

_FETCH_S = 0.002  # from a free place in the window to the next job
_WAY_S = 0.0005
_PLANNING_S = 0.001


class JobWindow:
    """Jobs as they were stored; so many of each priority are taken ahead, and those that began count no more."""

    def __init__(self, time: VirtualTime, size: int, take: Callable[[str], None]) -> None:
        self._time = time
        self._size = size
        self._take = take
        self._stored: dict[int, deque[str]] = defaultdict(deque)
        self._taken: dict[int, int] = defaultdict(int)

    def store(self, job_id: str, priority: int) -> None:
        """A job comes; it is taken at once when the window has a place."""
        self._stored[priority].append(job_id)
        self._fill(priority)

    def behind(self, priority: int) -> int:
        """Jobs of a priority that nobody has taken yet."""
        return len(self._stored[priority])

    def began(self, priority: int) -> None:
        """A node works on one that was taken."""
        self._taken[priority] -= 1
        self._fill(priority)

    def _fill(self, priority: int) -> None:
        while self._stored[priority] and self._taken[priority] < self._size:
            self._taken[priority] += 1
            job_id = self._stored[priority].popleft()
            self._time.after(_FETCH_S, lambda job_id=job_id: self._take(job_id))  # type: ignore[misc]


class Way:
    """Questions on their way to the scorer, which answers one at a time."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self._busy_until = 0.0

    def deliver(self, ask: Callable[[], None]) -> None:
        """Asks once the question has come and those before it are answered."""
        self._busy_until = max(self._time.now + _WAY_S, self._busy_until) + _PLANNING_S
        self._time.at(self._busy_until, ask)
