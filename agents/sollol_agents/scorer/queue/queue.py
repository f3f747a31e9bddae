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
from collections.abc import Iterable, Iterator
from itertools import chain

from sollol_agents.scorer.choice.waiting import ClassKey, Key, Waiting
from sollol_agents.scorer.queue.beliefs import Beliefs

_LEVELS = 11


class Line:
    """The waiting requests of one class in order, with sums over all of them."""

    __slots__ = ("_row", "behind", "jobs", "output_tokens", "prompt_tokens", "work_s")

    def __init__(self) -> None:
        self._row: list[tuple[Key, Waiting]] = []
        self.prompt_tokens = 0
        self.output_tokens = 0.0
        self.work_s = 0.0
        """Work of every request on the node that is fastest for it."""
        self.jobs: dict[int, int] = {}
        """Jobs in it, by priority."""
        self.behind = 0.0
        """Requests like these that wait elsewhere and come as soon as these go: jobs of the stream."""

    def __len__(self) -> int:
        return len(self._row)

    def __iter__(self) -> Iterator[Waiting]:
        return (w for _, w in self._row)

    @property
    def first(self) -> Waiting:
        """The one whose turn is next; there must be one."""
        return self._row[0][1]

    def head(self, count: int) -> list[tuple[Key, Waiting]]:
        """The first so many, with what they are ordered by."""
        return self._row[:count]

    def beyond(self, count: int, most: int) -> list[Waiting]:
        """The next `most` requests after the first `count`."""
        return [w for _, w in self._row[count : count + most]]

    def place_of(self, waiting: Waiting) -> int:
        """How many come before this one."""
        return bisect.bisect_left(self._row, waiting.key, key=_by_key)

    def insert(self, waiting: Waiting) -> None:
        """Puts a request into its place."""
        bisect.insort(self._row, (waiting.key, waiting), key=_by_key)
        self._count(waiting, 1)

    def remove(self, waiting: Waiting) -> None:
        """Takes a request out. Others may have its very key: two takes of one job were born at the same instant."""
        place = self.place_of(waiting)
        while self._row[place][1] is not waiting:
            place += 1
        del self._row[place]
        self._count(waiting, -1)

    def _count(self, waiting: Waiting, sign: int) -> None:
        self.prompt_tokens += sign * waiting.request.context.prompt_tokens
        self.output_tokens += sign * waiting.output_mean
        self.work_s += sign * waiting.best_work_s
        if waiting.request.context.job_id:
            self.jobs[waiting.priority] = self.jobs.get(waiting.priority, 0) + sign


class Queue:
    """All waiting requests: by id, by eligibility class, and in order."""

    def __init__(self, *, ageing_s: float = 60.0, limit: int = 512) -> None:
        self._ageing_s = ageing_s
        self._limit = limit
        self.beliefs = Beliefs()
        self._by_id: dict[str, Waiting] = {}
        self._lines: dict[ClassKey, Line] = {}
        self._idle = Line()
        self._levels = [0] * _LEVELS
        self._jobs = [0] * _LEVELS
        self._behind = [0] * _LEVELS
        """Jobs of each priority that wait in the stream behind those here, as far as the latest of these told."""
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

    def lines(self) -> list[Line]:
        """What waits, one line for each class; priority 0, in one line, only when nothing else waits."""
        self._spread_jobs()
        return list(self._lines.values()) or ([self._idle] if self._idle else [])

    def _spread_jobs(self) -> None:
        """Counts the jobs that wait in the stream to the lines in which jobs of their priority wait already."""
        for line in self._lines.values():
            line.behind = sum(self._behind[p] * n / self._jobs[p] for p, n in line.jobs.items() if n)

    def one_of_each_class(self) -> list[Waiting]:
        """The first request of every class in which something waits."""
        firsts = {key: line.first for key, line in self._lines.items()}
        for waiting in self._idle:
            firsts.setdefault(waiting.class_key, waiting)
        return list(firsts.values())

    def of_class(self, key: ClassKey) -> list[Waiting]:
        """Everything of one class, in order."""
        return [*self._lines.get(key, ()), *(w for w in self._idle if w.class_key == key)]

    def add(self, waiting: Waiting) -> None:
        """Puts a request in its place; its id must not be waiting already."""
        self.beliefs.add(waiting)
        assert waiting.request_id not in self._by_id, waiting.request_id
        self._by_id[waiting.request_id] = waiting
        self._levels[waiting.priority] += 1
        if waiting.request.context.job_id:
            self._jobs[waiting.priority] += 1
            self._behind[waiting.priority] = waiting.request.behind
        self.put_in(waiting)
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
        self._jobs[waiting.priority] -= bool(waiting.request.context.job_id)
        self.take_out(waiting)
        self.beliefs.remove(waiting)
        return waiting

    def put_in(self, waiting: Waiting) -> None:
        """Puts a request into its place in its line."""
        self.place(waiting)
        line = self._idle if waiting.priority == 0 else self._lines.setdefault(waiting.class_key, Line())
        line.insert(waiting)

    def take_out(self, waiting: Waiting) -> None:
        """Takes a request out of its line for a moment: what its place depends on may change now."""
        line = self._line(waiting)
        line.remove(waiting)
        if not line and waiting.priority > 0:
            del self._lines[waiting.class_key]

    def position(self, waiting: Waiting) -> int:
        """How many waiting requests come before this one."""
        if waiting.priority == 0:
            return self._idle.place_of(waiting) + sum(len(line) for line in self._lines.values())
        return sum(line.place_of(waiting) for line in self._lines.values())

    def is_among_first(self, waiting: Waiting, count: int) -> bool:
        """Whether fewer than `count` requests of its line come before this one."""
        return self._line(waiting).place_of(waiting) < count

    def work_ahead_s(self, waiting: Waiting) -> float:
        """Work of the requests of the same class that come before this one, at the mean of its class."""
        line = self._line(waiting)
        return line.place_of(waiting) * line.work_s / max(1, len(line))

    def overdue(self, now: float) -> list[Waiting]:
        """Requests whose deadline has passed; they are still waiting."""
        late: dict[str, Waiting] = {}
        while self._deadlines and self._deadlines[0][0] <= now:
            _, sequence, request_id = heapq.heappop(self._deadlines)
            waiting = self._by_id.get(request_id)
            if waiting is not None and waiting.sequence == sequence:
                late[request_id] = waiting  # one that was put in again has two entries
        if len(self._deadlines) > 64 + 4 * len(self._by_id):
            self._deadlines = [(w.deadline_at, w.sequence, w.request_id) for w in self._by_id.values()]
            heapq.heapify(self._deadlines)
        return list(late.values())

    def _line(self, waiting: Waiting) -> Line:
        return self._idle if waiting.priority == 0 else self._lines.get(waiting.class_key) or Line()

    def _key(self, waiting: Waiting) -> Key:
        return key_of(waiting, self._ageing_s)


def key_of(waiting: Waiting, ageing_s: float) -> Key:
    """What a request is ordered by."""
    levels = 0.0 if waiting.priority == 0 else waiting.priority - waiting.size_levels
    return (waiting.enqueued_at - ageing_s * levels, waiting.enqueued_at, waiting.sequence)


def _by_key(item: tuple[Key, Waiting]) -> Key:
    return item[0]


def merged(lines: Iterable[Line], window: int) -> list[Waiting]:
    """The first `window` requests of every line, in the order of all."""
    heads = [line.head(window) for line in lines]
    return [w for _, w in (heapq.merge(*heads, key=_by_key) if len(heads) > 1 else chain(*heads))]
