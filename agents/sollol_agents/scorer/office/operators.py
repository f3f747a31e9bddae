"""Where operators steer the scorer in office, and where every scorer learns what they chose.

A choice is written to the settings bucket before it takes effect, so that a successor decides the same way; a
standby overhears the write. A choice that could not be kept is refused and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

import msgspec

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_agents.scorer.office import steering
from sollol_agents.scorer.office.groups import GroupOffice
from sollol_agents.scorer.office.node_called import node_called
from sollol_agents.scorer.office.takeover import forget_quality, forget_reliability
from sollol_agents.scorer.strategies import UnknownStrategy, available, prepare
from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.parts import Spawn
from sollol_bus.transport.acting import tell_act
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_bus.transport.subscription import Subscription
from sollol_schemas import stores, subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.steering import BreakerRequest, ResetEvent, ResetKind, StrategyEvent, StrategyRequest

log = logging.getLogger(__name__)

_CANNOT_FOLLOW = (BusError, UnknownStrategy, msgspec.ValidationError)


class Operators:
    """Answers `admin.strategy`, `admin.breaker` and what is asked of groups, and follows the choices that are kept.

    Args:
        bus: A connection on which the settings bucket exists.
        core: Whose strategy, settings and breakers are steered.
        spawn: Runs a coroutine as a task of the actor.
        carry_out: Sends the effects of closing breakers.
        on_forgotten: Called when an operator had something forgotten.
    """

    def __init__(
        self,
        bus: Bus,
        core: SchedulerCore,
        *,
        spawn: Spawn,
        carry_out: Callable[[Iterable[Effect]], None],
        on_forgotten: Callable[[], None] = lambda: None,
    ) -> None:
        self._bus = bus
        self._core = core
        self._spawn = spawn
        self._carry_out = carry_out
        self._on_forgotten = on_forgotten
        self._bucket = Bucket(bus, stores.SETTINGS_BUCKET)
        self._groups = GroupOffice(bus, core, spawn=spawn, carry_out=carry_out, on_forgotten=on_forgotten)

    async def follow(self) -> None:
        """Takes over what operators chose last, now and whenever they choose again."""
        await asyncio.to_thread(available)  # reads the metadata of installed programs
        self._bus.subscribe(subjects.RESET_EVENT, self._on_reset)
        try:
            await self._adopt((await self._bucket.get(stores.OPERATORS_CHOICE)).decode(StrategyRequest))
        except BusError as error:
            log.warning("the operators' choice is not known yet: %s", error, extra={"action": "strategy"})
        self._spawn(self._keep_up(), name="operators")
        await self._groups.follow()

    def open(self) -> list[Subscription]:
        """Takes operators' requests; for the scorer in office."""
        return [
            *self._bus.serve(subjects.ADMIN_STRATEGY, self._on_strategy),
            *self._bus.serve(subjects.ADMIN_BREAKER, self._on_breaker),
            *self._groups.open(),
        ]

    async def _keep_up(self) -> None:
        async for chosen in self._bucket.follow(stores.OPERATORS_CHOICE, StrategyRequest):
            await self._adopt(chosen)

    async def _adopt(self, chosen: StrategyRequest | None) -> None:
        """Decides as operators chose; what another version of this software chose may not be known here."""
        try:
            await self._decide_by(chosen or StrategyRequest())
        except (UnknownStrategy, msgspec.ValidationError) as error:
            log.warning("the operators' choice is not followed: %s", error, extra={"action": "strategy"})

    async def _decide_by(self, chosen: StrategyRequest) -> None:
        await asyncio.to_thread(prepare, chosen.strategy or "")  # imports what brings it
        if steering.apply(chosen, self._core):
            log.info(
                "decides by %s with %s",
                self._core.strategy,
                steering.settings_of(self._core),
                extra={"action": "strategy"},
            )

    def _on_reset(self, msg: Msg) -> None:
        """What the scorer in office or the recorder forgot, the others forget too."""
        try:
            event = decode(msg.data, ResetEvent)
        except DecodeFailed as error:
            log.warning("ignored a reset: %s", error, extra={"action": "bad_message"})
            return
        if event.kind is ResetKind.RELIABILITY:
            forget_reliability(self._core, event.node_id, canonical(event.model) if event.model else "")
        elif event.kind is ResetKind.QUALITY:
            forget_quality(self._core, canonical(event.model) if event.model else "")
        else:
            asked = BreakerRequest(reset=True, node_id=event.node_id, model=event.model)
            effects = steering.reset_breakers(asked, self._core, time.monotonic())
            self._carry_out([] if isinstance(effects, ErrorBody) else effects)
        self._on_forgotten()

    def _on_strategy(self, msg: Msg) -> None:
        try:
            asked = decode(msg.data or b"{}", StrategyRequest)
        except DecodeFailed as error:
            self._bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error)))
            return
        refusal = steering.refusal_of(asked, self._core)
        if refusal is not None:
            self._bus.respond_error(msg.reply, refusal)
        elif asked.strategy is None and not asked.settings:
            self._bus.respond(msg, steering.strategy_reply(self._core))
        else:
            self._spawn(self._choose(asked, msg), name="steer")

    async def _choose(self, asked: StrategyRequest, msg: Msg) -> None:
        """Keeps a choice for successors, decides by it from now on, and says so."""
        previous = self._core.strategy
        try:
            kept = (await self._bucket.get(stores.OPERATORS_CHOICE)).decode(StrategyRequest)
            chosen = steering.merged(asked, kept or StrategyRequest())
            await self._bucket.put(stores.OPERATORS_CHOICE, encode(chosen))
            await self._decide_by(chosen)
            event = StrategyEvent(
                strategy=self._core.strategy,
                previous=previous,
                settings=steering.settings_of(self._core),
                at=self._bus.clock.instant(),
            )
            self._bus.publish(subjects.STRATEGY_EVENT, encode(event))
            tell_act(self._bus, "strategy.set", asked.strategy or "", asked.settings, asked=msg.headers or {})
            self._bus.respond(msg, steering.strategy_reply(self._core))
        except _CANNOT_FOLLOW as error:
            log.warning("strategy not changed: %s", error, extra={"action": "strategy"})
            if self._bus.is_connected:
                body = ErrorBody(code=ErrorCode.INTERNAL, message=f"the choice could not be kept: {error}")
                self._bus.respond_error(msg.reply, body)

    def _on_breaker(self, msg: Msg) -> None:
        now = time.monotonic()
        try:
            asked = decode(msg.data or b"{}", BreakerRequest)
        except DecodeFailed as error:
            self._bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error)))
            return
        if asked.node_id:
            node = node_called(self._core, asked.node_id)
            if isinstance(node, ErrorBody):
                self._bus.respond_error(msg.reply, node)
                return
            asked = msgspec.structs.replace(asked, node_id=node.node_id)
        if asked.reset:
            effects = steering.reset_breakers(asked, self._core, now)
            if isinstance(effects, ErrorBody):
                self._bus.respond_error(msg.reply, effects)
                return
            self._carry_out(effects)
            event = ResetEvent(
                kind=ResetKind.BREAKERS, node_id=asked.node_id, model=asked.model, at=self._bus.clock.instant()
            )
            self._bus.publish(subjects.RESET_EVENT, encode(event))
            tell_act(self._bus, "breakers.reset", asked.node_id, {"model": asked.model}, asked=msg.headers or {})
        self._bus.respond(msg, steering.breakers_reply(self._core, now))
