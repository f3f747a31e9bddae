"""The server's clock, as far as the age of stored messages needs it."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.jetstream.stored import stream_info
from sollol_bus.transport.connection import Bus
from sollol_schemas.instants import InvalidInstant, parse_instant

log = logging.getLogger(__name__)

_EVERY_S = 60.0
_RETRY_S = 2.0


class ServerClock:
    """Unix time by the clock of the NATS server, which stamps every stored message.

    Dispatchers on machines whose clocks differ then agree on the age of a job to within half a round trip.
    """

    def __init__(self, bus: Bus, stream: str) -> None:
        self._bus = bus
        self._stream = stream
        self.ahead_s = 0.0
        """Seconds that the server's clock is ahead of ours."""

    def now_unix(self) -> float:
        """Seconds of Unix time by the server's clock."""
        return datetime.now(UTC).timestamp() + self.ahead_s

    async def run(self) -> None:
        """Keeps comparing the clocks until cancelled."""
        while True:
            try:
                await self.compare()
            except BusError as error:
                log.debug("comparing clocks: %s", error)
                await asyncio.sleep(_RETRY_S)
            else:
                await asyncio.sleep(_EVERY_S)

    async def compare(self) -> None:
        """Compares the clocks once.

        Raises:
            BusError: The server does not answer, or does not tell its time.
        """
        before = datetime.now(UTC).timestamp()
        info = await stream_info(self._bus, self._stream)
        after = datetime.now(UTC).timestamp()
        try:
            told = parse_instant(_to_micros(info.ts))
        except InvalidInstant as error:
            raise DecodeFailed(f"the server's time: {error}") from error
        self.ahead_s = told - (before + after) / 2


def _to_micros(text: str) -> str:
    """An instant with nanoseconds, cut to what the standard library reads."""
    whole, dot, rest = text.partition(".")
    digits = rest.rstrip("Z")
    return f"{whole}{dot}{digits[:6].ljust(6, '0')}+00:00" if dot else text
