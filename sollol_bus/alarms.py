"""Alarms that hardly ever ring, many with the same delay: each request sets half a dozen, and stops them in time.

A timer of the event loop is put into an order by its instant, and taken out of it. Alarms with one delay are in order
already: here they stand in a line, and the loop has one timer for each line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

_LONGEST_S: Final = 15.0
"""An alarm with a longer delay is a timer of the loop: one that is not stopped keeps those behind it in the line."""


class Stoppable(Protocol):
    """What is still to ring."""

    def cancel(self) -> None:
        """Keeps it from ringing; safe at any time."""


class _Alarm:
    """One alarm."""

    __slots__ = ("act", "args", "due")

    def __init__(self, due: float, act: Callable[..., object] | None, args: tuple[Any, ...]) -> None:
        self.due = due
        self.act = act
        self.args = args

    def cancel(self) -> None:
        self.act = None
        self.args = ()


class Alarms:
    """The alarms of one event loop, or of a part of what runs there.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: dict[float, deque[_Alarm]] = {}

    def __len__(self) -> int:
        """How many stand in lines, some of them stopped."""
        return sum(map(len, self._lines.values()))

    def after(self, delay_s: float, act: Callable[..., object], *args: Any) -> Stoppable:  # noqa: ANN401 passed on
        """Calls `act` once, `delay_s` seconds from now at the earliest; what it raises goes to the loop's handler."""
        if delay_s > _LONGEST_S:
            return self._loop.call_later(delay_s, act, *args)
        alarm = _Alarm(self._loop.time() + delay_s, act, args)
        line = self._lines.get(delay_s)
        if line is None:
            line = self._lines[delay_s] = deque()
            self._loop.call_at(alarm.due, self._ring, delay_s)
        while line and line[0].act is None:
            line.popleft()
        line.append(alarm)
        return alarm

    def _ring(self, delay_s: float) -> None:
        line, now = self._lines[delay_s], self._loop.time()
        while line and (line[0].act is None or line[0].due <= now):
            alarm = line.popleft()
            act, args = alarm.act, alarm.args
            alarm.cancel()
            if act is None:
                continue
            try:
                act(*args)
            except Exception as error:  # noqa: BLE001 as the loop does with its own timers
                self._loop.call_exception_handler({"message": "an alarm failed", "exception": error})
        if line:
            self._loop.call_at(line[0].due, self._ring, delay_s)
        else:
            del self._lines[delay_s]
