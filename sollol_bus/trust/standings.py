"""Where standings of callers are kept: one entry of the settings bucket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sollol_bus.errors import BusError, ConfigError, Conflict
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.streams import bucket_spec, provision
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_bus.trust.callers import Change, Roster
from sollol_bus.waiting import delays
from sollol_schemas import stores
from sollol_schemas.callers import Standings

log = logging.getLogger(__name__)

_WRITES: Final = 20
_FIRST_LOOK_S: Final = 1.0
_LAST_LOOK_S: Final = 30.0


class StandingStore:
    """The standings in the bucket; every method raises a `BusError` when it cannot be reached."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._bucket = Bucket(bus, stores.SETTINGS_BUCKET)

    async def load(self) -> Standings:
        """Every standing."""
        return (await self._bucket.get(stores.CALLERS)).decode(Standings) or Standings(callers={})

    async def load_if_readable(self) -> Standings:
        """Every standing; none where they cannot be read now, which is logged: `follow_roster` tells them later."""
        try:
            return await self.load()
        except BusError as error:
            log.warning("callers are not known yet: %s", error, extra={"action": "callers_unknown"})
            return Standings(callers={})

    async def change(self, change: Change) -> Standings:
        """Changes the standings, whoever else does too; returns them.

        Raises:
            BadRequest: The change cannot be made.
            Conflict: Others write all the time.
        """
        await provision(self._bus, streams=(bucket_spec(stores.SETTINGS_BUCKET),))
        for _ in range(_WRITES):
            entry = await self._bucket.get(stores.CALLERS)
            standings = change(entry.decode(Standings) or Standings(callers={}))
            if await self._bucket.update(stores.CALLERS, encode(standings), entry.revision) is not None:
                return standings
        raise Conflict("others change the callers all the time; try again")


async def follow_roster(bus: Bus, know: Callable[[Roster], object]) -> None:
    """Tells the callers, now and whenever they have changed, until it is cancelled; outages are waited out."""
    for delay_s in delays(_FIRST_LOOK_S, _LAST_LOOK_S):
        try:
            await provision(bus, streams=(bucket_spec(stores.SETTINGS_BUCKET),))
            break
        except (BusError, ConfigError) as error:
            log.info("callers are not known yet: %s", error, extra={"action": "callers_unknown"})
        await asyncio.sleep(delay_s)
    async for standings in Bucket(bus, stores.SETTINGS_BUCKET).follow(stores.CALLERS, Standings):
        know(Roster(standings))
