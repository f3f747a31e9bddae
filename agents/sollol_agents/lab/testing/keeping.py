"""What a dispatcher keeps for nodes, without the rest of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from sollol_agents.dispatcher.keeping import Keeping
from sollol_bus.transport.connection import Bus


class Owner:
    """Owns tasks in an actor's place."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def names(self) -> list[str]:
        """What it was given, in order."""
        return [task.get_name() for task in self._tasks]

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Runs a coroutine."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.append(task)
        return task

    def check(self) -> None:
        """Raises what the first task that failed raised."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()


@asynccontextmanager
async def kept_by(bus: Bus, owner: Owner | None = None) -> AsyncIterator[Keeping]:
    """Keeps on a connection; raises at its end what a task of it raised."""
    owner = owner or Owner()
    async with Keeping(bus, owner.spawn) as part:
        await bus.flush()
        yield part
    owner.check()
