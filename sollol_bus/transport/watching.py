"""Watching a subject: what is published there as an iteration, until the connection is closed for good."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TypeVar

from sollol_bus.errors import NotConnected
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decoded

T = TypeVar("T")

BEHIND_MAX = 10_000
"""A reader that falls further behind loses the oldest."""


async def watch(bus: Bus, subject: str, kind: type[T]) -> AsyncIterator[T]:
    """Every message on a subject from now on; one of another kind is logged and passed over.

    Outages are waited out; what is published meanwhile is missed.

    Raises:
        NotConnected: The connection was closed for good.
    """
    waiting: deque[Msg] = deque(maxlen=BEHIND_MAX)
    news = asyncio.Event()

    def on_message(msg: Msg) -> None:
        waiting.append(msg)
        news.set()

    subscription = bus.subscribe(subject, on_message)
    bus.on_closed(news.set)
    try:
        while True:
            while waiting:
                value = decoded(waiting.popleft(), kind)
                if value is not None:
                    yield value
            if bus.closed.is_set():
                raise NotConnected(f"the connection to the bus is closed: {bus.close_reason or 'by this program'}")
            news.clear()
            await news.wait()
    finally:
        subscription.unsubscribe()
        bus.forget_callbacks(news.set)
