"""Has nodes load models before somebody waits for them, and tells how it went."""

from __future__ import annotations

import logging
import time

from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.office.preload import Preload, Preloader
from sollol_bus.errors import BusError
from sollol_bus.parts import Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode, error_of
from sollol_schemas import subjects
from sollol_schemas.control import ControlLoad
from sollol_schemas.events import PreloadEvent

log = logging.getLogger(__name__)

_ANSWER_S = 600.0


class Preloading:
    """Carries out what the preloader decides; `spawn` runs a coroutine as a task of the actor."""

    def __init__(self, bus: Bus, core: SchedulerCore, spawn: Spawn) -> None:
        self._bus = bus
        self._core = core
        self._spawn = spawn
        self._preloader = Preloader()

    def look(self, now: float) -> None:
        """Begins the loads that are worth it now."""
        for wanted in self._preloader.decide(self._core, now):
            self._spawn(self._load(wanted), name="preload")

    async def _load(self, wanted: Preload) -> None:
        extra = {"action": "preload", "node_id": wanted.node_id}
        log.info("node %s loads %s: %s", wanted.node_id, wanted.model, wanted.reason, extra=extra)
        began = time.monotonic()
        error = await self._ask(wanted)
        if error:
            log.warning("node %s did not load %s: %s", wanted.node_id, wanted.model, error, extra=extra)
        event = PreloadEvent(
            node_id=wanted.node_id,
            model=wanted.model,
            reason=wanted.reason,
            error=error,
            took_s=round(time.monotonic() - began, 3),
            at=self._bus.clock.instant(),
        )
        if self._bus.is_connected:
            self._bus.publish(subjects.PRELOAD_EVENT.of(wanted.node_id), encode(event))

    async def _ask(self, wanted: Preload) -> str:
        """What went wrong; empty when nothing did."""
        load = ControlLoad(model=wanted.model, keep_alive_s=wanted.keep_alive_s)
        try:
            msg = await self._bus.request(subjects.NODE_CONTROL.of(wanted.node_id), encode(load), timeout_s=_ANSWER_S)
        except BusError as error:
            return str(error)
        refusal = error_of(msg)
        return refusal.message if refusal is not None else ""
