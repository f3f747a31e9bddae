"""The requests that wait for a slot, in an order that needs no re-sorting while they age.

A request's rank is `priority + waited / 60 s - size`. All waiting requests gain rank at the same pace, so the
order of any two never changes and follows from a static key: `enqueued - 60 s * (priority - size)`; ties go
to the older, then to the earlier sequence number. Priority 0 stands apart: it does not age, and its turn
comes only when nothing else waits. Everything is bounded per priority level.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Iterator
from itertools import islice

from sollol_agents.scorer.choice.waiting import ClassKey, Key, Waiting

_LEVELS = 11


class Queue:
    """All waiting requests: by id, by eligibility class, and in order."""

    def __init__(self, *, ageing_s: float = 60.0, limit: int = 512) -> None:
        self._ageing_s = ageing_s
        self._limit = limit
        self._by_id: dict[str, Waiting] = {}
        self._classes: dict[ClassKey, list[tuple[Key, Waiting]]] = {}
        self._idle: list[tuple[Key, Waiting]] = []
        self._levels = [0] * _LEVELS
        self._deadlines: list[tuple[float, int, str]] = []
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_id

    def __iter__(self) -> Iterator[Waiting]:
        return iter(list(self._by_id.values()))

    def next_number(self) -> int:
        """A number greater than that of every request that came before; it settles ties."""
        return next(self._numbers)

    def get(self, request_id: str) -> Waiting | None:
        """The waiting request with this id, or None."""
        return self._by_id.get(request_id)

    def is_full(self, priority: int) -> bool:
        """Whether this priority's level takes no more."""
        return self._levels[priority] >= self._limit

    @property
    def class_count(self) -> int:
        """In how many classes something waits, priority 0 aside."""
        return len(self._classes)

    def one_of_each_class(self) -> list[Waiting]:
        """The first request of every class in which something waits."""
        firsts = {key: row[0][1] for key, row in self._classes.items()}
        for _, waiting in self._idle:
            firsts.setdefault(waiting.class_key, waiting)
        return list(firsts.values())

    def of_class(self, key: ClassKey) -> list[Waiting]:
        """Everything of one class, in order."""
        return [w for _, w in self._classes.get(key, ())] + [w for _, w in self._idle if w.class_key == key]

    def add(self, waiting: Waiting) -> None:
        """Puts a request in its place; its id must not be waiting already."""
        assert waiting.request_id not in self._by_id, waiting.request_id
        self.place(waiting)
        self._by_id[waiting.request_id] = waiting
        self._levels[waiting.priority] += 1
        row = self._idle if waiting.priority == 0 else self._classes.setdefault(waiting.class_key, [])
        bisect.insort(row, (waiting.key, waiting), key=_by_key)
        heapq.heappush(self._deadlines, (waiting.deadline_at, waiting.sequence, waiting.request_id))

    def place(self, waiting: Waiting) -> None:
        """Works out the request's place in the order, without adding it."""
        waiting.key = self._key(waiting)

    def remove(self, request_id: str) -> Waiting | None:
        """Takes a request out; None when it does not wait."""
        waiting = self._by_id.pop(request_id, None)
        if waiting is None:
            return None
        self._levels[waiting.priority] -= 1
        row = self._row(waiting)
        del row[bisect.bisect_left(row, waiting.key, key=_by_key)]
        if not row and waiting.priority > 0:
            del self._classes[waiting.class_key]
        return waiting

    def ordered(self, window: int) -> Iterator[Waiting]:
        """The first `window` requests of every class, in order; priority 0 only when nothing else waits."""
        rows = [list(islice(row, window)) for row in self._classes.values()]
        if rows:
            return (w for _, w in heapq.merge(*rows, key=_by_key))
        return (w for _, w in list(islice(self._idle, window)))

    def position(self, waiting: Waiting) -> int:
        """How many waiting requests come before this one."""
        if waiting.priority == 0:
            before = bisect.bisect_left(self._idle, waiting.key, key=_by_key)
            return before + sum(len(row) for row in self._classes.values())
        return sum(bisect.bisect_left(row, waiting.key, key=_by_key) for row in self._classes.values())

    def ahead_in_class(self, waiting: Waiting) -> int:
        """How many requests of the same class come before this one."""
        return bisect.bisect_left(self._row(waiting), waiting.key, key=_by_key)

    def work_ahead_s(self, waiting: Waiting) -> float:
        """Work of the requests of the same class that come before this one, each on its fastest node."""
        ahead = islice(self._row(waiting), self.ahead_in_class(waiting))
        return sum(w.best_work_s for _, w in ahead)

    def overdue(self, now: float) -> list[Waiting]:
        """Requests whose deadline has passed; they are still waiting."""
        late = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, sequence, request_id = heapq.heappop(self._deadlines)
            waiting = self._by_id.get(request_id)
            if waiting is not None and waiting.sequence == sequence:
                late.append(waiting)
        if len(self._deadlines) > 64 + 4 * len(self._by_id):
            self._deadlines = [(w.deadline_at, w.sequence, w.request_id) for w in self._by_id.values()]
            heapq.heapify(self._deadlines)
        return late

    def _row(self, waiting: Waiting) -> list[tuple[Key, Waiting]]:
        return self._idle if waiting.priority == 0 else self._classes.get(waiting.class_key, [])

    def _key(self, waiting: Waiting) -> Key:
        levels = 0.0 if waiting.priority == 0 else waiting.priority - waiting.size_levels
        return (waiting.enqueued_at - self._ageing_s * levels, waiting.enqueued_at, waiting.sequence)


def _by_key(item: tuple[Key, Waiting]) -> Key:
    return item[0]
