"""Requests that their dispatcher gave up and another one will ask for: their places in the queue are kept.

What leaves one dispatcher comes to another within milliseconds, or once one has started again; meanwhile what stands
behind it would pass it. So it stays in the queue and in the plan, and starts nowhere: the slot that it would get is
kept free for it. While others wait that costs two seconds at most, then all such places are lost; and nobody's place
is kept for more than half a minute.
"""

from __future__ import annotations

from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.queue.queue import Queue
from sollol_schemas.grant import JOBS_CLOCK, GrantRequest

_WITHHELD_S = 2.0
"""So long a slot stays free for a request that is away, while others wait."""
_KEPT_S = 30.0
"""Whoever restarts is back within so long."""


class Away:
    """The requests in a queue that are away."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._until: dict[str, float] = {}
        self._jobs: dict[int, str] = {}
        """Request ids by the job's number in its stream: whoever takes a job asks for it under an id of its own."""
        self._withheld_since: float | None = None

    def keep(self, waiting: Waiting, now: float) -> None:
        """Its dispatcher left, while it waited or before it heard that it may start."""
        waiting.is_away = True
        if waiting.request_id not in self._queue:
            self._queue.add(waiting)
        self._until[waiting.request_id] = now + _KEPT_S
        birth = waiting.request.birth
        if birth is not None and birth.clock == JOBS_CLOCK:
            self._jobs[birth.number] = waiting.request_id

    def back(self, request: GrantRequest) -> Waiting | None:
        """What was kept for a job that is asked for again under another id; it waits no more."""
        birth = request.birth
        if birth is None or birth.clock != JOBS_CLOCK or birth.number not in self._jobs:
            return None
        kept = self._queue.get(self._jobs.pop(birth.number))
        return self._queue.remove(kept.request_id) if kept is not None and kept.is_away else None

    def lose(self, now: float, *, is_withheld: bool) -> bool:
        """Gives up places that were kept for too long; returns whether there were any.

        Args:
            now: The present instant.
            is_withheld: Whether a slot stays free for one of them.
        """
        if not self._until:
            return False
        kept = {w.request_id for w in self._queue if w.is_away}
        if not is_withheld or len(kept) == len(self._queue):
            self._withheld_since = None
        elif self._withheld_since is None:
            self._withheld_since = now
        has_run_out = self._withheld_since is not None and now >= self._withheld_since + _WITHHELD_S
        lost = kept if has_run_out else {k for k in kept if self._until.get(k, now) <= now}
        for request_id in lost:
            self._queue.remove(request_id)
        self._until = {k: until for k, until in self._until.items() if k in kept and k not in lost}
        self._jobs = {number: k for number, k in self._jobs.items() if k in self._until}
        return bool(lost)
