"""Waiting with a deadline."""

from __future__ import annotations

import asyncio


async def happens(event: asyncio.Event, within_s: float) -> bool:
    """Whether the event is set, or comes to be within so many seconds."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
