"""Tasks that serve one thing after another: to make a task for each attempt costs more than to take its exec in."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from sollol_bus.parts import Spawn

T = TypeVar("T")
_IDLE_MAX: Final = 64


class Workers(Generic[T]):
    """Serves each thing at once, in a task that has nothing to do or in a new one.

    Args:
        spawn: Runs a coroutine as a task of the actor.
        serve: Serves one; what it raises ends its task, as any error of a task of the actor does.
        name: Of the tasks; they are numbered.
    """

    def __init__(self, spawn: Spawn, serve: Callable[[T], Awaitable[None]], name: str) -> None:
        self._spawn = spawn
        self._serve = serve
        self._name = name
        self._numbers = itertools.count(1)
        self._idle: list[asyncio.Future[T]] = []

    def take(self, item: T) -> None:
        """Begins to serve it at the next turn of the loop."""
        while self._idle:
            waiting = self._idle.pop()
            if not waiting.done():  # its task was not cancelled meanwhile
                waiting.set_result(item)
                return
        self._spawn(self._work(item), name=f"{self._name}.{next(self._numbers)}")

    async def _work(self, item: T) -> None:
        """Ends with the first thing of which it is torn: whoever did that may have meant the task."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        while True:
            await self._serve(item)
            del item  # what was served may be large, and the next thing far
            if (task is not None and task.cancelling()) or len(self._idle) >= _IDLE_MAX:
                return
            waiting: asyncio.Future[T] = loop.create_future()
            self._idle.append(waiting)
            item = await waiting
