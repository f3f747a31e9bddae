"""Finds the engine and looks at it in a rhythm of its own: one that hangs never delays a heartbeat."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from sollol_agents.node.config import NodeConfig, engine_candidates
from sollol_agents.node.engines.base import Engine
from sollol_agents.node.engines.probing import engine_at, first_answering
from sollol_agents.node.engines.refusals import leads_back
from sollol_agents.node.engines.view import EngineView
from sollol_bus.errors import SollolError
from sollol_bus.parts import Part
from sollol_bus.waiting import happens
from sollol_schemas.errors import ErrorCode
from sollol_schemas.telemetry import InstalledModel, LoadedModel

log = logging.getLogger(__name__)

_INVENTORY_EVERY_S: Final = 10.0
_LEAST_INTERVAL_S: Final = 0.1
_AGAIN_S: Final = 0.2
_SLOTS_OF_OLLAMA: Final = 1


class EngineWatch(Part):
    """Finds the engine and keeps the view of it fresh.

    Args:
        config: Settings.
        mark: The node, as engines are told it.
        on_found: Called when the engine answered for the first time.
        on_change: Called when the loaded models or whether the engine answers changed.
        on_models: Called when the models on disk changed.
        on_lost: Called at each look after the first that gets no answer at all, with the instant (monotonic seconds) at
            which the one before it began.
        is_idle: Whether no attempt runs.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        mark: str,
        on_found: Callable[[Engine], None],
        on_change: Callable[[], None],
        on_models: Callable[[], None],
        on_lost: Callable[[float], None],
        is_idle: Callable[[], bool],
    ) -> None:
        self._config = config
        self._on_found = on_found
        self._on_change = on_change
        self._on_models = on_models
        self._on_lost = on_lost
        self._is_idle = is_idle
        self._candidates = [engine_at(kind, url, config, mark) for kind, url in engine_candidates(config)]
        self.engine: Engine = self._candidates[0]
        self.view = EngineView(kind=self.engine.kind, url=self.engine.url)
        self.is_found = False
        self.leads_back = ""
        """What a gateway of this node's fleet, or one that leads to it, said in place of an engine."""
        self._inventory_at = float("-inf")
        self._wake = asyncio.Event()
        self._looking = asyncio.Lock()
        """One look at a time, so that an older one never overwrites what a newer one saw."""
        self._warned = ""
        self._lost_at: float | None = None
        """When the last look began, if it got no answer at all."""
        self._is_doubted = False
        """Whether that was the first such look: the next one tells whether the engine left."""

    @property
    def slots(self) -> int:
        """How many attempts run at a time: as configured, else what the engine says, else 1."""
        return self._config.slots or self.view.inventory.slots or _SLOTS_OF_OLLAMA

    def refresh_soon(self, *, inventory: bool = False) -> None:
        """Looks at the engine at once instead of at the next beat; at the models on disk too, when told so."""
        if inventory:
            self._inventory_at = float("-inf")
        self._wake.set()

    async def run(self) -> None:
        """Looks at every beat, at every second one while nothing runs, and sooner when asked, for ever."""
        while True:
            await self.look()
            if await happens(self._wake, self._rest_s()):
                await asyncio.sleep(_LEAST_INTERVAL_S)  # however many attempts ask for a look
            elif self.view.failures == 0 and self._is_idle():
                await happens(self._wake, self._rest_s())  # of an engine that does nothing every second look will do
            self._wake.clear()

    def _rest_s(self) -> float:
        beat_s = self._config.heartbeat_s
        return min(_AGAIN_S, beat_s) if self._is_doubted else beat_s

    async def look(self, *, inventory: bool = False) -> None:
        """Looks once; an engine that does not answer is told in the view.

        Args:
            inventory: Look at the models on disk as well, however lately that was done.
        """
        async with self._looking:
            if inventory:
                self._inventory_at = float("-inf")
            await self._look()

    async def _look(self) -> None:
        was, had = (self.view.failures == 0, _names(self.view.loaded)), _names(self.view.inventory.installed)
        began = time.monotonic()
        try:
            if not self.is_found:
                await self._find()
            now = time.monotonic()
            if now - self._inventory_at >= _INVENTORY_EVERY_S:
                self.view.inventory = await self.engine.inventory()
                self._inventory_at = now
            looks = self.view.looks
            loaded = await self.engine.loaded()
            if looks == self.view.looks:
                self.view.saw(loaded)
            self.view.pretended = await self.engine.pretended()
            self.view.answered()
            if self._warned:
                log.info("the engine at %s answers again", self.view.url, extra={"action": "engine_found"})
            self._warned, self._lost_at, self._is_doubted = "", None, False
        except SollolError as error:
            self.leads_back = error.message if leads_back(error) else ""
            self.view.failed(error.message)
            self._inventory_at = float("-inf")
            if self.view.failures > 1 and self._warned != error.message:
                self._warned = error.message
                log.warning("no engine at %s: %s", self.view.url, error.message, extra={"action": "engine_unreachable"})
            self._note_loss(error, began)
        if had != _names(self.view.inventory.installed):
            self._on_models()
        if was != (self.view.failures == 0, _names(self.view.loaded)):
            self._on_change()

    def _note_loss(self, error: SollolError, began: float) -> None:
        """Tells of an engine that left two looks in a row without any answer, even a refusal."""
        before = self._lost_at
        self._lost_at = began if error.body.code is ErrorCode.ENGINE_UNAVAILABLE else None
        self._is_doubted = before is None and self._lost_at is not None
        if before is not None and self._lost_at is not None:
            self._on_lost(before)

    async def close(self) -> None:
        """Closes the connections to the engine."""
        for engine in self._candidates:
            await engine.aclose()

    async def _find(self) -> None:
        """Takes the first candidate that answers in its dialect."""
        engine, version = await first_answering(self._candidates)
        self.engine, self.is_found = engine, True
        self.view = EngineView(kind=engine.kind, url=engine.url)
        log.info("engine found: %s %s at %s", engine.kind.value, version, engine.url, extra={"action": "engine_found"})
        self._on_found(engine)


def _names(models: tuple[LoadedModel, ...] | tuple[InstalledModel, ...]) -> frozenset[str]:
    return frozenset(one.name for one in models)
