"""While no scorer is in office, one question at a time for all requests that wait.

A request that asks for a slot and meets nobody is parked here. The oldest of the parked asks again, after pauses that
double; as soon as a scorer says anything, or one takes office, all ask once, some at a time, so that neither an
absence nor its end floods the bus.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Protocol

from sollol_bus.jetstream.vacancy import nobody, why_vacant
from sollol_bus.transport.connection import Bus
from sollol_schemas import stores

_FIRST_PAUSE_S = 0.1
_LAST_PAUSE_S = 1.0
_AT_ONCE = 64
_EVERY_S = 0.02


class Waiter(Protocol):
    """A request that waits for a slot."""

    def ask_for_slot(self) -> None:
        """Asks the scorer."""

    def on_no_scorer(self, why: str) -> None:
        """No scorer was in office for longer than a request waits for one."""


class ScorerWatch:
    """Knows whether a scorer answers, and who waits for one.

    Args:
        bus: The connection.
        patience_s: So long a request waits for a scorer.
    """

    def __init__(self, bus: Bus, *, patience_s: float) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._patience_s = patience_s
        self._parked: dict[Waiter, float] = {}
        self._due: dict[Waiter, None] = {}
        self._instead: Callable[[], object] | None = None
        self._pause_s = _FIRST_PAUSE_S
        self.why = nobody(stores.SCORER_LEASE)
        """Why no scorer answers, as far as was found out."""
        self._asking: asyncio.Task[None] | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self._due_timer: asyncio.TimerHandle | None = None

    def ask(self, waiter: Waiter) -> None:
        """Lets a request ask now, or as soon as a scorer is there."""
        if self._instead is not None:
            self._instead()
        elif self._parked:
            self.park(waiter)
        else:
            waiter.ask_for_slot()

    def ask_all(self, waiters: Iterable[Waiter]) -> None:
        """Lets requests ask, some at a time."""
        if self._instead is not None:
            self._instead()
            return
        self._due |= dict.fromkeys(waiters)
        if self._due_timer is None:
            self._ask_some()

    def divert(self, instead: Callable[[], object]) -> None:
        """Lets nobody ask from now on; `instead` is called whenever somebody would."""
        self._instead = instead

    def park(self, waiter: Waiter) -> None:
        """Keeps a request that met no scorer until there is one."""
        self._parked.setdefault(waiter, self._loop.time())
        if self._probe_timer is None:
            self._pause_s = _FIRST_PAUSE_S
            self._probe_timer = self._loop.call_later(self._pause_s, self._probe)

    def heard(self) -> None:
        """A scorer is in office: whoever was parked asks."""
        if self._parked:
            parked, self._parked = self._parked, {}
            self.ask_all(parked)

    def forget(self, waiter: Waiter) -> None:
        """A request waits no more."""
        self._parked.pop(waiter, None)
        self._due.pop(waiter, None)

    async def close(self) -> None:
        """Ends all asking."""
        self._parked.clear()
        self._due.clear()
        for timer in (self._probe_timer, self._due_timer):
            if timer is not None:
                timer.cancel()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    def _probe(self) -> None:
        self._probe_timer = None
        now = self._loop.time()
        if self._bus.is_settling or not self._bus.is_connected:  # others are still coming back
            self._parked = dict.fromkeys(self._parked, now)
        for waiter, since in list(self._parked.items()):
            if now - since > self._patience_s:
                del self._parked[waiter]
                waiter.on_no_scorer(f"{self.why}; so since {now - since:.0f} s")
        if self._parked:
            if self._asking is None or self._asking.done():
                self._asking = self._loop.create_task(self._find_out(), name="why no scorer")  # `close` ends it
            self._pause_s = min(_LAST_PAUSE_S, 2 * self._pause_s)
            self._probe_timer = self._loop.call_later(self._pause_s, self._probe)
            next(iter(self._parked)).ask_for_slot()

    async def _find_out(self) -> None:
        self.why = await why_vacant(self._bus, stores.SCORER_LEASE)

    def _ask_some(self) -> None:
        for waiter in list(islice(self._due, _AT_ONCE)):
            del self._due[waiter]
            waiter.ask_for_slot()
        self._due_timer = self._loop.call_later(_EVERY_S, self._ask_some) if self._due else None
