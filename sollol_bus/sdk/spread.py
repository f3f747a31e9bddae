"""Many requests at once, in a bounded window, each with its own error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from sollol_bus.errors import SollolError

T = TypeVar("T")


async def spread(makers: Iterable[Callable[[], Awaitable[T]]], *, at_once: int) -> list[T | SollolError]:
    """What each of the makers gave, in their order; an error of the fleet stands in the place of its item.

    Args:
        makers: Each starts one request.
        at_once: Requests in flight at most; the fleet queues what its nodes cannot take yet.
    """
    results: list[T | SollolError | None] = []
    remaining = enumerate(makers)

    async def work() -> None:
        for index, make in remaining:
            results.extend([None] * (index + 1 - len(results)))
            try:
                results[index] = await make()
            except SollolError as error:
                results[index] = error

    async with asyncio.TaskGroup() as group:
        for _ in range(max(1, at_once)):
            group.create_task(work())
    return [result for result in results if result is not None]
