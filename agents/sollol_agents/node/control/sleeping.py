"""Lets this machine sleep while nobody needs it.

The node says that it goes only after the scorer in office has agreed, which from then on gives it no work; so nothing
is lost between the last look and the sleep. It says so with its last load message, refuses what may still come, runs
the operator's command, and tells no more. It is there again when the machine was suspended and runs on, when the
command failed, or when somebody wakes it over the bus, for commands that suspend nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final, Protocol

from sollol_agents.node.config import NodeConfig
from sollol_agents.waking import run_command
from sollol_bus.errors import BusError, DecodeFailed, NoResponders
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode, encode
from sollol_bus.waiting import happens
from sollol_schemas import subjects
from sollol_schemas.scaling import SleepReply, SleepRequest

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_ANSWER_S: Final = 5.0
"""Shorter than what a scorer waits for a node that may sleep and does not."""
_ASK_AGAIN_S: Final = 30.0
_SUSPENDED_S: Final = 2.0


class SleepClock:
    """When a node should ask for leave to sleep. Pure."""

    def __init__(self, after_idle_s: float, min_awake_s: float, now: float) -> None:
        self._after_idle_s = after_idle_s
        self._min_awake_s = min_awake_s
        self._awake_since = self._idle_since = now
        self._not_before = now

    def idle_s(self, now: float) -> float:
        """For how long nothing has run."""
        return max(0.0, now - self._idle_since)

    def is_due(self, now: float, *, is_idle: bool) -> bool:
        """Whether it is idle, and awake, for long enough; to be asked about once a second."""
        if not is_idle:
            self._idle_since = now
            return False
        is_long = self.idle_s(now) >= self._after_idle_s > 0
        return is_long and now - self._awake_since >= self._min_awake_s and now >= self._not_before

    def refused(self, now: float) -> None:
        """It may not; it asks again later."""
        self._not_before = now + _ASK_AGAIN_S

    def awoke(self, now: float) -> None:
        """It is there again."""
        self._awake_since = self._idle_since = now


class SleepHost(Protocol):
    """What sleeping needs of the node."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing was promised."""

    def say_asleep(self) -> None:
        """Takes no more work, says that it goes to sleep, and tells nothing from then on."""

    def say_awake(self) -> None:
        """Takes work again, and says so."""


class Sleeping:
    """Asks for leave to sleep, and sleeps; `run` is a task of the actor.

    Args:
        bus: The node's connection.
        config: The command, and when it is run.
        node_id: The node's id.
        instance: Of this process.
        host: The node.
    """

    def __init__(self, bus: Bus, config: NodeConfig, *, node_id: str, instance: str, host: SleepHost) -> None:
        self._bus = bus
        self._config = config
        self._node_id = node_id
        self._instance = instance
        self._host = host
        self._clock = SleepClock(config.sleep_after_idle_s, config.min_awake_s, time.monotonic())
        self._woken = asyncio.Event()
        self._wanted: asyncio.Future[str] | None = None
        self._called = asyncio.Event()
        self.is_asleep = False

    async def run(self) -> None:
        """Sleeps whenever it should, for as long as the node lives."""
        while self._config.sleep_command:
            await happens(self._called, _LOOK_S)
            self._called.clear()
            wanted, self._wanted = self._wanted, None
            is_due = self._clock.is_due(time.monotonic(), is_idle=self._host.is_idle)
            if not is_due and wanted is None:
                continue
            refusal = await self._asked(is_wanted=wanted is not None)
            if wanted is not None and not wanted.done():
                wanted.set_result(refusal)
            if refusal:
                log.info("stays awake: %s", refusal, extra={"action": "sleep_refused"})
                self._clock.refused(time.monotonic())
            else:
                await self._sleep()

    async def sleep_now(self) -> str:
        """An operator wants it to sleep; returns why it does not, or nothing."""
        if not self._config.sleep_command:
            return "sleep_command is not set there: give the node a command that sends its machine to sleep"
        if self.is_asleep:
            return ""
        if self._wanted is None:
            self._wanted = asyncio.get_running_loop().create_future()
        self._called.set()
        try:
            async with asyncio.timeout(_ANSWER_S + _LOOK_S):
                return await asyncio.shield(self._wanted)
        except TimeoutError:
            return "no scorer answered in time"

    def wake(self) -> None:
        """Somebody wants it awake."""
        self._woken.set()

    async def _asked(self, *, is_wanted: bool) -> str:
        """Why it may not sleep; empty: it may, and the scorer counts on it."""
        if not self._host.is_idle:
            return "it is busy"
        asked = SleepRequest(
            instance=self._instance, idle_s=round(self._clock.idle_s(time.monotonic()), 1), is_wanted=is_wanted
        )
        try:
            msg = await self._bus.request(subjects.SLEEP.of(self._node_id), encode(asked), timeout_s=_ANSWER_S)
            reply = decode(msg.data, SleepReply)
        except NoResponders:
            return "no scorer is in office"
        except (BusError, DecodeFailed) as error:
            return f"the scorer did not answer: {error}"
        if not reply.may_sleep:
            return reply.reason or "the scorer needs it"
        return "" if self._host.is_idle else "work came in that moment"

    async def _sleep(self) -> None:
        self._woken.clear()
        self.is_asleep = True
        self._host.say_asleep()
        try:
            await self._bus.flush()
        except BusError as error:
            log.warning("stays awake: the fleet was not told: %s", error, extra={"action": "sleep_refused"})
        else:
            await self._sleep_until_woken()
        self.is_asleep = False
        self._clock.awoke(time.monotonic())
        self._host.say_awake()
        log.info("awake", extra={"action": "awake"})

    async def _sleep_until_woken(self) -> None:
        log.info("goes to sleep: %s", self._config.sleep_command, extra={"action": "asleep"})
        began = _offset_s()
        error = await run_command(self._config.sleep_command)
        if error:
            log.error("stays awake: %s", error, extra={"action": "sleep_failed"})
            return
        while not await happens(self._woken, _LOOK_S):
            if abs(_offset_s() - began) > _SUSPENDED_S:
                return  # the clock on the wall went on while this process did not: the machine slept, and is awake


def _offset_s() -> float:
    """How far the time of day is ahead of the time in which this machine ran."""
    return wall_s() - time.monotonic()
