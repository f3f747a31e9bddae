"""The node monitor: makes one engine a member of the fleet. It only dials out."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Collection
from typing import Final

import msgspec

from sollol_agents.node.attempts.executor import Executor
from sollol_agents.node.attempts.moving import hand_back, hand_over, places_for_answers
from sollol_agents.node.config import NodeConfig, node_id_of
from sollol_agents.node.control.claim import Claim
from sollol_agents.node.control.commands import Controls
from sollol_agents.node.control.load_interval import LoadInterval
from sollol_agents.node.control.sleeping import Sleeping
from sollol_agents.node.control.suspension import Suspension
from sollol_agents.node.control.telemetry import Identity, Standing, drawn_w, gpus_of, loaded_of, telemetry_of
from sollol_agents.node.control.wakes import Wakes
from sollol_agents.node.engines.base import Engine
from sollol_agents.node.engines.watch import EngineWatch
from sollol_agents.node.machine.sampler import Machine
from sollol_bus.actor import Actor, ActorState
from sollol_bus.errors import BusError, ConfigError, NotConnected
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import BusConfig
from sollol_bus.transport.messages import encode
from sollol_bus.waiting import happens
from sollol_schemas import inboxes, subjects
from sollol_schemas.instants import instant
from sollol_schemas.stores import NodeClaim
from sollol_schemas.telemetry import LoadedModel, LoadUpdate, Telemetry

log = logging.getLogger(__name__)

_CLAIM_EVERY_S: Final = 5.0
_CLAIM_RETRY_S: Final = 0.5
_RTT_EVERY: Final = 10
_LAST_WORDS_S: Final = 2.0
_LINGER_S: Final = 0.2
"""After its last word a draining node refuses what is still on its way to it for so long."""


class NodeMonitor(Actor[NodeConfig]):
    """One engine's agent on the bus.

    Args:
        config: Settings.
        bus_config: How to reach the bus; name and inbox prefix are the node's own.
    """

    name = "node"

    def __init__(self, config: NodeConfig, bus_config: BusConfig) -> None:
        self.node_id = node_id_of(config)
        own = msgspec.structs.replace(
            bus_config, name=f"node {self.node_id}", inbox_prefix=inboxes.node_inbox_prefix(self.node_id)
        )
        super().__init__(config, own)
        self.drain_timeout_s = config.drain_timeout_s
        self._identity = Identity(node_id=self.node_id, instance=self.instance)
        self._standing = Standing.of(config)
        self._machine = Machine(config)
        self._watch = EngineWatch(
            config,
            mark=f"{self.node_id}.{self.instance}",
            on_found=self._on_engine_found,
            on_change=self._on_load_changed,
            on_models=self._beat_soon,
            on_lost=self._on_engine_lost,
            is_idle=lambda: not self._is_working(),
        )
        self._suspension = Suspension(self._is_working, self._on_suspended)
        self._load_interval = LoadInterval()
        self._told_loaded: tuple[LoadedModel, ...] | None = None
        self._has_left = False
        self._sleeping: Sleeping | None = None
        self._was_draining = False
        self._bus_rtt_s = 0.0
        self._executor: Executor | None = None
        self._claim: Claim | None = None
        self._beat_now = asyncio.Event()
        self._claim_now = asyncio.Event()

    # -- life ---------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Makes sure that the id is free, claims it, and begins to listen and to tell."""
        bus = self.bus
        self._claim = Claim(bus, NodeClaim(node_id=self.node_id, instance=self.instance, host=socket.gethostname()))
        await self._claim.make(is_starting=True)
        self._executor = executor = Executor(
            bus,
            self.config,
            node_id=self.node_id,
            instance=self.instance,
            view=self._watch.view,
            spawn=self.spawn,
            on_change=self._on_slot_changed,
            look_again=self._watch.refresh_soon,
        )
        await self.own(executor.outcomes)
        await self.own(executor.farewells)
        await self.own(executor.reports)
        await self.own(self._watch)
        await self.own(self._machine)
        self._identity.revision = self._claim.revision
        self._sleeping = Sleeping(bus, self.config, node_id=self.node_id, instance=self.instance, host=self)
        controls = Controls(
            bus,
            executor,
            self._standing,
            self,
            spawn=self.spawn,
            node_id=self.node_id,
            wakes=Wakes(bus, self.config, self._sleeping, self.spawn, node_id=self.node_id, instance=self.instance),
        )
        bus.serve(subjects.NODE_CONTROL.of(self.node_id), controls.on_message)
        await bus.flush()  # a gateway in place of the engine asks there whether this node is its own fleet's
        await self._watch.look()
        if self._watch.leads_back:
            raise ConfigError(f"{self._watch.view.url}: {self._watch.leads_back}")
        executor.start()
        bus.serve(subjects.NODE_EXEC.of(self.node_id), executor.on_exec)
        bus.on_reconnect(self._on_reconnect)
        self.spawn(self._watch.run(), name="engine")
        self.spawn(self._machine.run(), name="machine")
        self.spawn(self._heartbeat(), name="heartbeat")
        self.spawn(self._suspension.run(), name="suspension")
        self.spawn(self._keep_claim(), name="claim")
        self.spawn(self._sleeping.run(), name="sleep")

    def announce_draining(self) -> None:
        """Tells the fleet that this node takes no new work, and lets others go on with what they can.

        It goes on listening, to refuse what was granted before the fleet knew: silence would be taken for death.
        """
        self._require_executor().is_leaving = True
        self.set_draining(is_draining=True, lets_finish=self.is_last)
        self._send_load()

    def in_flight(self) -> Collection[str]:
        """The attempts in slots."""
        return self._require_executor().attempts.keys()

    async def hand_back(self, reason: str) -> None:
        """Stops what still runs."""
        hand_back(self._require_executor().attempts.values(), reason)

    async def on_stop(self) -> None:
        """Lets the last attempts report, and tells the fleet that this node left."""
        executor = self._require_executor()
        if not await happens(executor.idle, _LAST_WORDS_S):
            names = ", ".join(executor.attempts)
            log.warning("attempts did not end in time: %s", names, extra={"action": "attempts_cut"})
        if self.bus.is_connected:
            await asyncio.sleep(_LINGER_S)
        self._has_left = True
        if not self._is_asleep:  # the fleet knows, and expects it back
            self._send_load()

    # -- what others may ask ------------------------------------------------------------------------------

    def set_draining(self, *, is_draining: bool, lets_finish: bool = False) -> None:
        """Takes no new work, or takes it again; answers that can go on elsewhere do, unless they are to finish."""
        executor = self._require_executor()
        executor.is_draining = is_draining
        log.info("draining: %s", is_draining, extra={"action": "node_draining"})
        is_moving = any(one.is_resumable for one in executor.attempts.values())
        if is_moving and is_draining and not lets_finish and self.config.hand_over:
            self._send_load()  # the scorer knows before any caller asks again
            self.spawn(self._hand_over(), name="hand over")
        else:
            self._on_load_changed()

    async def _hand_over(self) -> None:
        """Stops what others can go on with, or may, where nobody knows whether they can."""
        executor = self._require_executor()
        able = await places_for_answers(self.bus, self.node_id, self.instance)
        if executor.is_draining:
            resumable = [one for one in executor.attempts.values() if one.is_resumable]
            hand_over(
                [one for one in resumable if able is None or one.decision.model in able],
                "its node takes no new work",
            )

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, and this node is in service."""
        executor = self._require_executor()
        return not executor.attempts and executor.idle.is_set() and self.state is ActorState.RUNNING

    @property
    def _is_asleep(self) -> bool:
        return self._sleeping is not None and self._sleeping.is_asleep

    def say_asleep(self) -> None:
        """Takes no more work, and says that it goes to sleep; from then on it tells nothing."""
        executor = self._require_executor()
        self._was_draining, executor.is_draining = executor.is_draining, True
        executor.is_leaving = True
        self._send_load(is_asleep=True)

    def say_awake(self) -> None:
        """Takes work again, and says so."""
        executor = self._require_executor()
        executor.is_draining, executor.is_leaving = self._was_draining, False
        self._claim_now.set()
        self.tell_soon()

    def tell_soon(self) -> None:
        """Looks at the engine and publishes the full state without waiting for the next beat."""
        self._watch.refresh_soon()
        self._beat_now.set()

    async def look_and_tell(self) -> None:
        """Looks at all that the engine has and publishes the full state."""
        await self._watch.look(inventory=True)
        self._send(subjects.TELEMETRY.of(self.node_id), self.telemetry())

    # -- telling ------------------------------------------------------------------------------------------

    def telemetry(self) -> Telemetry:
        """The full heartbeat, now."""
        executor, now = self._require_executor(), time.monotonic()
        self._machine.glance()
        self._machine.believe(self._watch.view.loaded)
        executor.meter.price = self._standing.price
        executor.meter.draws(drawn_w(gpus_of(self._watch.view, self._machine.gpus)), now)
        return telemetry_of(
            identity=self._identity,
            config=self.config,
            standing=self._standing,
            power=executor.meter.power,
            view=self._watch.view,
            host=self._machine.host,
            machine_gpus=self._machine.gpus,
            gpu_problem=self._machine.gpu_problem,
            slots=executor.slots.limit,
            in_flight=executor.in_flight(now),
            speeds=executor.speeds.all(),
            is_draining=executor.is_draining,
            takes_rests=executor.takes_rests,
            bus_rtt_s=self._bus_rtt_s,
            uptime_s=now - self._began_mono_s,
            engine_silent_s=executor.silent_s(now),
            sent_at=instant(wall_s()),
            endpoints=self.bus.endpoints,
        )

    async def _heartbeat(self) -> None:
        beats = 0
        while not self._has_left:
            self._apply_slots()
            if not self._is_asleep:
                self._send(subjects.TELEMETRY.of(self.node_id), self.telemetry())
            if beats % _RTT_EVERY == 0:
                await self._measure_rtt()
            beats += 1
            await self._suspension.happens(self._beat_now, self.config.heartbeat_s)
            self._beat_now.clear()

    async def _measure_rtt(self) -> None:
        try:
            self._bus_rtt_s = await self.bus.measure_rtt()
        except BusError as error:
            log.debug("round trip: %s", error)

    def _is_working(self) -> bool:
        return self._executor is not None and bool(self._executor.attempts)

    def _on_slot_changed(self) -> None:
        self._suspension.note_work()
        self.drain_progress()
        self._on_load_changed()

    def _on_load_changed(self) -> None:
        if self._executor is None or self._is_asleep:
            return
        delay_s = self._load_interval.changed(time.monotonic())
        if delay_s is None:
            return
        if delay_s <= 0:
            self._send_load()
        else:
            asyncio.get_running_loop().call_later(delay_s, self._send_load)

    def _send_load(self, *, is_asleep: bool = False) -> None:
        if self._is_asleep and not is_asleep:
            return
        executor, now = self._require_executor(), time.monotonic()
        self._load_interval.sent(now)
        loaded = loaded_of(self._watch.view, self._machine.gpus)
        has_changed = loaded != self._told_loaded
        self._told_loaded = loaded
        self._apply_slots()
        update = LoadUpdate(
            node_id=self.node_id,
            instance=self.instance,
            seq=self._identity.next_seq(),
            slots=executor.slots.limit,
            in_flight=executor.in_flight(now),
            is_draining=executor.is_draining,
            takes_rests=executor.takes_rests,
            loaded=loaded if has_changed else None,
            has_left=self._has_left,
            is_asleep=is_asleep,
        )
        self._send(subjects.LOAD.of(self.node_id), update)

    def _send(self, subject: str, message: Telemetry | LoadUpdate) -> None:
        try:
            self.bus.publish(subject, encode(message))
        except NotConnected:
            log.debug("not told on %s: no connection", subject)

    # -- engine -------------------------------------------------------------------------------------------

    def _on_engine_found(self, engine: Engine) -> None:
        executor = self._require_executor()
        executor.engine = engine
        executor.view = self._watch.view

    def _on_engine_lost(self, since_mono_s: float) -> None:
        if self._executor is not None:
            self._executor.on_engine_lost(since_mono_s)

    def _beat_soon(self) -> None:
        self._beat_now.set()

    def _apply_slots(self) -> None:
        self._require_executor().slots.limit = self._watch.slots

    # -- time and identity --------------------------------------------------------------------------------

    def _on_suspended(self, took_s: float) -> None:
        """This process was stopped for a while."""
        log.warning("this process did not run for %.1f s", took_s, extra={"action": "node_suspended"})
        self._require_executor().on_suspended()
        self._claim_now.set()
        self._beat_now.set()

    async def _keep_claim(self) -> None:
        assert self._claim is not None
        while True:
            try:
                is_claimed = await self._claim.make()
            except ConfigError as error:
                self.fail(error)
                return
            if self._claim.revision < self._identity.revision:
                self._require_executor().terms.forget()  # the server's store is new, and terms begin again
            if self._identity.revision != self._claim.revision:
                self._identity.revision = self._claim.revision
                self._beat_now.set()
            await happens(self._claim_now, _CLAIM_EVERY_S if is_claimed else _CLAIM_RETRY_S)
            self._claim_now.clear()

    def _on_reconnect(self) -> None:
        self._claim_now.set()
        self.tell_soon()

    def _require_executor(self) -> Executor:
        if self._executor is None:
            raise RuntimeError("the node has not started")
        return self._executor
