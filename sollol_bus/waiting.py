"""Waiting with a deadline, and sending with a bound."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Final, TypeVar

from sollol_bus.errors import SollolError

log = logging.getLogger(__name__)

S = TypeVar("S")
T = TypeVar("T")

_LOOK_AGAIN_S: Final = 0.05


def call_all(callbacks: Iterable[Callable[[], None]]) -> None:
    """Calls each; what one raises is logged and keeps none of the others from being called."""
    for callback in list(callbacks):
        try:
            callback()
        except Exception:
            log.exception("a callback failed", extra={"action": "callback_failed"})


def forget_failure(task: asyncio.Task[None]) -> None:
    """Takes the error of a task for which nobody waits any more."""
    if not task.cancelled():
        task.exception()


async def both(one: Coroutine[Any, Any, S], other: Coroutine[Any, Any, T]) -> tuple[S, T]:
    """What two coroutines return that run at the same time; an error of either is raised, and ends the other."""
    loop = asyncio.get_running_loop()
    first, second = loop.create_task(one, name="both.one"), loop.create_task(other, name="both.other")
    try:
        await asyncio.gather(first, second)
    finally:
        await end([first, second])
    return first.result(), second.result()


async def happens(event: asyncio.Event, within_s: float) -> bool:
    """Whether the event is set, or comes to be within so many seconds."""
    if event.is_set():
        return True
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


async def end(tasks: Iterable[asyncio.Task[Any]], why: str = "", *, in_peace_s: float = 5.0) -> None:
    """Cancels tasks and returns when they have ended, however they did.

    One that is being cancelled may be ending in peace because somebody asked it to, and a second time would tear it
    from that; or it has a deadline that ran out at this moment, survives that, and goes on. So whoever still runs is
    looked at again. After a while it is cancelled once more in any case: before Python 3.12 `asyncio.wait_for` loses a
    cancellation that comes as its future ends.

    Args:
        tasks: To be ended.
        why: Told to them.
        in_peace_s: How long one that was asked to end may take before it is torn from whatever it does.
    """
    pending = set(tasks)
    patient_until = time.monotonic() + in_peace_s
    while pending:
        for task in pending:
            if not task.cancelling() or time.monotonic() >= patient_until:
                task.cancel(why)
        _, pending = await asyncio.wait(pending, timeout=_LOOK_AGAIN_S)


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

    async def enter(self, places: int = 1) -> None:
        """Takes a place, or several for something large, once they are free; give them back with `leave`.

        Raises:
            SollolError: What went wrong with an earlier one.
        """
        await self._until_open_below(max(1, self._places - places + 1))
        self._open += places

    def leave(self, error: SollolError | None = None, places: int = 1) -> None:
        """Gives back what was taken: its thing arrived, or met an error."""
        self._open -= places
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
