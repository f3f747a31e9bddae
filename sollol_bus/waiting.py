"""Waiting with a deadline, and sending with a bound."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

from sollol_bus.errors import SollolError


async def happens(event: asyncio.Event, within_s: float) -> bool:
    """Whether the event is set, or comes to be within so many seconds."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


def delays(first_s: float, last_s: float, *, rng: random.Random | None = None) -> Iterator[float]:
    """Seconds to wait before each further try, for ever: at first `first_s`, then twice as long up to `last_s`.

    Args:
        first_s: The first wait.
        last_s: The longest.
        rng: Spreads each wait by a quarter, so that many who failed together do not come back together.
    """
    delay_s = first_s
    while True:
        yield delay_s if rng is None else delay_s * rng.uniform(0.75, 1.25)
        delay_s = min(last_s, 2.0 * delay_s)


class Window:
    """A bounded number of things that are on their way at once; the first error of any ends the sending.

    Args:
        places: How many may be on their way.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._open = 0
        self._error: SollolError | None = None
        self._news = asyncio.Event()

    async def enter(self) -> None:
        """Takes a place, once there is one; give it back with `leave`.

        Raises:
            SollolError: What went wrong with an earlier one.
        """
        await self._until_open_below(self._places)
        self._open += 1

    def leave(self, error: SollolError | None = None) -> None:
        """Gives a place back: its thing arrived, or met an error."""
        self._open -= 1
        self._error = self._error or error
        self._news.set()

    async def finish(self) -> None:
        """Returns when nothing is on its way any more.

        Raises:
            SollolError: What went wrong first.
        """
        await self._until_open_below(1)

    async def _until_open_below(self, limit: int) -> None:
        while self._open >= limit:
            self._news.clear()
            await self._news.wait()
        if self._error is not None:
            raise self._error
