"""The scorer on the bus: one in office decides, the others stay warm.

Safety: only the holder of the lease subscribes to grants, and every decision carries the lease's term, which
nodes compare; a holder that loses its lease or its connection answers nothing more. Liveness: all scorers hear
the same telemetry, loads and outcomes, so a successor knows the fleet; it tells dispatchers that it took office
and they ask again for what waits. Window: grants of the former holder's last moments are unknown to the
successor until the nodes list them, so a node may be asked for one slot too many, and answers `busy`.
"""

from __future__ import annotations

import logging
import random
import socket
import time
from collections.abc import Callable, Collection, Iterable
from typing import ClassVar, TypeVar

import msgspec

from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.office import clocks
from sollol_agents.scorer.office.capacity import Capacity
from sollol_agents.scorer.office.cuts import Cuts
from sollol_agents.scorer.office.decision_events import DecisionEvents
from sollol_agents.scorer.office.feedback import HeardFeedback
from sollol_agents.scorer.office.fleet_events import tell_of_fleet
from sollol_agents.scorer.office.intents import OperatorsIntents
from sollol_agents.scorer.office.node_services import node_services
from sollol_agents.scorer.office.operators import Operators
from sollol_agents.scorer.office.preloading import Preloading
from sollol_agents.scorer.office.rivals import Rivals
from sollol_agents.scorer.office.saved_knowledge import SavedKnowledge
from sollol_agents.scorer.office.statistics import ScorerStatistics
from sollol_agents.scorer.office.steering import breakers_reply
from sollol_agents.scorer.office.ticking import REST_S, Ticking
from sollol_agents.scorer.office.tracing import QuestionSpans
from sollol_agents.scorer.office.views import models_reply, nodes_answer
from sollol_agents.scorer.office.watch import Watch, presumed_lost
from sollol_bus.actor import Actor
from sollol_bus.errors import DecodeFailed, NotConnected
from sollol_bus.jetstream.office import Candidate
from sollol_bus.jetstream.outcomes import OutcomePublisher
from sollol_bus.jetstream.server_time import ServerTime
from sollol_bus.jetstream.streams import provision
from sollol_bus.transport.connection import SETTLING_S, BusConfig
from sollol_bus.transport.discovery import HELD, OFFICE, OFFICE_TERM, STANDS_BY
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_bus.transport.subscription import Subscription
from sollol_bus.trust.callers import Roster
from sollol_bus.trust.standings import StandingStore, follow_roster
from sollol_schemas import stores, subjects
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import BreakerEvent, BreakerState, NodeEvent, OfficeEvent, Outcome
from sollol_schemas.grant import Granted, GrantQueued, GrantRefused, GrantRelease, GrantRequest, RouteRequest
from sollol_schemas.headers import TRACEPARENT
from sollol_schemas.scaling import ScaleEvent, SleepEvent
from sollol_schemas.slim import slim
from sollol_schemas.telemetry import LoadUpdate, Telemetry

log = logging.getLogger(__name__)

_EARLY_S = 0.05  # a timer may be
_QUEUED_REPEAT_S = 2.0  # how often a waiting request's dispatcher is told so
_LEASE_TTL_S = 3  # how long an office outlives its holder
_DIGITS = 6  # of seconds, in what is answered
_GAP_S = 1.5  # a turn of the tick that comes so late means that this process was suspended

T = TypeVar("T")


class Scorer(Actor[ScorerConfig]):
    """Answers requests for slots while in office, and keeps up with the fleet in any case."""

    name: ClassVar[str] = "scorer"

    def __init__(self, config: ScorerConfig, bus_config: BusConfig, *, tick_s: float = 0.25) -> None:
        """`tick_s` is how often rules of time are checked while anything waits, runs or is in doubt."""
        super().__init__(config, bus_config)
        self.core = SchedulerCore(
            config, random.Random(config.seed or None), time.monotonic(), here=socket.gethostname()
        )
        self._ticking = Ticking(self.core, tick_s, time.monotonic)
        self._office: list[Subscription] = []
        self._shown: dict[str, str] = {OFFICE: STANDS_BY}
        self._replies: dict[str, str] = {}
        self._granted = self._refused = self._decisions = 0
        self._deciding_s = 0.0
        self._spans: QuestionSpans | None = None

    # -- life ---------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Listens to the fleet and stands for office."""
        await provision(self.bus)
        await self.own(ServerTime(self.bus, self.spawn))
        self._outcomes = await self.own(OutcomePublisher(self.bus))
        self._told = DecisionEvents(self.bus)
        self._preloading = Preloading(self.bus, self.core, self.spawn)
        self._cuts = Cuts(self.bus, self.core, self.spawn, time.monotonic)
        self._spans = QuestionSpans(self.bus.tracer) if self.bus.tracer is not None else None
        self._watch = Watch(self.bus, on_dispatcher_gone=self._on_dispatcher_gone, on_orphan=self._on_orphan)
        self._hear(subjects.TELEMETRY.all, Telemetry, self._on_telemetry)
        self._hear(subjects.LOAD.all, LoadUpdate, self.core.on_load)
        self._hear(subjects.OUTCOME_EVENT.all, Outcome, self.core.on_outcome)
        self.bus.on_reconnect(self._on_reconnect)
        self._saved = SavedKnowledge(
            self.bus, self.core, every_s=self.config.snapshot_every_s, is_leader=lambda: self.is_leader
        )
        self._operators = Operators(
            self.bus,
            self.core,
            spawn=self.spawn,
            carry_out=self._carry_out,
            on_forgotten=self._saved.save_soon,
        )
        self._capacity = await self.own(Capacity(self.bus, self.core, self.config, self.spawn, self._carry_out))
        self._intents = OperatorsIntents(self.bus, self.core, self.spawn, self._carry_out)
        self._nodes = node_services(self.bus, self.core.fleet)
        self._candidate = Candidate(
            self.bus,
            stores.SCORER_LEASE,
            self.instance,
            ttl_s=_LEASE_TTL_S,
            probe=subjects.SCORER_PROBE.of,
            on_acquired=self._on_acquired,
            on_lost=self._on_lost,
        )
        await self.own(self._candidate)
        await self.own(self._saved)
        await self.register("Decides which request starts where and when; one is in office.", metadata=self._shown)
        await self._operators.follow()
        self.core.ceilings.know(Roster(await StandingStore(self.bus).load_if_readable()))
        self.spawn(follow_roster(self.bus, self.core.ceilings.know), name="callers")
        self.spawn(self._candidate.run(), name="candidate")
        self.spawn(self._saved.run(), name="save what is learnt")
        self.spawn(self._saved.consult_recorder(), name="consult recorder")
        self.spawn(HeardFeedback(self.bus, self.core, self.instance).run(), name="feedback")
        self.spawn(self._tick_forever(), name="tick")
        self.spawn(Rivals(self.bus, self.instance, lambda: self.is_leader).run(), name="rivals")

    def in_flight(self) -> Collection[str]:
        """Nothing holds the scorer back: its successor takes the queue over at once."""
        return ()

    async def on_stop(self) -> None:
        """Tells the last decisions."""
        self._told.tell()

    @property
    def is_leader(self) -> bool:
        """Whether this scorer is in office."""
        return self.core.term > 0 and self._candidate.is_held

    def statistics(self) -> ScorerStatistics:
        """Office, queue and decisions so far."""
        return ScorerStatistics(
            instance=self.instance,
            state=self.state,
            is_leader=self.is_leader,
            term=self.core.term,
            nodes=len(self.core.fleet.nodes),
            queued=len(self.core.waiting),
            in_flight=self.core.fleet.in_flight,
            granted=self._granted,
            refused=self._refused,
            mean_decision_s=self._deciding_s / max(1, self._decisions),
            open_breakers=sum(
                view.state is BreakerState.OPEN for view in breakers_reply(self.core, time.monotonic()).breakers
            ),
            **self._capacity.figures(time.monotonic()),
            **self._cuts.figures(),
        )

    # -- office -------------------------------------------------------------------------------------------

    def _on_acquired(self, term: int) -> None:
        self.core.term = term
        self._shown |= {OFFICE: HELD, OFFICE_TERM: str(term)}
        self._office = [
            *self.bus.serve(subjects.GRANT, self._on_grant),
            *self.bus.serve(subjects.RELEASE, self._on_release),
            *self.bus.serve(subjects.SCORER_ROUTE, self._on_route),
            *self.bus.serve(subjects.NODES, self._on_nodes),
            *self.bus.serve(subjects.MODELS, self._on_models),
            *self._operators.open(),
            *self._capacity.open(),
            *self._cuts.open(),
        ]
        self._nodes.open()
        self._publish_office(term, is_leader=True, reason="took office")

    def _on_lost(self, reason: str) -> None:
        term, self.core.term = self.core.term, 0
        self._shown.pop(OFFICE_TERM, None)
        self._shown[OFFICE] = STANDS_BY
        for subscription in self._office:
            subscription.unsubscribe()
        self._office.clear()
        self._nodes.leave()
        self._replies.clear()
        if self._spans is not None:
            self._spans.keep(())
        self.core.forget_queue()
        if self.bus.is_connected:
            self._publish_office(term, is_leader=False, reason=reason)

    def _publish_office(self, term: int, *, is_leader: bool, reason: str) -> None:
        event = OfficeEvent(
            instance=self.instance, term=term, is_leader=is_leader, reason=reason, at=self.bus.clock.instant()
        )
        self.bus.publish(subjects.OFFICE_EVENT.of(self.instance), encode(event))

    def _on_reconnect(self) -> None:
        self.core.fleet.settle(time.monotonic() + SETTLING_S)

    # -- what the fleet tells -----------------------------------------------------------------------------

    def _hear(self, subject: str, kind: type[T], take: Callable[[T, float], list[Effect]]) -> None:
        def on_message(msg: Msg) -> None:
            try:
                value = decode(msg.data, kind)
            except DecodeFailed as error:
                log.warning("ignored a message on %s: %s", msg.subject, error, extra={"action": "bad_message"})
                return
            if getattr(value, "node_id", "") != subjects.last_token(msg.subject):
                log.warning(
                    "ignored a message on %s that speaks for another", msg.subject, extra={"action": "wrong_subject"}
                )
                return
            self._carry_out(take(value, time.monotonic()))
            self._cuts.look_soon()
            self._ticking.stir()

        self.bus.subscribe(subject, on_message)

    # -- what dispatchers ask -----------------------------------------------------------------------------

    def _on_grant(self, msg: Msg) -> None:
        if not self.is_leader:
            return
        try:
            request = decode(msg.data, GrantRequest)
        except DecodeFailed as error:
            self.bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error)))
            return
        self._replies[request.request_id] = msg.reply
        if self._spans is not None:
            self._spans.asked(request, (msg.headers or {}).get(TRACEPARENT, ""))
        meter, began = self.bus.meter, time.perf_counter()
        try:
            effects = self.core.enqueue(request, time.monotonic())
        except Exception as error:  # a bug must not leave the asker waiting
            extra = {"action": "decision_failed", "request_id": request.request_id}
            log.exception("deciding on %s failed", request.request_id, extra=extra)
            body = ErrorBody(code=ErrorCode.INTERNAL, message=f"the scorer failed: {type(error).__name__}")
            effects = [GrantRefused(request_id=request.request_id, error=body, term=self.core.term)]
        took_s = time.perf_counter() - began
        self._deciding_s += took_s
        if meter is not None:
            meter.considered(took_s)
        self._decisions += 1
        self._carry_out(effects)
        self._cuts.look_soon()
        self._ticking.stir()

    def _on_release(self, msg: Msg) -> None:
        try:
            release = decode(msg.data, GrantRelease)
        except DecodeFailed as error:
            log.warning("ignored a release: %s", error, extra={"action": "bad_message"})
            return
        request_id, number, comes_again = release.request_id, release.number, release.comes_again
        effects = self.core.release(request_id, time.monotonic(), number=number, comes_again=comes_again)
        waiting = self.core.waiting.get(request_id)
        if waiting is None or waiting.is_away:
            self._replies.pop(request_id, None)
        self._carry_out(effects)

    def _on_route(self, msg: Msg) -> None:
        try:
            request = decode(msg.data, RouteRequest)
        except DecodeFailed as error:
            self.bus.respond_error(msg.reply, ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error)))
            return
        answer = self.core.route(request, time.monotonic())
        if not isinstance(answer, ErrorBody):
            answer = slim(msgspec.structs.replace(answer, decided_at=self.bus.clock.instant()), _DIGITS)
        self._respond(msg, answer)

    def _on_nodes(self, msg: Msg) -> None:
        self._respond(msg, nodes_answer(self.core, time.monotonic(), self.instance, msg.data))

    def _on_models(self, msg: Msg) -> None:
        self.bus.respond(msg, models_reply(self.core))

    def _respond(self, msg: Msg, answer: object) -> None:
        if isinstance(answer, ErrorBody):
            self.bus.respond_error(msg.reply, answer)
        else:
            self.bus.respond(msg, answer)

    def _on_telemetry(self, told: Telemetry, now: float) -> list[Effect]:
        effects = self.core.on_telemetry(told, now)
        node = self.core.fleet.nodes.get(told.node_id)
        if node is not None:
            clocks.compare(node, told, self.bus.clock)
        return effects

    # -- time ---------------------------------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        last = looked = repeated = time.monotonic()
        while True:
            rest_s = await self._ticking.pause()
            now = time.monotonic()
            if now - last > rest_s + _GAP_S:
                self.core.fleet.settle(now + self.config.suspect_after_s)
            last = now
            self._carry_out(self.core.tick(now))
            if not self.is_leader:
                continue
            self._cuts.look_soon()
            if now - looked >= REST_S - _EARLY_S:
                looked = now
                self._watch.look(self.core)
                self._preloading.look(now)
                self._capacity.look(now)
                self._intents.look()
            if now - repeated >= _QUEUED_REPEAT_S:
                repeated = now
                self._replies = {k: v for k, v in self._replies.items() if k in self.core.waiting}
                if self._spans is not None:
                    self._spans.keep(self.core.waiting)
                self._carry_out(self.core.positions())

    def _on_dispatcher_gone(self, instance: str) -> None:
        log.info("dispatcher %s is gone; its requests wait no more", instance, extra={"action": "dispatcher_gone"})
        self._carry_out(self.core.forget_dispatcher(instance, time.monotonic()))

    def _on_orphan(self, attempt: Attempt) -> None:
        outcome = presumed_lost(attempt)
        self._outcomes.publish(outcome)
        self._carry_out(self.core.on_outcome(outcome, time.monotonic()))

    # -- effects ------------------------------------------------------------------------------------------

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        """Sends replies and events; a scorer out of office keeps them to itself."""
        if not effects or not self.is_leader:
            return
        try:
            for effect in effects:
                self._send(effect)
        except NotConnected as error:
            log.info("not sent: %s", error, extra={"action": "effect_lost"})

    def _send(self, effect: Effect) -> None:
        match effect:
            case Granted():
                self._granted += 1
                self._reply(effect.decision.request_id, effect)
            case GrantQueued():
                self._reply(effect.request_id, effect, is_last=False)
            case GrantRefused():
                self._refused += 1
                self._reply(effect.request_id, effect)
            case DecisionEvent():
                self._told.add(effect)
            case NodeEvent() | BreakerEvent():
                tell_of_fleet(self.bus, effect)
            case SleepEvent() | ScaleEvent():
                self._capacity.tell(effect)

    def _reply(self, request_id: str, answer: Granted | GrantQueued | GrantRefused, *, is_last: bool = True) -> None:
        reply = self._replies.pop(request_id, "") if is_last else self._replies.get(request_id, "")
        if self._spans is not None and not isinstance(answer, GrantQueued):
            self._spans.answered(answer)
        if reply:
            bus = self.bus
            bus.publish(reply, encode(answer))
            bus.hasten()  # a dispatcher waits for it: what is told and learnt besides can come after
