"""One attempt: from the slot it took to the last word to its caller."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Final

from sollol_agents.node.attempts.farewells import End
from sollol_agents.node.attempts.interest import LOOK, Interest
from sollol_agents.node.attempts.leave import Leave
from sollol_agents.node.attempts.loading import with_load
from sollol_agents.node.attempts.meter import Meter
from sollol_agents.node.attempts.outcome import figures_of
from sollol_agents.node.attempts.payload import Payload, movable_of, requested
from sollol_agents.node.attempts.permission import Permission
from sollol_agents.node.attempts.spans import AttemptTrace
from sollol_agents.node.attempts.speaker import Passing, Speaker
from sollol_agents.node.attempts.watchdog import Limits, Phase, Watchdog
from sollol_agents.node.engines.base import Engine, EngineAnswer
from sollol_agents.node.engines.view import EngineView
from sollol_bus.errors import Cancelled, SollolError, error_from
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_bus.transport.streaming import MAX_ANSWER_BYTES, too_large
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import ABANDONED, AttemptFirstToken, Evidence, Exec, Figures
from sollol_schemas.telemetry import InFlight

log = logging.getLogger(__name__)

_HOLD_S: Final = 0.1


class Attempt:
    """One attempt that holds a slot.

    Args:
        bus: The connection.
        exec_: What the dispatcher sent.
        payload: The caller's body, and what was said of the answer already.
        engine: Where it runs.
        view: What is known of that engine.
        meter: What is measured of the node as a whole.
        speaker: The way to the caller.
        limits: How long the engine may be silent.
        stream: The token of the reply subjects on which a caller that left is noticed.
        trace: Its spans, when somebody traces.
    """

    def __init__(
        self,
        bus: Bus,
        exec_: Exec,
        payload: Payload,
        *,
        engine: Engine,
        view: EngineView,
        meter: Meter,
        speaker: Speaker,
        limits: Limits,
        stream: str,
        trace: AttemptTrace | None,
    ) -> None:
        now = time.monotonic()
        decision = exec_.decision
        self.decision = decision
        self.attempt_id, self.is_resumable, self._told = exec_.attempt_id, exec_.is_resumable, exec_
        self.request = requested(exec_, payload)
        self.engine, self.limits = engine, limits
        self.stream = stream
        self.load_s = 0.0
        """The node's own load before the request."""
        self.left_out: tuple[str, ...] = ()
        """Fields of the caller's body that the engine does not get."""
        self.is_order = False
        """Whether it is there for what it makes of the engine's memory alone."""
        self.last_at: float | None = None
        """When the engine was heard last."""
        self.figures = Figures()
        """Complete when the attempt is over."""
        self.error: ErrorBody | None = None
        """Why it ended; None: it is whole, or not over."""
        self.evidence: Evidence | None = None
        """What its failure proves."""
        self.asked = (decision.caller or exec_.caller, payload.body)
        """Who asked, and what, as it came."""
        self.permission = Permission(bus, decision, exec_.go_s, speaker.leave, self._refused)
        self._bus = bus
        self._view = view
        self._meter = meter
        self._began = meter.begin(now)
        self._speaker = speaker
        self._interest = Interest(bus, speaker, decision.node_id)
        self._trace = trace
        self.wants_stream = exec_.stream
        self._watchdog = Watchdog(limits, now)
        self._accepted_at = now
        self._began_at: float | None = None
        self._first_at: float | None = None
        self._deadline_s = exec_.deadline_s
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop: SollolError | None = None
        self._answer: EngineAnswer | None = None
        self._is_missed = self._is_over = False

    is_given_up = False  # whether its dispatcher took it back
    _out_of_reach = ""  # what is told in the place of the error to a caller that hears it after all
    has_lost_leave = False  # whether the server let nothing through to the caller

    # -- from outside -------------------------------------------------------------------------------------

    @property
    def has_spoken(self) -> bool:
        """Whether the caller got a chunk."""
        return self.permission.fence.has_spoken

    @property
    def leave(self) -> Leave:
        """To speak to the caller."""
        return self._speaker.leave

    @property
    def heard_at(self) -> float:
        """When the engine was heard last, or was asked, or the attempt began."""
        return self.last_at or self._began_at or self._accepted_at

    @property
    def has_streamed(self) -> bool:
        """Whether the caller got a chunk of a stream, whose end it waits for."""
        return self.wants_stream and self.has_spoken

    def in_flight(self, now: float) -> InFlight:
        """The attempt as telemetry tells it."""
        return InFlight(
            attempt_id=self.attempt_id,
            model=self.decision.model,
            elapsed_s=max(0.0, now - self._accepted_at),
            output_tokens=self._answer.output_chunks if self._answer is not None else 0,
            has_first_token=self._first_at is not None,
            is_loading=self._watchdog.phase is Phase.LOADING,
            forecast=self.decision.forecast,
            movable=movable_of(self._told, self.request.continued, now - self._accepted_at),
        )

    def stop(self, error: SollolError) -> None:
        """Ends the attempt with an error; the engine's connection is closed at once. Later calls have no effect."""
        if self._stop is not None or self._is_over:
            return
        self._stop = error
        if self._task is not None:  # else it ends as soon as it starts
            self._task.cancel()

    def caller_gone(self, told: str) -> None:
        """The server says that nobody listens on the caller's inbox; `told`: the number of what was said, or a look."""
        if self._bus.is_settling and told == LOOK:
            return
        if self._bus.is_settling:
            self._is_missed = True  # the caller may still be coming back
            if self._speaker.messages > 1:
                self.stop(_error(ErrorCode.CONNECTION_LOST, "a piece of the answer was lost on the way to the caller"))
        else:
            self._out_of_reach = "the caller could not be reached for a while"
            self.stop(Cancelled("the caller left"))

    def leave_lost(self) -> None:
        """The server lets nothing through to the caller."""
        self.has_lost_leave = True
        if self.has_streamed:
            self.stop(_error(ErrorCode.CONNECTION_LOST, "a piece of the answer was lost on the way to the caller"))

    def disconnected(self) -> None:
        """The bus is gone: what has not begun to stream is dropped, a stream is broken."""
        self.permission.fence.disconnected()
        self.stop(_error(ErrorCode.CONNECTION_LOST, "the node lost its connection to the bus"))

    def give_up(self, reason: str) -> None:
        """Its dispatcher takes it back."""
        self.is_given_up = True
        if reason == ABANDONED:
            self._out_of_reach = "the node was out of its dispatcher's reach for a while"
        self.stop(Cancelled(reason or "cancelled"))

    def _refused(self) -> None:
        self.stop(Cancelled("the dispatcher gave the attempt up"))

    # -- life ---------------------------------------------------------------------------------------------

    async def run(self, prepare: Callable[[Attempt], Awaitable[None]]) -> None:
        """Runs to the end, whatever that is; raises nothing but its own cancellation by the actor.

        Args:
            prepare: Loads the model when it is not loaded.
        """
        self._task = asyncio.current_task()
        self._check_time_in(min(self._deadline_s, self.limits.shortest_s))
        self._interest.watch()
        error: SollolError | None = self._stop
        try:
            if error is None:
                await prepare(self)
                await self._converse()
        except asyncio.CancelledError:
            if self._stop is None:
                code = ErrorCode.ACTOR_STOPPED if self.has_spoken else ErrorCode.DRAINING  # another node may serve it
                self._conclude(_error(code, "the node stopped"))
                raise
            error = self._stop
        except SollolError as failure:
            error = self._stop or failure
        except Exception as bug:
            extra = {"action": "attempt_bug", "request_id": self.decision.request_id, "attempt_id": self.attempt_id}
            log.exception("attempt %s failed", self.attempt_id, extra=extra)
            error = _error(ErrorCode.INTERNAL, f"a bug in the node: {type(bug).__name__}")
        self._conclude(error)

    async def _converse(self) -> None:
        """Asks the engine and hands its answer to the caller."""
        self._began_at = time.monotonic()
        self._enter(Phase.FIRST_TOKEN)
        if self._trace is not None:
            self._trace.call(self.engine)
        answer = self._answer = self.engine.run(self.request)
        answer.taker = Passing(self._speaker, lambda: self.has_streamed, self._heard)
        collected: list[bytes] = []
        size = 0
        async with aclosing(answer.chunks()) as chunks:
            async for batch in chunks:
                self._heard()
                if self.load_s and batch and self.decision.kind is not RequestKind.PASSTHROUGH:
                    batch[-1] = with_load(batch[-1], self.load_s)
                if not self.wants_stream:
                    collected += batch
                    if (size := size + sum(map(len, batch))) > MAX_ANSWER_BYTES:
                        raise too_large()
                elif self.has_spoken:
                    await self._speak(batch)
                elif batch:
                    await self._speak_first(answer, batch)
        if self._first_at is None:
            raise _error(ErrorCode.ENGINE_PROTOCOL, "the engine's answer was empty")
        if not self.wants_stream:
            await self._reply(answer, collected)

    def _heard(self) -> None:
        """Notes that the engine said something."""
        now = self.last_at = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            if self._trace is not None:
                self._trace.first(self._answer.seam_s if self._answer is not None else 0.0)
        self._watchdog.enter(Phase.BETWEEN_TOKENS, now)

    async def _speak_first(self, answer: EngineAnswer, batch: list[bytes]) -> None:
        """Publishes the first chunk once it may leave; the dispatcher hears of it before the caller does."""
        await self._permitted()
        self._tell_content_type(answer)
        if answer.is_whole and self._speaker.keeps(batch):
            self.permission.fence.spoke()
            return
        if not (answer.is_whole and self._speaker.says_at_once(batch)):  # such an answer is told as one reply is
            ttft_s = max(0.0, (self._first_at or 0.0) - self._accepted_at)
            report = AttemptFirstToken(attempt_id=self.attempt_id, ttft_s=ttft_s)
            self._bus.publish(subjects.ATTEMPT.of(self.decision.node_id, self.attempt_id), encode(report))
        self.permission.fence.spoke()
        chunk, *others = self._speaker.together(batch)
        first, *more = self._speaker.pieces(chunk)
        await self._until_heard(partial(self._speaker.say, first))
        await self._speaker.say_all(more)
        await self._speak(others)

    async def _speak(self, batch: list[bytes]) -> None:
        is_ending = self.leave.is_ending(time.monotonic())
        due = self._speaker.due(batch, is_held=not is_ending)
        if due and is_ending:
            await self._on_leave()
        for chunk in due:
            await self._speaker.say_all(self._speaker.pieces(chunk))

    async def _reply(self, answer: EngineAnswer, collected: list[bytes]) -> None:
        body = answer.join(collected)
        await self._permitted()
        self._tell_content_type(answer)
        self._finish_figures()
        await self._until_heard(lambda: self._speaker.reply(body, self.figures))
        self.permission.fence.spoke()

    async def _on_leave(self) -> None:
        """Returns when the server lets something through to the caller again."""
        self._enter(Phase.PERMISSION)
        await self.leave.renew()
        self._enter(Phase.BETWEEN_TOKENS)

    async def _permitted(self) -> None:
        """Returns when the first chunk may leave: permission may run out while leave is waited for."""
        while True:
            if not self.permission.is_given:
                self._enter(Phase.PERMISSION)
                await self.permission.wait()
                self._enter(Phase.BETWEEN_TOKENS)
            if not self.leave.is_ending(time.monotonic()):
                return
            await self._on_leave()

    def _tell_content_type(self, answer: EngineAnswer) -> None:
        if self.request.kind is RequestKind.PASSTHROUGH:
            self._speaker.content_type = answer.content_type

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

    # -- the end ------------------------------------------------------------------------------------------

    def _conclude(self, error: SollolError | None) -> None:
        self._is_over = True
        self._speaker.over(is_whole=error is None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.permission.close()
        self._interest.close()
        self._finish_figures()
        self.error = None if error is None else error.body
        if self._trace is not None:
            self._trace.end(self.figures, self.error)

    def end(self) -> End:
        """How it ended, for its caller (nothing: the dispatcher tells it) and for its dispatcher."""
        speaker, error = self._speaker, self.error
        if self._out_of_reach and error is not None:
            error = ErrorBody(code=ErrorCode.CONNECTION_LOST, message=self._out_of_reach)
        words = speaker.last_words(error, self.figures) if self.has_spoken else ()
        subject = subjects.ATTEMPT.of(self.decision.node_id, self.attempt_id)
        return End(self.leave, words, speaker.probe, speaker.messages, subject)

    def _finish_figures(self) -> None:
        now, answer = time.monotonic(), self._answer
        self.figures = figures_of(
            answer.figures if answer is not None else Figures(),
            accepted_at=self._accepted_at,
            began_at=self._began_at,
            first_at=self._first_at,
            last_at=self.last_at,
            output_chunks=answer.output_chunks if answer is not None else 0,
            now=now,
            load_s=self.load_s,
            chunks=self._speaker.count,
            gpu_share=self._view.gpu_share(self.decision.model),
            left_out=self.left_out + (answer.left_out if answer is not None else ()),
            **self._meter.charges(self._began, now),
        )

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
        left_s = self._accepted_at + self._deadline_s - now
        if left_s <= 0:
            self.stop(_error(ErrorCode.DEADLINE_EXCEEDED, f"no whole answer within {self._deadline_s:.3g} s"))
        elif watchdog.left_s(now) <= 0:
            waited = f"{watchdog.limit_s:g} s without {watchdog.phase.value} (setting {watchdog.phase.setting})"
            self.stop(_error(ErrorCode.STALLED, f"the engine stalled: {waited}"))
        else:
            self._check_time_in(min(left_s, watchdog.left_s(now), self.limits.shortest_s))

    def _check_time_in(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s + 0.001, self._check_time)


def _error(code: ErrorCode, message: str) -> SollolError:
    return error_from(ErrorBody(code=code, message=message))
