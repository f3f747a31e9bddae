"""Every reply to a request."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg
from sollol_bus.transport.streaming import ReplyStream


async def request_many(
    bus: Bus,
    subject: str,
    payload: bytes = b"",
    *,
    headers: dict[str, str] | None = None,
    first_s: float = 30.0,
    gap_s: float = 30.0,
    total_s: float = 600.0,
) -> AsyncGenerator[Msg, None]:
    """Every reply to a request until the empty message; see `ReplyStream` for the errors."""
    async with ReplyStream(bus, first_s=first_s, gap_s=gap_s, total_s=total_s) as stream:
        stream.send(subject, payload, headers)
        async for msg in stream:
            yield msg
