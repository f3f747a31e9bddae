"""What an actor is made of: the parts that it opens and closes, and the tasks that live no longer than it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Protocol, Self


class Part:
    """Something that an actor opens and closes, by `Actor.own`; others do with `async with`."""

    async def start(self) -> None:
        """Opens it; what raises here has closed again what it opened."""

    async def close(self) -> None:
        """Closes it; called once, after a start that succeeded. The bus may be down."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Spawn(Protocol):
    """Runs a coroutine as a task of the actor; `Actor.spawn` is one. A task that fails stops the actor."""

    def __call__(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """The task, running."""
