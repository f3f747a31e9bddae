"""One attempt: from the slot it took to the last word to its caller and the report about it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Protocol

from sollol_agents.node.attempts.fence import Fence, Verdict
from sollol_agents.node.attempts.fence_clock import fence_clock
from sollol_agents.node.attempts.outcome import Course, figures_of
from sollol_agents.node.attempts.spans import AttemptTrace
from sollol_agents.node.attempts.speaker import Speaker
from sollol_agents.node.attempts.watchdog import Limits, Phase, Watchdog
from sollol_agents.node.engines.base import Engine, EngineFigures, Run, Work
from sollol_bus.errors import BusError, Cancelled, DecodeFailed, NoResponders, SollolError, error_from
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import (
    AttemptAccepted,
    AttemptFirstToken,
    AttemptStart,
    Exec,
    Figures,
    StartAnswer,
)
from sollol_schemas.telemetry import InFlight

log = logging.getLogger(__name__)

_START_ANSWER_S = 2.0
_HOLD_S = 0.1


class Host(Protocol):
    """What an attempt needs of the node."""

    bus: Bus
    instance: str

    async def prepare(self, attempt: Attempt) -> None:
        """Loads the model when it is not loaded."""

    def complete_course(self, attempt: Attempt) -> None:
        """Fills in what the node as a whole knows about the attempt's course."""

    def ended(self, attempt: Attempt, error: ErrorBody | None) -> None:
        """The attempt is over: gives the slot back and reports."""


class Attempt:
    """One attempt that holds a slot.

    Args:
        host: The node.
        envelope: What the dispatcher sent.
        work: The request for the engine.
        engine: Where it runs.
        speaker: The way to the caller.
        limits: How long the engine may be silent.
        stream: The token of the reply subjects on which a caller that left is noticed.
        trace: Its spans, when somebody traces.
    """

    def __init__(
        self,
        host: Host,
        *,
        envelope: Exec,
        work: Work,
        engine: Engine,
        speaker: Speaker,
        limits: Limits,
        stream: str = "",
        trace: AttemptTrace | None = None,
    ) -> None:
        now = time.monotonic()
        self.stream = stream
        self._trace = trace
        self.envelope = envelope
        self.attempt_id = envelope.attempt_id
        self.work = work
        self.engine = engine
        self.limits = limits
        self.fence = Fence(envelope.go_s)
        self.course = Course(accepted_at=now)
        self.area_before = 0.0
        """The node's concurrency integral when it began."""
        self.figures = Figures()
        """Complete when the attempt is over."""
        self._host = host
        self._bus = host.bus
        self._speaker = speaker
        self._subject = subjects.ATTEMPT.of(envelope.decision.node_id, self.attempt_id)
        self._watchdog = Watchdog(limits, now)
        self._deadline_at = now + envelope.deadline_s
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop: SollolError | None = None
        self._run: Run | None = None
        self._changed: asyncio.Event = asyncio.Event()
        self._is_missed = False
        self._is_over = False
        self._is_farewell_said = False
        self._withdraw: Callable[[], None] | None = None

    # -- from outside -------------------------------------------------------------------------------------

    @property
    def has_spoken(self) -> bool:
        """Whether the caller got a chunk."""
        return self.fence.has_spoken

    def in_flight(self, now: float) -> InFlight:
        """The attempt as telemetry tells it."""
        envelope = self.envelope
        return InFlight(
            attempt_id=self.attempt_id,
            model=envelope.decision.model,
            elapsed_s=max(0.0, now - self.course.accepted_at),
            output_tokens=self._run.output_chunks if self._run is not None else 0,
            has_first_token=self.course.first_at is not None,
            is_loading=self._watchdog.phase is Phase.LOADING,
            forecast=envelope.decision.forecast,
        )

    def accept(self) -> None:
        """Tells the dispatcher that the attempt has a slot, and asks for its `go`."""
        message = AttemptAccepted(attempt_id=self.attempt_id, instance=self._host.instance)
        self.fence.accepted_sent(fence_clock())
        self._withdraw = self._bus.ask(
            self._subject, encode(message), self._on_accepted_answer, timeout_s=self.envelope.go_s
        )

    def stop(self, error: SollolError) -> None:
        """Ends the attempt with an error; the engine's connection is closed at once. Later calls have no effect."""
        if self._stop is not None or self._is_over:
            return
        self._stop = error
        if self._task is not None:  # else it ends as soon as it starts
            self._task.cancel()

    def caller_gone(self) -> None:
        """The server says that nobody listens on the caller's inbox."""
        if self._bus.is_settling:
            self._is_missed = True  # the caller may still be coming back
        else:
            self.stop(Cancelled("the caller left"))

    def disconnected(self) -> None:
        """The bus is gone: what has not begun to stream is dropped, a stream is broken."""
        self.fence.disconnected()
        self.stop(_error(ErrorCode.CONNECTION_LOST, "the node lost its connection to the bus"))

    # -- life ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs to the end, whatever that is; raises nothing but its own cancellation by the actor."""
        self._task = asyncio.current_task()
        self._check_time()
        error: SollolError | None = self._stop
        try:
            if error is None:
                await self._work()
        except asyncio.CancelledError:
            if self._stop is None:
                self._conclude(_error(ErrorCode.ACTOR_STOPPED, "the node stopped"))
                raise
            error = self._stop
        except SollolError as failure:
            error = self._stop or failure
        except Exception as bug:
            log.exception("attempt %s failed", self.attempt_id, extra=self._extra("attempt_bug"))
            error = _error(ErrorCode.INTERNAL, f"a bug in the node: {type(bug).__name__}")
        self._conclude(error)

    async def _work(self) -> None:
        await self._host.prepare(self)
        self.course.began_at = time.monotonic()
        self._enter(Phase.FIRST_TOKEN)
        if self._trace is not None:
            self._trace.call(self.engine)
        run = self._run = self.engine.run(self.work)
        async with aclosing(run.chunks()) as chunks:
            if self.envelope.stream:
                async for batch in chunks:
                    await self._speak(run, batch)
            else:
                collected: list[bytes] = []
                async for batch in chunks:
                    self._heard(run)
                    collected += batch
        if not self.envelope.stream:
            await self._reply(run, collected)
        elif not self.has_spoken:
            raise _error(ErrorCode.ENGINE_PROTOCOL, "the engine's answer was empty")

    async def _speak(self, run: Run, batch: list[bytes]) -> None:
        is_first = not self.has_spoken
        self._heard(run)
        if is_first:
            await self._permission()
            await self._first(run, batch[0])
            batch = batch[1:]
        say = self._speaker.say
        for chunk in batch:
            say(chunk)
        await self._bus.make_room()

    def _heard(self, run: Run) -> None:
        """Notes that the engine said something."""
        now = time.monotonic()
        course = self.course
        course.last_at = now
        course.output_chunks = run.output_chunks
        if course.first_at is None:
            course.first_at = now
            if self._trace is not None:
                self._trace.first()
            self._enter(Phase.BETWEEN_TOKENS)
        else:
            self._watchdog.enter(Phase.BETWEEN_TOKENS, now)

    async def _first(self, run: Run, chunk: bytes) -> None:
        """Publishes the first chunk; within seconds of a reconnect, again until the caller is back."""
        self._report_first_token()
        if self.work.kind is RequestKind.PASSTHROUGH:
            self._speaker.content_type = run.content_type
        self.fence.spoke()
        await self._until_heard(lambda: self._speaker.say(chunk))

    async def _until_heard(self, publish: Callable[[], None]) -> None:
        """Publishes the first message; within seconds of a reconnect, again until the caller is back.

        Raises:
            Cancelled: The caller did not come back.
        """
        publish()
        while self._bus.is_settling:
            await self._bus.flush()  # the server's 503 comes before the flush is answered
            if not self._is_missed:
                return
            await asyncio.sleep(_HOLD_S)
            self._is_missed = False
            self._speaker.messages = 0
            publish()

    async def _reply(self, run: Run, collected: list[bytes]) -> None:
        if not collected:
            raise _error(ErrorCode.ENGINE_PROTOCOL, "the engine's answer was empty")
        body = run.join(collected)
        await self._permission()
        if self.work.kind is RequestKind.PASSTHROUGH:
            self._speaker.content_type = run.content_type
        self._finish_figures(run.figures)
        await self._until_heard(lambda: self._speaker.reply(body, self.figures))
        self.fence.spoke()

    def _conclude(self, error: SollolError | None) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._withdraw is not None:
            self._withdraw()
        self._finish_figures(self._run.figures if self._run is not None else None)
        body = None if error is None else error.body
        if self._trace is not None:
            self._trace.end(self.figures, body)
        self._host.ended(self, body)

    def farewell(self, error: ErrorBody | None) -> None:
        """Ends the caller's stream, if one has begun; once, however often it is called.

        Raises:
            NotConnected: The bus is gone; call it again when it is back.
        """
        if self._is_farewell_said or not (self.envelope.stream and self.has_spoken):
            return
        if error is None:
            self._speaker.end(self.figures)
        else:
            self._speaker.fail(error, self.figures)
        self._is_farewell_said = True

    def _finish_figures(self, engine: EngineFigures | None) -> None:
        self.course.chunks = self._speaker.messages
        self._host.complete_course(self)
        self.figures = figures_of(self.course, engine, time.monotonic())

    def _report_first_token(self) -> None:
        """Tells the dispatcher, before the caller hears anything, that nobody may retry this any more."""
        ttft_s = (self.course.first_at or self.course.accepted_at) - self.course.accepted_at
        report = AttemptFirstToken(attempt_id=self.attempt_id, ttft_s=max(0.0, ttft_s))
        self._bus.publish(self._subject, encode(report))

    # -- permission ---------------------------------------------------------------------------------------

    async def _permission(self) -> None:
        """Returns when the first chunk may be published."""
        if self.fence.verdict(fence_clock()) is Verdict.SPEAK:
            return
        self._enter(Phase.PERMISSION)
        while True:
            self._changed.clear()
            match self.fence.verdict(fence_clock()):
                case Verdict.SPEAK:
                    break
                case Verdict.STOP:
                    raise Cancelled("the dispatcher gave the attempt up")
                case Verdict.ASK:
                    if self._bus.is_settling:
                        await asyncio.sleep(_HOLD_S)
                    self._ask_start()
                case Verdict.WAIT:
                    await self._changed.wait()
        self._enter(Phase.BETWEEN_TOKENS)

    def _ask_start(self) -> None:
        self.fence.start_sent()
        self._withdraw = self._bus.ask(
            self._subject,
            encode(AttemptStart(attempt_id=self.attempt_id)),
            self._on_start_answer,
            timeout_s=_START_ANSWER_S,
        )

    def _on_accepted_answer(self, answer: Msg | BusError) -> None:
        go = self._go_in(answer)
        if go is not None:
            self.fence.accepted_answered(go=go)
        self._permission_changed()

    def _on_start_answer(self, answer: Msg | BusError) -> None:
        go = self._go_in(answer)
        if go is not None:
            self.fence.start_answered(go=go)
        self._permission_changed()

    def _go_in(self, answer: Msg | BusError) -> bool | None:
        """The answer, or None when there is none (which the fence is told)."""
        if isinstance(answer, NoResponders):
            self.fence.nobody_listens(is_settling=self._bus.is_settling)
            return None
        try:
            if not isinstance(answer, BusError):
                return decode(answer.data, StartAnswer).go
        except DecodeFailed as error:
            log.warning("attempt %s: %s", self.attempt_id, error, extra=self._extra("bad_answer"))
        self.fence.unanswered()
        return None

    def _extra(self, action: str) -> dict[str, str]:
        request_id = self.envelope.decision.request_id
        return {"action": action, "request_id": request_id, "attempt_id": self.attempt_id}

    def _permission_changed(self) -> None:
        self._changed.set()
        if self.fence.verdict(fence_clock()) is Verdict.STOP:
            self.stop(Cancelled("the dispatcher gave the attempt up"))

    # -- time ---------------------------------------------------------------------------------------------

    def enter_loading(self) -> None:
        """The model is being loaded from now on."""
        self._enter(Phase.LOADING)

    def _enter(self, phase: Phase) -> None:
        self._watchdog.enter(phase, time.monotonic())

    def _check_time(self) -> None:
        """Looks at the clock as often as the shortest limit; so no phase, and no token, costs a timer."""
        now = time.monotonic()
        watchdog = self._watchdog
        left = min(watchdog.left_s(now), self._deadline_at - now)
        if now >= self._deadline_at:
            self.stop(_error(ErrorCode.DEADLINE_EXCEEDED, f"no answer within {self.envelope.deadline_s:g} s"))
        elif left <= 0:
            waited = f"{watchdog.limit_s:g} s without {watchdog.phase.value}"
            self.stop(_error(ErrorCode.STALLED, f"the engine stalled: {waited}"))
        else:
            delay_s = min(left, self.limits.shortest_s) + 0.001
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._check_time)


def _error(code: ErrorCode, message: str) -> SollolError:
    return error_from(ErrorBody(code=code, message=message))
