"""The recorder at the bus: one of several is in office, the others stand by."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, ClassVar

import msgspec

from sollol_agents.recorder.config import RecorderConfig
from sollol_agents.recorder.office import Office
from sollol_bus.actor import Actor, ActorState
from sollol_bus.jetstream.office import Candidate
from sollol_bus.jetstream.server_time import ServerTime
from sollol_bus.jetstream.streams import provision
from sollol_bus.transport.connection import BusConfig
from sollol_bus.transport.discovery import HELD, OFFICE, STANDS_BY
from sollol_bus.trust.callers import Roster
from sollol_bus.trust.standings import StandingStore, follow_roster
from sollol_schemas import stores

_FIRST_OFFICE_S = 5.0
_CLOSE_S = 2.0
"""For closing the database in peace; a locked one that never opened is not waited for."""
_SERVICE = "sollol-recorder"


class RecorderStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a recorder can say about itself."""

    name: str
    instance: str
    state: ActorState
    is_in_office: bool
    written: int
    """Events written since it took office."""
    waiting: int
    """Events received and not written yet."""


class Recorder(Actor[RecorderConfig]):
    """Writes every outcome and decision of the fleet to SQLite and answers questions about them."""

    name: ClassVar[str] = "recorder"

    def __init__(self, config: RecorderConfig, bus_config: BusConfig) -> None:
        super().__init__(config, bus_config)
        self.drain_timeout_s = config.drain_timeout_s
        self._shown = {OFFICE: STANDS_BY}
        self._office: Office | None = None
        self._office_task: asyncio.Task[Any] | None = None
        self._roster = Roster()

    async def on_start(self) -> None:
        """Stands for office; returns when in it, or when another is."""
        await provision(self.bus)
        await self.own(ServerTime(self.bus, self.spawn))
        await self.register("Records outcomes and decisions, and answers questions about them.", metadata=self._shown)
        self._candidate = Candidate(
            self.bus,
            stores.RECORDER_LEASE,
            self.instance,
            ttl_s=self.config.office_ttl_s,
            probe=lambda instance: f"$SRV.PING.{_SERVICE}.{instance}",
            answers_probe=False,
            on_acquired=self._take_office,
            on_lost=self._leave_office,
        )
        await self.own(self._candidate)
        self._know(Roster(await StandingStore(self.bus).load_if_readable()))
        self.spawn(follow_roster(self.bus, self._know), name="callers")
        self.spawn(self._candidate.run(), name="candidate")
        await self._first_office()

    def in_flight(self) -> Collection[str]:
        """Nothing is waited for here: `on_stop` writes what was received."""
        return ()

    async def on_stop(self) -> None:
        """Writes what was received."""
        if self._office is not None and self._office_task is not None:
            await self._office.finish(self.config.drain_timeout_s)
            await asyncio.wait([self._office_task], timeout=_CLOSE_S)

    @property
    def is_in_office(self) -> bool:
        """Whether this recorder writes and answers now."""
        return self._office is not None and self._office.is_open.is_set()

    def statistics(self) -> RecorderStatistics:
        """Events written and waiting, and whether it is in office."""
        return RecorderStatistics(
            name=self.name,
            instance=self.instance,
            state=self.state,
            is_in_office=self.is_in_office,
            written=self._office.written if self._office is not None else 0,
            waiting=self._office.waiting if self._office is not None else 0,
        )

    def _know(self, roster: Roster) -> None:
        self._roster = roster

    def _take_office(self, _term: int) -> None:
        self._shown[OFFICE] = HELD
        predecessor = self._office_task
        self._office = Office(self.bus, self.config, self.spawn, roster=lambda: self._roster)
        self._office_task = self.spawn(self._hold_office(self._office, predecessor), name="office")

    async def _hold_office(self, office: Office, predecessor: asyncio.Task[Any] | None) -> None:
        if predecessor is not None:
            await asyncio.wait([predecessor])  # it may still be closing the database
        await office.run()

    def _leave_office(self, _reason: str) -> None:
        self._shown[OFFICE] = STANDS_BY
        if self._office_task is not None:
            self._office_task.cancel("out of office")
        self._office = None

    async def _first_office(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FIRST_OFFICE_S
        while not self.is_in_office and loop.time() < deadline:
            if self._candidate.owner not in ("", self.instance):
                return
            if self._office_task is not None and self._office_task.done():
                return  # the failure is reported by `run_until_stopped`
            await asyncio.sleep(0.01)  # a few round trips; the lease tells its owner by a property only
