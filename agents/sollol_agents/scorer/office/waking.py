"""Wakes nodes that sleep, and remembers those for scorers to come.

Everybody who can, tries: the scorer's own machine, with the command that is configured there or a magic packet; the
nodes that are wakers, those at the same site first; and the node itself, if it only looks asleep. Nobody says whether
it helped; the node's next heartbeat does, and until then it is tried again now and then.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.sleeper import Phase
from sollol_agents.waking import NotWoken, run_command, send_magic_packet
from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.parts import Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_schemas import stores, subjects
from sollol_schemas.control import ControlWake
from sollol_schemas.instants import instant, seconds_of
from sollol_schemas.scaling import KeptSleeper, SleepEvent, SleepNews
from sollol_schemas.telemetry import NodeState

log = logging.getLogger(__name__)

_AGAIN_S: Final = 15.0
_TRIES: Final = 4
_WAKERS_MAX: Final = 8
_SITE: Final = "site"
_KEPT_MAX: Final = 2048


class Waking:
    """Carries out what the core decided about sleeping; for the scorer in office.

    Args:
        bus: A connection on which the bucket exists.
        core: Whose nodes sleep.
        config: Commands that wake nodes from here.
        spawn: Runs a coroutine as a task of the actor.
    """

    def __init__(self, bus: Bus, core: SchedulerCore, config: ScorerConfig, spawn: Spawn) -> None:
        self._bus = bus
        self._core = core
        self._config = config
        self._spawn = spawn
        self._bucket = Bucket(bus, stores.LEARNED_BUCKET)
        self._tries: dict[str, tuple[int, float]] = {}

    async def recall(self) -> None:
        """Learns from the bucket which nodes sleep; those that beat meanwhile are awake."""
        try:
            entries = await self._bucket.every(stores.SLEEPERS.format("*"))
        except BusError as error:
            log.warning("which nodes sleep is not known yet: %s", error, extra={"action": "sleepers"})
            return
        now, unix_s = time.monotonic(), self._bus.clock.now_unix()
        for entry in entries[-_KEPT_MAX:]:
            try:
                kept = entry.decode(KeptSleeper)
            except DecodeFailed as error:
                self._bucket.ignored(entry, error)
                continue
            if kept is not None:
                age_s = max(0.0, unix_s - seconds_of(kept.slept_at))
                self._core.fleet.know_sleeper(kept.telemetry, kept.wake_s, now, age_s)

    def on_event(self, event: SleepEvent) -> None:
        """Does what follows from what the core decided or saw."""
        match event.news:
            case SleepNews.WAKING:
                self._tries[event.node_id] = (0, time.monotonic())
                self._try(event.node_id)
            case SleepNews.ASLEEP:
                self._spawn(self._keep(event.node_id), name=f"asleep.{event.node_id}")
            case SleepNews.AWAKE:
                self._tries.pop(event.node_id, None)
                self._spawn(self._forget(event.node_id), name=f"awake.{event.node_id}")
            case SleepNews.FAILED:
                self._tries.pop(event.node_id, None)

    def look(self, now: float) -> None:
        """Tries again what did not come yet."""
        for node_id, (count, at) in list(self._tries.items()):
            node = self._core.fleet.nodes.get(node_id)
            if node is None or node.sleeper is None or node.sleeper.phase is not Phase.WAKING or count >= _TRIES:
                del self._tries[node_id]
            elif now - at >= _AGAIN_S:
                self._try(node_id)

    def _try(self, node_id: str) -> None:
        count = self._tries[node_id][0]
        self._tries[node_id] = (count + 1, time.monotonic())
        node = self._core.fleet.nodes.get(node_id)
        if node is None:
            return
        told = node.telemetry.sleeper
        mac, broadcast = (told.mac, told.broadcast) if told is not None else ("", "")
        self._spawn(self._wake_from_here(node_id, mac, broadcast), name=f"wake.{node_id}")
        asked = encode(ControlWake(node_id=node_id, mac=mac, broadcast=broadcast))
        if not self._bus.is_connected:
            return
        for waker in self._wakers(node):
            self._bus.publish(subjects.NODE_CONTROL.of(waker.node_id), asked)
        self._bus.publish(subjects.NODE_CONTROL.of(node_id), asked)

    def _wakers(self, node: Node) -> list[Node]:
        """The nodes that may wake it, those at its site first."""
        site = node.telemetry.labels.get(_SITE, "")
        able = [n for n in self._core.fleet.nodes.values() if n.telemetry.is_waker and n.state is NodeState.UP]
        able.sort(key=lambda n: (n.telemetry.labels.get(_SITE, "") != site, n.node_id))
        return able[:_WAKERS_MAX]

    async def _wake_from_here(self, node_id: str, mac: str, broadcast: str) -> None:
        command = self._config.wake_commands.get(node_id)
        error = ""
        if command is not None:
            error = await run_command(command)
        elif mac and self._config.wake_packets:
            try:
                send_magic_packet(mac, broadcast)
            except NotWoken as refused:
                error = str(refused)
        if error:
            log.warning("waking %s: %s", node_id, error, extra={"action": "wake", "node_id": node_id})

    async def _keep(self, node_id: str) -> None:
        node = self._core.fleet.nodes.get(node_id)
        if node is None or node.sleeper is None:
            return
        kept = KeptSleeper(
            node_id=node_id,
            telemetry=node.telemetry,
            wake_s=node.sleeper.wake_s,
            slept_at=instant(self._bus.clock.now_unix()),
        )
        try:
            await self._bucket.put(stores.SLEEPERS.format(node_id), encode(kept))
        except BusError as error:
            log.warning("that %s sleeps is not kept: %s", node_id, error, extra={"action": "sleepers"})

    async def _forget(self, node_id: str) -> None:
        key = stores.SLEEPERS.format(node_id)
        try:
            entry = await self._bucket.get(key)
            if entry.value is not None:
                await self._bucket.delete(key, entry.revision)
        except BusError as error:
            log.info("%s is awake, which is not kept: %s", node_id, error, extra={"action": "sleepers"})
