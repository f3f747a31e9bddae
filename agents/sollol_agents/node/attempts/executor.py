"""Takes attempts from the bus, runs them in slots, and reports how they went."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Final

import msgspec

from sollol_agents.node.attempts import admission
from sollol_agents.node.attempts.attempt import Attempt
from sollol_agents.node.attempts.concurrency import Concurrency, mean_co_runners
from sollol_agents.node.attempts.load_options import RunnerOptions, cared_for
from sollol_agents.node.attempts.loading import Loader
from sollol_agents.node.attempts.outcome import outcome_of
from sollol_agents.node.attempts.slots import SlotTable
from sollol_agents.node.attempts.spans import AttemptTrace
from sollol_agents.node.attempts.speaker import Speaker
from sollol_agents.node.attempts.speeds import Rates
from sollol_agents.node.attempts.watchdog import limits_of
from sollol_agents.node.config import NodeConfig
from sollol_agents.node.engines.base import Engine, Work
from sollol_agents.node.engines.ollama_wire import is_load_only
from sollol_agents.node.engines.view import EngineView
from sollol_bus.errors import ActorStopped, BackendUnavailable, Cancelled, DecodeFailed, NotConnected
from sollol_bus.jetstream.outcomes import OutcomePublisher
from sollol_bus.parts import Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode, is_no_responders
from sollol_schemas import headers as h
from sollol_schemas import inboxes, subjects
from sollol_schemas.control import AttemptState
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import AttemptDone, AttemptFailed, CancelAttempt, Exec
from sollol_schemas.telemetry import EngineKind, InFlight

log = logging.getLogger(__name__)

_REMEMBERED: Final = 1024
_CALLER_FIRST_S: Final = 0.001
"""The caller's last message leaves so long before the report and the outcome wake everybody else."""
_ENGINE_TROUBLE: Final = frozenset(
    {ErrorCode.ENGINE_UNAVAILABLE, ErrorCode.ENGINE_PROTOCOL, ErrorCode.ENGINE_FAILED, ErrorCode.LOAD_FAILED}
)


class Executor:
    """The attempts of one node.

    Args:
        bus: The connection.
        config: Settings.
        node_id: The node's id.
        instance: This process's instance; attempts meant for another are ignored.
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
        spawn: Spawn,
        on_change: Callable[[], None],
        look_again: Callable[[], None],
    ) -> None:
        self.bus = bus
        self.instance = instance
        self.node_id = node_id
        self.is_draining = False
        self.engine: Engine | None = None
        self.view: EngineView | None = None
        self.slots = SlotTable(max(1, config.slots))
        self.rates = Rates()
        self.outcomes = OutcomePublisher(bus)
        self._config = config
        self._spawn = spawn
        self._on_change = on_change
        self._look_again = look_again
        self.idle = asyncio.Event()
        """Set while no attempt runs."""
        self.idle.set()
        self.loader = Loader(spawn, self._on_loaded)
        self._attempts: dict[str, Attempt] = {}
        self._ended: OrderedDict[str, AttemptState] = OrderedDict()
        self._concurrency = Concurrency(time.monotonic())
        self._highest_term = 0
        self._probe = f"{inboxes.node_inbox_prefix(node_id)}.t{instance}"
        self._streams = itertools.count(1)
        self._by_stream: dict[str, Attempt] = {}
        self._unsettled = 0
        self._farewells: list[tuple[Attempt, ErrorBody | None]] = []
        bus.on_disconnect(self._on_disconnect)
        bus.on_reconnect(self._on_reconnect)

    def start(self) -> None:
        """Listens for callers that have gone, and for cancellations."""
        self.bus.subscribe(f"{self._probe}.*.*", self._on_probe)
        self.bus.subscribe(subjects.NODE_CANCEL.of(self.node_id), self.on_cancel)

    @property
    def attempts(self) -> Collection[str]:
        """The attempts in slots."""
        return self._attempts.keys()

    def in_flight(self, now: float) -> tuple[InFlight, ...]:
        """The attempts in slots, as telemetry tells them."""
        return tuple(attempt.in_flight(now) for attempt in self._attempts.values())

    def silent_s(self, now: float) -> float:
        """Seconds since a running attempt last heard from the engine; infinite when none did."""
        heard = [a.course.last_at for a in self._attempts.values() if a.course.last_at is not None]
        return now - max(heard) if heard else math.inf

    def state_of(self, attempt_id: str) -> AttemptState:
        """What became of an attempt."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            return self._ended.get(attempt_id, AttemptState.UNKNOWN)
        return AttemptState.STREAMING if attempt.has_spoken else AttemptState.RUNNING

    # -- from the bus -------------------------------------------------------------------------------------

    def on_exec(self, msg: Msg) -> None:
        """Takes an attempt into a slot, or refuses it."""
        headers = msg.headers or {}
        try:
            envelope = decode(headers.get(h.EXEC, "").encode(), Exec)
        except DecodeFailed as error:
            log.warning("unreadable exec: %s", error, extra={"action": "bad_exec"})
            return
        is_mine = envelope.decision.instance == self.instance
        if not is_mine or self.state_of(envelope.attempt_id) is not AttemptState.UNKNOWN:
            return
        reply_to = headers.get(h.REPLY_TO, "")
        refused = admission.refusal_of(
            envelope,
            reply_to,
            highest_term=self._highest_term,
            is_draining=self.is_draining,
            has_engine=self.engine is not None,
            open_paths=self._config.open_paths,
        )
        self._highest_term = max(self._highest_term, envelope.decision.term)
        refused = refused or self._take_slot(envelope)
        if refused is not None:
            self._refuse(envelope, refused)
            return
        self._begin(envelope, msg.data, reply_to, headers.get(h.TRACEPARENT, ""))

    def on_cancel(self, msg: Msg) -> None:
        """Stops an attempt."""
        try:
            asked = decode(msg.data, CancelAttempt)
        except DecodeFailed as error:
            log.warning("unreadable cancel: %s", error, extra={"action": "bad_cancel"})
            return
        attempt = self._attempts.get(asked.attempt_id)
        if attempt is not None:
            attempt.stop(Cancelled(asked.reason or "cancelled"))

    def _on_probe(self, msg: Msg) -> None:
        if is_no_responders(msg):
            attempt = self._by_stream.get(msg.subject.split(".", 3)[2])
            if attempt is not None:
                attempt.caller_gone()

    def _on_disconnect(self) -> None:
        for attempt in list(self._attempts.values()):
            attempt.disconnected()

    def _on_reconnect(self) -> None:
        farewells, self._farewells = self._farewells, []
        for attempt, error in farewells:
            self._tell(attempt, error)

    # -- attempts -----------------------------------------------------------------------------------------

    def _take_slot(self, envelope: Exec) -> ErrorBody | None:
        model = envelope.decision.model
        model_slots = self.view.model_slots(model) if self.view is not None else 0
        if self.slots.take(envelope.attempt_id, model, model_limit=model_slots):
            return None
        return admission.busy(self.slots.limit, len(self.slots), model, model_slots)

    def _begin(self, envelope: Exec, body: bytes, reply_to: str, traceparent: str) -> None:
        assert self.engine is not None
        stream = str(next(self._streams))
        attempt = Attempt(
            self,
            envelope=envelope,
            work=Work(
                kind=envelope.decision.kind,
                model=envelope.decision.model,
                body=body,
                path=envelope.path,
                keep_alive_s=envelope.keep_alive_s,
            ),
            engine=self.engine,
            speaker=Speaker(self.bus, reply_to, f"{self._probe}.{stream}", envelope.decision),
            limits=limits_of(envelope, self._config),
            stream=stream,
            trace=AttemptTrace(self.bus.tracer, envelope, traceparent) if self.bus.tracer is not None else None,
        )
        now = time.monotonic()
        self._concurrency.set_running(len(self._attempts) + 1, now)
        attempt.area_before = self._concurrency.area(now)
        self._attempts[envelope.attempt_id] = self._by_stream[stream] = attempt
        self.idle.clear()
        try:
            attempt.accept()
        except NotConnected as error:
            attempt.stop(error)
        self._spawn(attempt.run(), name=f"attempt.{envelope.attempt_id}")
        self._on_change()

    def _refuse(self, envelope: Exec, error: ErrorBody) -> None:
        log.info(
            "refused %s: %s",
            envelope.attempt_id,
            error.message,
            extra={
                "action": "exec_refused",
                "request_id": envelope.decision.request_id,
                "attempt_id": envelope.attempt_id,
                "code": error.code.value,
            },
        )
        report = AttemptFailed(attempt_id=envelope.attempt_id, error=error)
        self.bus.publish(subjects.ATTEMPT.of(self.node_id, envelope.attempt_id), encode(report))

    async def prepare(self, attempt: Attempt) -> None:
        """Loads the model of an attempt by a request of the node's own, when it is not loaded."""
        view = self.view
        if view is None or view.kind is not EngineKind.OLLAMA or is_load_only(attempt.work):
            return
        self._take_care(attempt, view)
        work = attempt.work
        is_loaded = view.loaded_model(work.model) is not None and not attempt.envelope.decision.forecast.needs_load
        if is_loaded and not self.loader.is_loading(work.model):
            return
        attempt.enter_loading()
        began = time.monotonic()
        await self.loader.ensure(attempt.engine, work, attempt.limits.load_s)
        attempt.course.load_s = time.monotonic() - began

    def _take_care(self, attempt: Attempt, view: EngineView) -> None:
        """Leaves out of the body what would make the engine load the model anew."""
        work, loaded = attempt.work, view.loaded_model(attempt.work.model)
        cared = cared_for(
            work.kind,
            work.body,
            RunnerOptions(self._config.runner_options),
            keep_alive_s=work.keep_alive_s,
            context_tokens=loaded.context_length if loaded is not None else 0,
            prompt_tokens=attempt.envelope.decision.forecast.prompt_tokens,
        )
        attempt.work = msgspec.structs.replace(work, body=cared.body)
        attempt.course.left_out = cared.left_out
        if cared.left_out:
            log.info(
                "attempt %s runs without %s of its body",
                attempt.attempt_id,
                ", ".join(cared.left_out),
                extra={"action": "body_changed", "request_id": attempt.envelope.decision.request_id},
            )

    def _on_loaded(self, model: str, load_s: float) -> None:
        self.rates.learn_load(model, load_s)
        if self.view is not None:
            self.view.note_loaded(model)
        self._look_again()

    def ended(self, attempt: Attempt, error: ErrorBody | None) -> None:
        """Gives the slot back, tells caller and dispatcher, and publishes the outcome."""
        now = time.monotonic()
        self._attempts.pop(attempt.attempt_id, None)
        self._by_stream.pop(attempt.stream, None)
        self.slots.release(attempt.attempt_id)
        self._concurrency.set_running(len(self._attempts), now)
        self._ended[attempt.attempt_id] = AttemptState.ENDED_SPOKEN if attempt.has_spoken else AttemptState.ENDED_SILENT
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        self._unsettled += 1
        if error is None and self._farewell(attempt, error):
            asyncio.get_running_loop().call_later(_CALLER_FIRST_S, self._settle, attempt, error)
        else:
            self._settle(attempt, error)

    def _settle(self, attempt: Attempt, error: ErrorBody | None) -> None:
        """Reports an attempt that is over, learns from it, and publishes its outcome."""
        self._tell(attempt, error)
        if error is None:
            self.rates.learn(attempt.envelope.decision.model, attempt.figures)
        elif error.code in _ENGINE_TROUBLE:
            self._look_again()
        self._unsettled -= 1
        if not self._attempts and not self._unsettled:
            self.idle.set()
        self.outcomes.publish(outcome_of(attempt.envelope.decision, error, attempt.figures, dt.datetime.now(dt.UTC)))
        self._on_change()

    def complete_course(self, attempt: Attempt) -> None:
        """Fills in what only the node as a whole knows: who ran beside it, and where the model lay."""
        now = time.monotonic()
        elapsed_s = now - attempt.course.accepted_at
        area = self._concurrency.area(now)
        attempt.course.co_runners = mean_co_runners(attempt.area_before, area, elapsed_s)
        if self.view is not None:
            attempt.course.gpu_share = self.view.gpu_share(attempt.envelope.decision.model)

    def _farewell(self, attempt: Attempt, error: ErrorBody | None) -> bool:
        """Ends the caller's stream; False when the bus is gone and it has to be done again."""
        try:
            attempt.farewell(error)
        except NotConnected:
            return False
        return True

    def _tell(self, attempt: Attempt, error: ErrorBody | None) -> None:
        """Ends the caller's stream and reports to the dispatcher; kept for later while the bus is gone."""
        try:
            attempt.farewell(error)
            report: AttemptDone | AttemptFailed
            if error is None:
                report = AttemptDone(attempt_id=attempt.attempt_id, figures=attempt.figures)
            else:
                report = AttemptFailed(
                    attempt_id=attempt.attempt_id,
                    error=error,
                    is_streaming=attempt.has_spoken,
                    figures=attempt.figures,
                )
            self.bus.publish(subjects.ATTEMPT.of(self.node_id, attempt.attempt_id), encode(report))
        except NotConnected:
            self._farewells.append((attempt, error))

    # -- the end ------------------------------------------------------------------------------------------

    def on_suspended(self) -> None:
        """This process did not run for a while: no permission that it got before is worth anything."""
        for attempt in self._attempts.values():
            attempt.fence.void()

    def forget_terms(self) -> None:
        """Takes decisions of any term again."""
        self._highest_term = 0

    def hand_back(self, reason: str) -> None:
        """Stops what still runs: other nodes may take what has not begun to stream."""
        for attempt in list(self._attempts.values()):
            if attempt.has_spoken:
                attempt.stop(ActorStopped(reason))
            else:
                attempt.stop(BackendUnavailable(body=ErrorBody(code=ErrorCode.DRAINING, message=reason)))
