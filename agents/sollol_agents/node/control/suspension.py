"""Notices that this process did not run for a while: soon while something runs here, else with the next heartbeat."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

from sollol_bus.waiting import happens

_TICK_S: Final = 0.25
SUSPENDED_S: Final = 1.0
"""A wait that ends so much late was one in which the process did not run."""


class Suspension:
    """Two clocks: one that ticks while attempts run, and whoever waits for something else anyway.

    Args:
        is_busy: Whether an attempt runs.
        on_suspended: Called with the seconds in which this process may not have run.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        is_busy: Callable[[], bool],
        on_suspended: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_busy = is_busy
        self._on_suspended = on_suspended
        self._clock = clock
        self._is_ticking = asyncio.Event()
        self._began = 0.0
        """When work did, or the present tick."""
        self._noticed_at = -math.inf

    def note_work(self) -> None:
        """An attempt began, or ended."""
        if not self._is_ticking.is_set() and self._is_busy():
            self._began = self._clock()
            self._is_ticking.set()

    async def run(self) -> None:
        """Ticks four times a second while attempts run, for ever: only they hold what a pause makes worthless."""
        while True:
            await self._is_ticking.wait()
            while self._is_busy():
                await asyncio.sleep(_TICK_S)
                self._look(self._began, _TICK_S)
                self._began = self._clock()
            self._is_ticking.clear()

    async def happens(self, event: asyncio.Event, within_s: float) -> bool:
        """Whether the event comes to be set within so many seconds; a wait that was too long for that is noticed."""
        began = self._clock()
        is_set = await happens(event, within_s)
        self._look(began, within_s)
        return is_set

    def _look(self, began: float, due_s: float) -> None:
        """Judges a wait that is over; both clocks may have met the same pause."""
        now = self._clock()
        if now - began > due_s + SUSPENDED_S and began >= self._noticed_at:
            self._noticed_at = now
            self._on_suspended(now - began)
