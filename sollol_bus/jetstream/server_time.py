"""Keeps an actor's clock by that of the NATS server, and says so when the machine's own is wrong."""

from __future__ import annotations

import asyncio
import logging

from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.jetstream.stored import stream_info
from sollol_bus.parts import Part, Spawn
from sollol_bus.transport.clock import OFF_S, far
from sollol_bus.transport.connection import Bus
from sollol_schemas import stores
from sollol_schemas.instants import InvalidInstant, parse_instant

log = logging.getLogger(__name__)

_EVERY_S = 60.0
_RETRY_S = 2.0
_ANSWER_S = 2.0


class ServerTime(Part):
    """Compares `bus.clock` with the server's clock, at the start and every minute.

    Where the server does not tell its time (JetStream is off), the machine's own clock stays in use.

    Args:
        bus: The actor's connection, with the control role.
        spawn: Runs a coroutine as a task of the actor.
        stream: The stream whose leader is asked.
    """

    def __init__(self, bus: Bus, spawn: Spawn, stream: str = stores.EVENTS_STREAM) -> None:
        self._bus = bus
        self._spawn = spawn
        self._stream = stream
        self._told_ahead_s = 0.0

    async def start(self) -> None:
        """Compares the clocks, if the server answers, and keeps doing so."""
        await self._attempt()
        self._spawn(self.run(), name="clock")

    async def run(self) -> None:
        """Keeps comparing the clocks until cancelled."""
        while True:
            pause_s = _EVERY_S if await self._attempt() else _RETRY_S
            await asyncio.sleep(pause_s)

    async def _attempt(self) -> bool:
        try:
            await self.compare()
        except BusError as error:
            log.debug("comparing clocks: %s", error)
            return False
        return True

    async def compare(self) -> None:
        """Compares the clocks once.

        Raises:
            BusError: The server does not answer, or does not tell its time.
        """
        clock = self._bus.clock
        asked_at = clock.steady()
        info = await stream_info(self._bus, self._stream, timeout_s=_ANSWER_S)
        answered_at = clock.steady()
        try:
            told = parse_instant(info.ts)
        except InvalidInstant as error:
            raise DecodeFailed(f"the server's time: {error}") from error
        went_s = clock.heard(told, asked_at=asked_at, answered_at=answered_at)
        if abs(went_s) > OFF_S:
            log.warning(
                "the NATS server's clock is now %s what it was",
                far(went_s),
                extra={"action": "server_clock_set", "ahead_s": round(went_s, 3)},
            )
        self._tell(clock.ahead_s)

    def _tell(self, ahead_s: float) -> None:
        """Says once that the machine's clock is wrong, again when it is differently wrong, and when it is right."""
        is_off = abs(ahead_s) > OFF_S
        if is_off and abs(ahead_s - self._told_ahead_s) > OFF_S:
            log.warning(
                "this machine's clock is %s the NATS server's, which is gone by; synchronise it (NTP)",
                far(ahead_s),
                extra={"action": "clock_off", "ahead_s": round(ahead_s, 3)},
            )
        elif not is_off and self._told_ahead_s:
            log.info("this machine's clock is right again", extra={"action": "clock_right"})
        else:
            return
        self._told_ahead_s = ahead_s if is_off else 0.0
