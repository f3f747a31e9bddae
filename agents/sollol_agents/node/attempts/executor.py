"""Takes attempts from the bus, runs them in slots, and reports how they went."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

import msgspec

from sollol_agents.node.attempts import admission
from sollol_agents.node.attempts.attempt import Attempt
from sollol_agents.node.attempts.farewells import End, Farewells
from sollol_agents.node.attempts.leave import Leave
from sollol_agents.node.attempts.load_options import RunnerOptions
from sollol_agents.node.attempts.loading import LoadPatience
from sollol_agents.node.attempts.meter import Meter
from sollol_agents.node.attempts.outcome import evidence_of, is_doubtful
from sollol_agents.node.attempts.payload import Payload, payload_of
from sollol_agents.node.attempts.preparation import Preparation
from sollol_agents.node.attempts.question import Question
from sollol_agents.node.attempts.reports import Reports, outcome_of
from sollol_agents.node.attempts.slots import SlotTable
from sollol_agents.node.attempts.spans import AttemptTrace
from sollol_agents.node.attempts.speaker import Speaker
from sollol_agents.node.attempts.speeds import Speeds
from sollol_agents.node.attempts.watchdog import limits_of
from sollol_agents.node.attempts.workers import Workers
from sollol_agents.node.config import NodeConfig
from sollol_agents.node.engines.base import Engine
from sollol_agents.node.engines.http.trace_context import begin
from sollol_agents.node.engines.view import EngineView
from sollol_agents.requests.hops import header_of, marks_in
from sollol_bus.errors import BackendUnavailable, DecodeFailed, NotConnected
from sollol_bus.jetstream.outcomes import OutcomePublisher
from sollol_bus.parts import Spawn
from sollol_bus.transport.connection import INBOX_ROOT, Bus
from sollol_bus.transport.leave import is_needed
from sollol_bus.transport.messages import Msg, decode, encode, is_no_responders
from sollol_schemas import headers as h
from sollol_schemas import inboxes, subjects
from sollol_schemas.control import AttemptState
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode, Lack, Owner
from sollol_schemas.execution import AttemptFailed, CancelAttempt, Evidence, Exec
from sollol_schemas.ids import is_bus_id
from sollol_schemas.telemetry import EngineKind, InFlight

log = logging.getLogger(__name__)

_REMEMBERED: Final = 1024
_CALLER_FIRST_S: Final = 0.001
"""The caller's last message leaves so long before the report and the outcome wake everybody else."""


class LookAgain(Protocol):
    """Looks at the engine soon."""

    def __call__(self, *, inventory: bool = False) -> None:
        """At its models on disk too, when told so."""


class Executor:
    """The attempts of one node.

    Args:
        bus: The connection.
        config: Settings.
        node_id: The node's id.
        instance: This process's instance; attempts meant for another are ignored.
        view: What is known of the engine.
        spawn: Runs a coroutine as a task of the actor.
        on_change: Called when a slot was taken or freed.
        look_again: Called when the engine is likely to have changed: a load ended, or it failed.
    """

    def __init__(
        self,
        bus: Bus,
        config: NodeConfig,
        *,
        node_id: str,
        instance: str,
        view: EngineView,
        spawn: Spawn,
        on_change: Callable[[], None],
        look_again: LookAgain,
    ) -> None:
        self.bus = bus
        self.instance = instance
        self.node_id = node_id
        self.is_draining = self.is_leaving = False
        self.engine: Engine | None = None
        self.view = view
        self.slots = SlotTable(max(1, config.slots))
        self.speeds = Speeds()
        self.outcomes = OutcomePublisher(bus, to=subjects.NODE_OUTCOME)
        self.farewells = Farewells(bus)
        self.reports = Reports(self.farewells, self.outcomes)
        self._config = config
        self._spawn = spawn
        self._on_change = on_change
        self._look_again = look_again
        self.idle = asyncio.Event()
        """Set while no attempt runs."""
        self.idle.set()
        self.patience = LoadPatience(config.load_floor_s)
        self.preparation = Preparation(
            RunnerOptions(config.runner_options),
            lambda: self.view,
            self.speeds,
            patience=self.patience,
            spawn=spawn,
            look_again=look_again,
        )
        self._question = Question()
        self._workers = Workers(spawn, self._serve, "attempts")
        self._secret = secrets.token_bytes(16)
        self._attempts: dict[str, Attempt] = {}
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        self.meter = Meter(config, time.monotonic())
        self.terms = admission.Terms()
        self._probe = f"{inboxes.node_inbox_prefix(node_id)}.t{instance}"
        self._streams = itertools.count(1)
        self._by_stream: dict[str, Attempt] = {}
        self._unsettled, self._is_refused = 0, False
        """Whether a server kept something from a caller; it need not be one that asks for credentials."""
        bus.on_disconnect(self._on_disconnect)

    def start(self) -> None:
        """Listens for callers that have gone, and for cancellations."""
        self.bus.subscribe(f"{self._probe}.*.*", self._on_probe)
        self.bus.serve(subjects.NODE_CANCEL.of(self.node_id), self.on_cancel)
        self.bus.subscribe(subjects.NODE_LEAVE.of(self.node_id), lambda _: None)  # the server has heeded it
        self.bus.on_refused(self._on_refused)

    @property
    def takes_rests(self) -> bool:
        """Whether it drains, and neither ends soon nor goes to sleep: it goes on with what no other node can."""
        return self.is_draining and not self.is_leaving

    @property
    def attempts(self) -> Mapping[str, Attempt]:
        """The attempts in slots, by their ids."""
        return self._attempts

    def in_flight(self, now: float) -> tuple[InFlight, ...]:
        """The attempts in slots, as telemetry tells them."""
        return tuple(attempt.in_flight(now) for attempt in self._attempts.values())

    def silent_s(self, now: float) -> float:
        """Seconds since a running attempt last heard from the engine; infinite when none did."""
        heard = [attempt.last_at for attempt in self._attempts.values() if attempt.last_at is not None]
        return now - max(heard) if heard else math.inf

    def state_of(self, attempt_id: str) -> AttemptState:
        """What became of an attempt."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            ended = self._ended.get(attempt_id)
            return ended.state if ended is not None else AttemptState.UNKNOWN
        return AttemptState.STREAMING if attempt.has_spoken else AttemptState.RUNNING

    def told_again(self, attempt_id: str) -> int | None:
        """Somebody may have missed the end of an attempt: tells it again, as far as it is kept.

        Returns:
            How many messages came before the empty one that ended its stream; None: it has not ended, or is not known.
        """
        ended = self._ended.get(attempt_id)
        if ended is None:
            return None
        self.farewells.say_again(ended.stream)
        return ended.chunks

    # -- from the bus -------------------------------------------------------------------------------------

    def on_exec(self, msg: Msg) -> None:
        """Takes an attempt into a slot, or refuses it."""
        headers = msg.headers or {}
        try:
            exec_ = decode(headers.get(h.EXEC, "").encode(), Exec)
        except DecodeFailed as error:
            log.warning("unreadable exec: %s", error, extra={"action": "bad_exec"})
            return
        decision, reply_to = exec_.decision, headers.get(h.REPLY_TO, "")
        is_ours = (decision.node_id, decision.instance) == (self.node_id, self.instance)
        if not (is_ours and is_bus_id(exec_.attempt_id)):  # node and attempt are part of subjects from here on
            return
        if self.state_of(exec_.attempt_id) is not AttemptState.UNKNOWN:
            return
        now = time.monotonic()
        refused = admission.refusal_of(
            exec_,
            reply_to,
            highest_term=self.terms.highest(now),
            is_draining=self.is_draining and not (self.takes_rests and exec_.body_bytes is not None),
            has_engine=self.engine is not None,
            open_paths=self._config.open_paths,
        )
        self.terms.heard(decision.term, now)
        payload = payload_of(exec_, msg.data)
        refused = refused or payload.refused or self._take_slot(decision)
        if refused is not None:
            self._refuse(decision, refused)
            return
        self._begin(exec_, payload, reply_to, headers)

    def on_cancel(self, msg: Msg) -> None:
        """Stops an attempt."""
        try:
            asked = decode(msg.data, CancelAttempt)
        except DecodeFailed as error:
            log.warning("unreadable cancel: %s", error, extra={"action": "bad_cancel"})
            return
        if (attempt := self._attempts.get(asked.attempt_id)) is not None:
            attempt.give_up(asked.reason)

    def _on_probe(self, msg: Msg) -> None:
        if is_no_responders(msg):
            stream, _, last = msg.subject[len(self._probe) + 1 :].partition(".")
            if (attempt := self._by_stream.get(stream)) is not None:
                attempt.caller_gone(last)
            elif last in ("1", "end"):  # an only reply, or what ends a stream
                self.farewells.refused(stream)

    def _on_refused(self, subject: str) -> None:
        self._is_refused = self._is_refused or subject.startswith(INBOX_ROOT.lower())
        for attempt in self._attempts.values():
            if attempt.leave.inbox.lower() == subject:
                attempt.leave_lost()

    def _on_disconnect(self) -> None:
        for attempt in list(self._attempts.values()):
            attempt.disconnected()

    # -- attempts -----------------------------------------------------------------------------------------

    def _take_slot(self, decision: Decision) -> ErrorBody | None:
        model = decision.model
        model_slots = self.view.model_slots(model)
        if self.slots.take(decision.attempt_id, model, model_limit=model_slots):
            return None
        return admission.busy(self.slots.limit, len(self.slots), model, model_slots)

    def load_limit_s(self, model: str, forecast_s: float = 0.0) -> float:
        """Seconds that a load of this model may take."""
        installed = self.view.installed_model(model)
        return self.patience.limit_s(model, installed.size_bytes if installed is not None else 0, forecast_s)

    def _may_load(self, model: str) -> bool:
        """Whether the engine may load the model for the next request: one that serves several may swap them."""
        swaps = self.view.kind is EngineKind.OPENAI and len(self.view.inventory.installed) > 1
        return swaps and self.patience.is_doubtful(model, time.monotonic())

    def _begin(self, exec_: Exec, payload: Payload, reply_to: str, headers: Mapping[str, str]) -> None:
        assert self.engine is not None
        stream, tracer = str(next(self._streams)), self.bus.tracer
        leave = Leave(self.bus, self.node_id, reply_to, exec_.ticket, is_given=self._is_free)
        attempt = Attempt(
            self.bus,
            exec_,
            payload,
            engine=self.engine,
            view=self.view,
            meter=self.meter,
            speaker=Speaker(self.bus, leave, f"{self._probe}.{stream}", exec_, is_rest=payload.continued is not None),
            limits=limits_of(
                exec_,
                self._config,
                load_s=self.load_limit_s(exec_.decision.model, exec_.decision.forecast.load_s),
                may_load=self._may_load(exec_.decision.model),
            ),
            stream=stream,
            trace=AttemptTrace(tracer, exec_, headers.get(h.TRACEPARENT, "")) if tracer is not None else None,
        )
        self._attempts[attempt.attempt_id] = self._by_stream[stream] = attempt
        self.meter.set_running(len(self._attempts), time.monotonic())
        self.idle.clear()
        try:
            attempt.permission.accept()
        except NotConnected as error:
            attempt.stop(error)
        self._workers.take((attempt, header_of(*marks_in(headers.get(h.VIA, "")))))
        self._on_change()

    async def _serve(self, begun: tuple[Attempt, str]) -> None:
        attempt, via = begun
        begin(via)
        try:
            await attempt.run(self.preparation.prepare)
        finally:
            self._end(attempt)

    @property
    def _is_free(self) -> bool:
        """Whether this node may speak to everybody without leave."""
        return not is_needed(self.bus) and not self._is_refused

    def _refuse(self, decision: Decision, error: ErrorBody) -> None:
        log.info(
            "refused %s: %s",
            decision.attempt_id,
            error.message,
            extra={
                "action": "exec_refused",
                "request_id": decision.request_id,
                "attempt_id": decision.attempt_id,
                "code": error.code.value,
            },
        )
        report = AttemptFailed(attempt_id=decision.attempt_id, error=error)
        self.bus.publish(subjects.ATTEMPT.of(self.node_id, decision.attempt_id), encode(report))

    def _end(self, attempt: Attempt) -> None:
        """Gives the slot back, tells caller and dispatcher, and publishes the outcome."""
        self._attempts.pop(attempt.attempt_id, None)
        self._by_stream.pop(attempt.stream, None)
        self.slots.release(attempt.attempt_id)
        self.meter.set_running(len(self._attempts), time.monotonic())
        state = AttemptState.ENDED_SPOKEN if attempt.has_spoken else AttemptState.ENDED_SILENT
        end = attempt.end()
        self._ended[attempt.attempt_id] = _Ended(state, attempt.stream, end.chunks)
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        self._unsettled += 1
        self.farewells.begin(attempt.stream, end, is_said=not attempt.has_streamed, is_wanted=not attempt.is_given_up)
        if attempt.has_lost_leave:
            self.farewells.leave_lost(attempt.stream)
        if attempt.error is None and attempt.has_streamed:
            asyncio.get_running_loop().call_later(_CALLER_FIRST_S, self._settle, attempt, end)
        else:
            self._settle(attempt, end)

    def _settle(self, attempt: Attempt, end: End) -> None:
        """Reports an attempt that is over, and learns from it."""
        if attempt.last_at is not None:
            self.patience.answered(attempt.decision.model, attempt.last_at)
        elif attempt.error is not None and attempt.error.code is ErrorCode.STALLED:
            self.patience.cut(attempt.decision.model, attempt.limits.load_s)
        error = attempt.error
        if error is None:
            self.speeds.learn(attempt.decision.model, attempt.figures)
            if attempt.is_order:
                self._look_again()
        elif error.blamed in (Owner.ENGINE, Owner.UNCLEAR) or error.lack is Lack.MODEL:
            attempt.evidence = evidence_of(error, *attempt.asked, self._secret)
            self.view.runners.forget(self.view.blob(attempt.decision.model))
            self._look_again(inventory=error.lack is Lack.MODEL)
        if error is not None and attempt.evidence is not None and is_doubtful(error):
            self.reports.tell_alone(attempt, end)
            self._spawn(self._weigh(attempt, attempt.evidence), name=f"question.{attempt.attempt_id}")
        else:
            self.reports.tell(attempt, end)
            self._settled()
        self._on_change()

    async def _weigh(self, attempt: Attempt, evidence: Evidence) -> None:
        """Publishes an outcome with what the engine answers to a question of our own; the report cannot wait for it."""
        model, is_busy = attempt.decision.model, bool(self._attempts)
        try:
            is_failed = await self._question.is_failed(attempt.engine, self.view, model, is_busy=is_busy)
            attempt.evidence = msgspec.structs.replace(evidence, is_confirmed=is_failed)
        finally:
            self.outcomes.publish(outcome_of(attempt))
            self._settled()

    def _settled(self) -> None:
        self._unsettled -= 1
        if not self._attempts and not self._unsettled:
            self.idle.set()

    # -- the end ------------------------------------------------------------------------------------------

    def on_suspended(self) -> None:
        """This process did not run for a while: no permission that it got before is worth anything."""
        for attempt in self._attempts.values():
            attempt.permission.fence.void()

    def on_engine_lost(self, since_mono_s: float) -> None:
        """The engine answers no questions since then: what has heard nothing of it either need not wait longer."""
        for attempt in [one for one in self._attempts.values() if one.heard_at < since_mono_s]:
            attempt.stop(BackendUnavailable("the engine does not answer any more"))


class _Ended(NamedTuple):
    """What is remembered of an attempt that is over."""

    state: AttemptState
    stream: str
    chunks: int | None
    """Of a stream, how many messages came before the empty one."""
