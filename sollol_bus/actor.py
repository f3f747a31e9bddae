"""The life of an actor: start loudly, supervise every task, drain in stages, stop once.

The drain goes in this order: announce, stop intake, finish what runs (up to `drain_timeout_s`, saying what is
waited for), hand back what is left with a reason, flush, close. Every actor runs as `async with Actor(...)`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Coroutine
from enum import StrEnum
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

import msgspec

from sollol_bus.errors import BusError, SollolError
from sollol_bus.observe.meter import Meter
from sollol_bus.observe.tracing import Tracer
from sollol_bus.transport.connection import Bus, BusConfig, Subscription
from sollol_bus.transport.messages import Msg

log = logging.getLogger(__name__)

Config = TypeVar("Config")


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


class Actor(Generic[Config]):
    """An independent process-like part of the system that meets others on the bus alone.

    Subclasses fill the hooks; they are called in the order in which they stand here.
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
        self.tracer: Tracer | None = None
        """Who traces the requests that it works on; set it before the start."""
        self._bus_config = bus_config
        self._bus: Bus | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._intake: list[Subscription] = []
        self._stop_asked = asyncio.Event()
        self._is_hurried = False
        self._progress = asyncio.Event()
        self._failure: BaseException | None = None
        self._began_mono_s = time.monotonic()

    # -- hooks --------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Subscribes and starts side tasks; whatever it raises ends the start."""

    def announce_draining(self) -> None:
        """Tells the others that this actor takes no new work."""

    def stop_intake(self) -> None:
        """Ends the subscriptions that were made with `take`."""
        for subscription in self._intake:
            subscription.unsubscribe()
        self._intake.clear()

    def in_flight(self) -> Collection[str]:
        """Names of the work that is still running; call `drain_progress` whenever one ends."""
        return ()

    def hand_back(self, reason: str) -> None:
        """Cancels and gives back what did not finish in time, and answers every ask that is left."""

    async def on_stop(self) -> None:
        """Closes what the actor owns; the bus is still connected."""

    # -- use ----------------------------------------------------------------------------------------------

    @property
    def bus(self) -> Bus:
        """The actor's connection."""
        if self._bus is None:
            raise RuntimeError(f"{self.name} has not started")
        return self._bus

    def take(self, subject: str, handler: Callable[[Msg], None], *, queue: str = "") -> Subscription:
        """Subscribes to a subject that brings new work; ends first when the actor drains."""
        subscription = self.bus.subscribe(subject, handler, queue=queue)
        self._intake.append(subscription)
        return subscription

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

    def statistics(self) -> msgspec.Struct:
        """What the actor can say about itself now; subclasses may return more."""
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
        return f"<{type(self).__name__} {self.instance} {self.state} in_flight={len(self.in_flight())}>"

    # -- life ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
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
            await self._close()
            raise
        self.state = ActorState.RUNNING
        log.info("%s %s runs", self.name, self.instance, extra={"action": "actor_running"})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.state is ActorState.STOPPED:
            return
        self.state = ActorState.DRAINING
        try:
            await self._drain()
        finally:
            await self._close()

    async def _drain(self) -> None:
        self._attempt_step(self.announce_draining, "announce")
        self._attempt_step(self.stop_intake, "stop intake")
        deadline = time.monotonic() + self.drain_timeout_s
        began = time.monotonic()
        while (
            not self._is_hurried
            and (pending := self.in_flight())
            and (left := deadline - time.monotonic()) > 0
            and self.bus.is_connected
        ):
            self._progress.clear()
            try:
                await asyncio.wait_for(self._progress.wait(), min(left, 1.0))
            except TimeoutError:
                shown = ", ".join(list(pending)[:5])
                log.info(
                    "%s waits for %d in flight since %.0f s: %s",
                    self.name,
                    len(pending),
                    time.monotonic() - began,
                    shown,
                    extra={"action": "drain_wait"},
                )
        self._attempt_step(lambda: self.hand_back(f"{self.name} is shutting down"), "hand back")

    def _attempt_step(self, step: Callable[[], None], what: str) -> None:
        try:
            step()
        except SollolError as error:
            log.warning("%s: %s: %s", self.name, what, error, extra={"action": "drain_step_failed"})

    async def _close(self) -> None:
        self.state = ActorState.DRAINING
        try:
            if self._bus is not None:
                await self.on_stop()
        except BusError as error:
            log.warning("%s: closing: %s", self.name, error, extra={"action": "stop_failed"})
        finally:
            tasks = [t for t in self._tasks if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel(f"{self.name} stopped")
            await asyncio.gather(*tasks, return_exceptions=True)
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
