"""Lines that come again and again: the first are shown, the others counted. Pure; times are the caller's."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

FIRST: Final = 20
"""So many lines of one event are shown in an interval."""
EVERY_S: Final = 60.0
"""An interval."""
_EVENTS_MAX: Final = 1000

T = TypeVar("T")


class Count(NamedTuple, Generic[T]):
    """How often an event came in an interval without being shown, and the last line of it."""

    line: T
    times: int


class _Event(Generic[T]):
    __slots__ = ("began_at", "hidden", "is_frequent", "last", "shown")

    def __init__(self, now: float, *, is_frequent: bool = False) -> None:
        self.began_at = now
        self.is_frequent = is_frequent
        self.shown = self.hidden = 0
        self.last: T | None = None


class Repeats(Generic[T]):
    """Decides which lines are shown.

    Of each event `FIRST` lines are shown in an interval. Once there were more, none is shown but one at the end of
    each interval, with how often it came, until an interval passes without any.
    """

    def __init__(self) -> None:
        self._events: dict[Hashable, _Event[T]] = {}
        self._next_end = float("inf")

    def is_shown(self, event: Hashable, line: T, now: float) -> bool:
        """Whether this line of an event is shown; call `ended` before."""
        known = self._events.get(event)
        if known is None:
            if len(self._events) >= _EVENTS_MAX:
                return True  # more events than a program has: they are not the same ones again
            known = self._events[event] = _Event(now)
            self._next_end = min(self._next_end, now + EVERY_S)
        if not known.is_frequent and known.shown < FIRST:
            known.shown += 1
            return True
        known.hidden, known.last = known.hidden + 1, line
        return False

    def ended(self, now: float) -> Iterator[Count[T]]:
        """What was not shown in intervals that are over by now."""
        if now < self._next_end:
            return
        over = {name: event for name, event in self._events.items() if now >= event.began_at + EVERY_S}
        for name, event in over.items():
            del self._events[name]
            if event.last is not None:
                self._events[name] = _Event(now, is_frequent=True)
                yield Count(event.last, event.hidden)
        self._next_end = min((event.began_at + EVERY_S for event in self._events.values()), default=float("inf"))

    def rest(self) -> Iterator[Count[T]]:
        """What was not shown and not counted yet; at the end of a program."""
        for event in self._events.values():
            if event.last is not None:
                yield Count(event.last, event.hidden)
        self._events.clear()
