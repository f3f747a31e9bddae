"""The life of an actor: start loudly, supervise every task, drain in stages, stop once.

The drain goes in this order: announce, stop intake, finish what runs (up to `drain_timeout_s`, saying what is
waited for), hand back what is left with a reason, close the parts that were opened (the last one first), flush,
close the bus. Every actor runs as `async with Actor(...)`; a start that fails closes the parts opened until then.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import AsyncExitStack
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from sollol_bus.errors import BusError, SollolError
from sollol_bus.observe.meter import Meter
from sollol_bus.observe.tracing import Tracer
from sollol_bus.parts import Part
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.discovery import Discovery, own_card
from sollol_bus.transport.messages import Msg
from sollol_bus.transport.subscription import Subscription
from sollol_bus.waiting import end, happens

log = logging.getLogger(__name__)

Config = TypeVar("Config")
PartT = TypeVar("PartT", bound=Part)


class ActorState(StrEnum):
    """Where an actor is in its life."""

    NEW = "new"  # made, not started
    STARTING = "starting"  # connecting and subscribing
    RUNNING = "running"  # taking work
    DRAINING = "draining"  # finishing what it has
    STOPPED = "stopped"  # over; an actor never starts twice


class ActorStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What every actor can say about itself."""

    name: str
    instance: str
    state: ActorState
    uptime_s: float
    in_flight: int


class Actor(Part, Generic[Config]):
    """An independent process-like part of the system that meets others on the bus alone.

    Subclasses fill the hooks; they are called in the order in which they stand here. All but `on_start` are called
    only after a start that succeeded.
    """

    name: ClassVar[str] = "actor"
    drain_timeout_s: float = 30.0
    """How long running work may take to finish when the actor stops."""

    def __init__(self, config: Config, bus_config: BusConfig) -> None:
        self.config = config
        self.instance = secrets.token_hex(6)
        """New at every start of the process."""
        self.state = ActorState.NEW
        self.meter: Meter | None = None
        """Who counts what the actor does; set it before the start."""
        self.is_last = False
        """Whether the fleet ends with this actor, so that nobody is left who could go on with its work."""
        self.tracer: Tracer | None = None
        """Who traces the requests that it works on; set it before the start."""
        self._bus_config = bus_config
        self._bus: Bus | None = None
        self._parts = AsyncExitStack()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._intake: list[Subscription] = []
        self._stop_asked = asyncio.Event()
        self._is_hurried = False
        self._progress = asyncio.Event()
        self._failure: BaseException | None = None
        self._began_mono_s = time.monotonic()

    # -- hooks --------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Opens parts, subscribes and starts side tasks; whatever it raises ends the start."""

    def announce_draining(self) -> None:
        """Tells the others that this actor takes no new work."""

    async def stop_intake(self) -> None:
        """Ends the subscriptions that were made with `take`, once all that was on its way to them is handled."""
        intake, self._intake = self._intake, []
        await asyncio.gather(*(subscription.drain() for subscription in intake))

    def in_flight(self) -> Collection[str]:
        """Names of the work that is still running; call `drain_progress` whenever one ends."""
        return ()

    async def hand_back(self, reason: str) -> None:
        """Cancels and gives back what did not finish in time, and answers every ask that is left."""

    async def on_stop(self) -> None:
        """Says the last words before the parts are closed; whatever the actor opened is a part that it owns."""

    # -- use ----------------------------------------------------------------------------------------------

    @property
    def bus(self) -> Bus:
        """The actor's connection."""
        if self._bus is None:
            raise RuntimeError(f"{self.name} has not started")
        return self._bus

    async def own(self, part: PartT) -> PartT:
        """Opens a part, which is closed when the actor stops, before those that were opened earlier."""
        await part.start()
        self._parts.push_async_callback(self._close_part, part)
        return part

    async def register(self, description: str, *, metadata: Mapping[str, str] | None = None) -> Discovery:
        """Shows the actor, with all that it serves, as a NATS service; see `own_card`."""
        name = f"sollol-{self.name}"
        cards = own_card(self.bus, name, self.instance, description, metadata)
        return await self.own(Discovery(self.bus, name, cards, instance=self.instance))

    def take(self, subject: str, handler: Callable[[Msg], None], *, queue: str = "") -> None:
        """Subscribes to a subject that brings new work; ends first when the actor drains."""
        self._intake += self.bus.serve(subject, handler, queue=queue)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Runs a side task that lives no longer than the actor; if it fails, the actor stops."""
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{self.name}.{name}")
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def fail(self, error: BaseException) -> None:
        """Stops the actor because of an error that it cannot live with."""
        if self._failure is None:
            self._failure = error
        self.stop()

    def stop(self) -> None:
        """Asks the actor to drain and stop; safe from signal handlers, before the start, and twice."""
        self._stop_asked.set()
        self._progress.set()

    def hurry(self) -> None:
        """Ends the wait for work in flight: what is left is handed back at once. Safe at any time."""
        self._is_hurried = True
        self._progress.set()

    def drain_progress(self) -> None:
        """Says that something in flight has ended."""
        self._progress.set()

    async def run_until_stopped(self) -> None:
        """Returns when `stop` was called; raises what made the actor fail."""
        await self._stop_asked.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def is_open(self) -> bool:
        """Whether it runs or drains, so that the parts it opened are there."""
        return self.state in (ActorState.RUNNING, ActorState.DRAINING)

    def statistics(self) -> msgspec.Struct:
        """What the actor can say about itself while it is open; subclasses may return more."""
        return ActorStatistics(
            name=self.name,
            instance=self.instance,
            state=self.state,
            uptime_s=time.monotonic() - self._began_mono_s,
            in_flight=len(self.in_flight()),
        )

    async def exposition(self) -> bytes:
        """Metrics that only this kind of actor has, in Prometheus' text format."""
        return b""

    def __repr__(self) -> str:
        work = f" in_flight={len(self.in_flight())}" if self.is_open else ""
        return f"<{type(self).__name__} {self.instance} {self.state}{work}>"

    # -- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when it runs.

        Raises:
            SollolError: It cannot start; what it had opened is closed.
        """
        if self.state is not ActorState.NEW:
            raise RuntimeError(f"{self.name} was started before; make a new one")
        self.state = ActorState.STARTING
        try:
            self._bus = await Bus.connect(self._bus_config)
            self._bus.meter, self._bus.tracer = self.meter, self.tracer
            self.spawn(self._watch_connection(), name="connection")
            await self.on_start()
            await self._bus.flush()
        except BaseException:
            await self._end()
            raise
        self.state = ActorState.RUNNING
        log.info("%s %s runs", self.name, self.instance, extra={"action": "actor_running"})

    async def close(self) -> None:
        """Drains and stops; one that has stopped already does nothing."""
        if self.state is ActorState.STOPPED:
            return
        self.state = ActorState.DRAINING
        try:
            await self._drain()
            await self._attempt_closing(self.on_stop(), "last words")
        finally:
            await self._end()

    async def _drain(self) -> None:
        self._attempt_step(self.announce_draining, "announce")
        await self._attempt_closing(self.stop_intake(), "stop intake")
        began = time.monotonic()
        deadline = began + self.drain_timeout_s
        while (
            not self._is_hurried
            and (pending := self.in_flight())
            and (left := deadline - time.monotonic()) > 0
            and self.bus.is_connected
        ):
            self._progress.clear()
            if not await happens(self._progress, min(left, 1.0)):
                log.info(
                    "%s waits for %d in flight since %.0f s: %s",
                    self.name,
                    len(pending),
                    time.monotonic() - began,
                    ", ".join(list(pending)[:5]),
                    extra={"action": "drain_wait"},
                )
        await self._attempt_closing(self.hand_back(f"{self.name} is shutting down"), "hand back")

    def _attempt_step(self, step: Callable[[], None], what: str) -> None:
        try:
            step()
        except SollolError as error:
            log.warning("%s: %s: %s", self.name, what, error, extra={"action": "drain_step_failed"})

    async def _attempt_closing(self, closing: Coroutine[Any, Any, None], what: str) -> None:
        try:
            await closing
        except SollolError as error:
            log.warning("%s: %s: %s", self.name, what, error, extra={"action": "stop_failed"})

    async def _close_part(self, part: Part) -> None:
        await self._attempt_closing(part.close(), f"closing {type(part).__name__}")

    async def _end(self) -> None:
        try:
            await self._parts.aclose()
        finally:
            await end([task for task in self._tasks if task is not asyncio.current_task()], f"{self.name} stopped")
            if self._bus is not None:
                await self._bus.close()
            self.state = ActorState.STOPPED
            self._stop_asked.set()
            if self._bus is not None:  # one that never reached the bus has nothing to say beyond its error
                log.info("%s %s stopped", self.name, self.instance, extra={"action": "actor_stopped"})

    async def _watch_connection(self) -> None:
        await self.bus.closed.wait()
        if self.state in (ActorState.STARTING, ActorState.RUNNING):
            raise BusError(f"the bus closed the connection of {self.name}: {self.bus.close_reason}")

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("%s failed", task.get_name(), exc_info=error, extra={"action": "task_failed"})
            self.fail(error)
