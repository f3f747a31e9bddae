"""One request on its way: waiting for a slot, running on a node, failing over, and answered exactly once.

It is driven by callbacks alone (replies of the scorer, reports of the node, probes, timers), so that a waiting
request costs no task.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.requests.attempt import Attempt
from sollol_agents.dispatcher.requests.failover import GiveUp, Tries, after_failure, after_refusal
from sollol_agents.dispatcher.requests.fence import Phase
from sollol_agents.dispatcher.requests.intake import Request
from sollol_agents.dispatcher.requests.outcomes import presumed_lost, unserved
from sollol_agents.dispatcher.requests.tracing import tell_failed, tell_granted, traced
from sollol_bus.errors import BusError, DecodeFailed, NotConnected, PayloadTooLarge
from sollol_bus.transport.connection import SETTLING_S, Bus, ReplyInbox
from sollol_bus.transport.messages import Msg, decode, decoded, encode, is_no_responders
from sollol_schemas import subjects
from sollol_schemas.control import AttemptState, ControlAttempt, ControlReply
from sollol_schemas.errors import FREE_OF_CHARGE, ErrorBody, ErrorCode
from sollol_schemas.events import Outcome
from sollol_schemas.execution import AttemptDone, AttemptFailed, AttemptFirstToken, AttemptReport, Taken
from sollol_schemas.grant import Granted, GrantQueued, GrantRefused, GrantRelease, GrantReply, GrantRequest
from sollol_schemas.headers import TRACEPARENT
from sollol_schemas.instants import instant

log = logging.getLogger(__name__)

TAKEN_AFTER_S = 0.05
_SCORER_RETRY_S = 0.1
_NODE_RETRY_S = 0.1
_NODE_ANSWER_S = 1.0
_STREAM_GRACE_S = 5.0
"""The node ends a stream at its deadline itself; the dispatcher only when the node does not."""


class Stage(StrEnum):
    """Where the request is."""

    WAITING = "waiting"  # for a slot
    RUNNING = "running"  # on a node
    OVER = "over"  # answered


class Host(Protocol):
    """What a request needs of the dispatcher that holds it."""

    config: DispatcherConfig
    instance: str

    @property
    def bus(self) -> Bus:
        """The dispatcher's connection."""

    def on_over(self, request: ActiveRequest) -> None:
        """The request is answered; forget it."""

    def on_attempt_opened(self, attempt: Attempt, request: ActiveRequest) -> None:
        """Probe the attempt's node."""

    def on_attempt_closed(self, attempt: Attempt, request: ActiveRequest) -> None:
        """The attempt no longer needs its node to be probed."""

    def keep_answering(self, attempt: Attempt) -> None:
        """An abandoned attempt: go on telling its node `no`."""

    def stop_answering(self, attempt: Attempt) -> None:
        """The abandoned attempt reported its end."""

    def report_outcome(self, outcome: Outcome) -> None:
        """Publish an outcome that no node will publish."""


class ActiveRequest:
    """One request that this dispatcher is responsible for."""

    def __init__(self, host: Host, request: Request) -> None:
        self._host = host
        self._bus = host.bus
        self._config = host.config
        self._loop = asyncio.get_running_loop()
        self.request, self._span = traced(host.bus.tracer, request)
        self.stage = Stage.WAITING
        self.is_blocked = False
        """Whether the scorer said that no node may take it at present."""
        now = time.monotonic()
        self._began_mono_s = now - request.waited_s
        self._deadline_mono_s = self._began_mono_s + request.deadline_s
        self._tries = Tries(max_attempts=host.config.max_attempts, number=request.first_attempt)
        self._grants: ReplyInbox | None = None
        self.attempt: Attempt | None = None
        self._heard_mono_s = now
        self._absent_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._accept_timer: asyncio.TimerHandle | None = None
        self._deadline_timer = self._loop.call_later(max(0.0, self._deadline_mono_s - now), self._on_deadline)
        self._taken_timer = self._loop.call_later(TAKEN_AFTER_S, self._say_taken) if request.control_inbox else None

    @property
    def has_streamed(self) -> bool:
        """Whether a chunk is with the caller, or may be."""
        return self.attempt is not None and self.attempt.fence.phase is Phase.STREAMING

    def _say_taken(self) -> None:
        """Tells the caller whom to watch; a request that was quicker than this needs no watching."""
        taken = Taken(request_id=self.request.request_id, dispatcher="dispatcher", instance=self._host.instance)
        try:
            self._bus.publish(self.request.control_inbox, encode(taken))
        except NotConnected:
            log.debug("request %s: its caller will send it again", self.request.request_id)

    # -- waiting for a slot -------------------------------------------------------------------------------

    def ask_for_slot(self) -> None:
        """Asks the scorer; asking again for the same request is harmless."""
        if self.stage is not Stage.WAITING:
            return
        if self._grants is None:
            self._grants = self._bus.reply_inbox(self._on_grant_reply)
        now = time.monotonic()
        request = GrantRequest(
            request_id=self.request.request_id,
            number=self._tries.number,
            context=self.request.context,
            routing=self.request.routing,
            waited_s=now - self._began_mono_s,
            deadline_s=max(0.0, self._deadline_mono_s - now),
            excluded=self._tries.excluded,
            busy=self._tries.busy,
            dispatcher=self._host.instance,
        )
        try:
            self._bus.publish(subjects.GRANT, encode(request), reply=self._grants.subject, headers=self._trace())
        except NotConnected:
            self._ask_again_in(_SCORER_RETRY_S)
            return
        self._ask_again_in(self._config.grant_silence_s)

    def _trace(self) -> dict[str, str] | None:
        return {TRACEPARENT: self.request.traceparent} if self.request.traceparent else None

    def _ask_again_in(self, delay_s: float) -> None:
        self._cancel_timer()
        self._timer = self._loop.call_later(delay_s, self.ask_for_slot)

    def _on_grant_reply(self, reply: Msg | BusError) -> None:
        if isinstance(reply, BusError):
            return  # the connection broke; the dispatcher asks again when it is back
        if is_no_responders(reply):
            self._on_no_scorer()
            return
        try:
            answer: GrantReply = decode(reply.data, GrantReply)  # type: ignore[arg-type]  # a union decodes too
        except DecodeFailed as error:
            log.warning(
                "request %s: %s",
                self.request.request_id,
                error,
                extra={"action": "bad_grant_reply", "request_id": self.request.request_id},
            )
            return
        self._absent_since = None
        if self.stage is not Stage.WAITING:
            return  # a second grant for the same question expires at the scorer by itself
        match answer:
            case GrantQueued():
                self.is_blocked = answer.is_blocked
                self._ask_again_in(self._config.grant_silence_s)
            case GrantRefused():
                self._finish_with_error(after_refusal(self._tries, answer))
            case Granted():
                self._run(answer)

    def _on_no_scorer(self) -> None:
        if self.stage is not Stage.WAITING:
            return
        now = time.monotonic()
        if self._absent_since is None or self._bus.is_settling:
            self._absent_since = now
        if now - self._absent_since > self._config.scorer_absence_s:
            message = f"no scorer is in office since {now - self._absent_since:.0f} s; start `sollol scorer`"
            self._finish_with_error(ErrorBody(code=ErrorCode.NO_NODES, message=message))
            return
        self._ask_again_in(_SCORER_RETRY_S)

    # -- running ------------------------------------------------------------------------------------------

    def _run(self, granted: Granted) -> None:
        self._cancel_timer()
        if granted.decision.node_id in self._tries.excluded or granted.decision.attempt != self._tries.number:
            self._ask_again_in(_SCORER_RETRY_S)  # the answer to an earlier question
            return
        attempt = Attempt(self._bus, granted, self._on_report)
        try:
            attempt.start(self.request, max(0.0, self._deadline_mono_s - time.monotonic()))
        except NotConnected:
            attempt.close()
            self._ask_again_in(_SCORER_RETRY_S)
            return
        except PayloadTooLarge as error:
            attempt.close()
            self._release()  # the slot that was granted
            self._finish_with_error(ErrorBody(code=ErrorCode.REQUEST_TOO_LARGE, message=str(error)))
            return
        self.attempt = attempt
        self.stage = Stage.RUNNING
        if self._span is not None:
            tell_granted(self._span, granted)
        self._host.on_attempt_opened(attempt, self)
        self._accept_timer = self._loop.call_later(self._config.accept_timeout_s, self._on_accept_timeout)

    def _on_accept_timeout(self) -> None:
        """The node did not take the attempt in time; without a lease it cannot have spoken."""
        attempt = self.attempt
        if attempt is not None and not attempt.is_accepted and self.stage is Stage.RUNNING:
            self._lose("the node did not accept the attempt in time", is_dead=False)

    def _on_report(self, attempt: Attempt, report: AttemptReport) -> None:
        if attempt is not self.attempt or self.stage is not Stage.RUNNING:
            if not isinstance(report, AttemptFirstToken):
                self._host.stop_answering(attempt)
            return
        match report:
            case AttemptFirstToken():
                pass
            case AttemptDone():
                attempt.fence.end()
                self._close_attempt()
                self._finish()
            case AttemptFailed():
                has_streamed = report.is_streaming
                attempt.fence.end()
                if report.error.code is ErrorCode.NODE_LOST and not attempt.is_accepted:
                    self._report_lost(attempt, report.error)
                self._close_attempt()
                self._after_failure(attempt, report.error, has_streamed=has_streamed)

    def _after_failure(self, attempt: Attempt, error: ErrorBody, *, has_streamed: bool) -> None:
        if self._span is not None:
            tell_failed(self._span, attempt.granted, error)
        action = after_failure(self._tries, attempt.node_id, error, has_streamed=has_streamed)
        log.info(
            "request %s: attempt %s on %s failed: %s",
            self.request.request_id,
            attempt.attempt_id,
            attempt.node_id,
            error.code,
            extra={
                "action": "attempt_failed",
                "request_id": self.request.request_id,
                "attempt_id": attempt.attempt_id,
                "node_id": attempt.node_id,
                "code": error.code.value,
            },
        )
        match action:
            case GiveUp() if has_streamed:
                self._end_span(error.code)
                self._finish()  # the node has told the caller
            case GiveUp():
                self._finish_with_error(action.error, is_reported=error.code not in FREE_OF_CHARGE)
            case _ if action.delay_s > 0:
                self.stage = Stage.WAITING
                self._ask_again_in(action.delay_s)
            case _:
                self.stage = Stage.WAITING
                self.ask_for_slot()

    def on_node_dead(self) -> None:
        """The node's process is gone."""
        if self.stage is Stage.RUNNING:
            self._lose("the node's process is gone", is_dead=True)

    def on_node_silent(self) -> None:
        """The node does not answer; a lease it holds is honoured first."""
        attempt = self.attempt
        if attempt is None or self.stage is not Stage.RUNNING:
            return
        may_at = attempt.fence.may_abandon_at(time.monotonic())
        if may_at is None or may_at <= time.monotonic():
            self._lose("the node does not answer", is_dead=False)

    def _lose(self, why: str, *, is_dead: bool) -> None:
        """The attempt is over without a word of its node."""
        attempt = self.attempt
        if attempt is None:
            return
        has_streamed = self.has_streamed
        error = ErrorBody(code=ErrorCode.NODE_LOST, message=why, details={"node_id": attempt.node_id})
        attempt.fence.abandon()
        self._report_lost(attempt, error)
        self._detach(attempt, is_dead=is_dead)
        if has_streamed:
            self._finish_with_error(error, is_reported=True)
        else:
            self._after_failure(attempt, error, has_streamed=False)

    def _detach(self, attempt: Attempt, *, is_dead: bool) -> None:
        self._forget_attempt(attempt)
        if is_dead:
            attempt.close()
            return
        self._tell_node_to_stop(attempt, "abandoned")
        self._host.keep_answering(attempt)

    def _tell_node_to_stop(self, attempt: Attempt, reason: str) -> None:
        try:
            attempt.cancel(reason)
        except NotConnected:
            log.debug("attempt %s: the node will find out by itself", attempt.attempt_id)

    def _close_attempt(self) -> None:
        if self.attempt is not None:
            self.attempt.close()
            self._forget_attempt(self.attempt)

    def _forget_attempt(self, attempt: Attempt) -> None:
        self.attempt = None
        if self._accept_timer is not None:
            self._accept_timer.cancel()
            self._accept_timer = None
        self._host.on_attempt_closed(attempt, self)

    def on_reconnect(self) -> None:
        """The connection is back: reports may have been lost, so ask about what runs, and again for what waits."""
        if self.stage is Stage.WAITING:
            self.ask_for_slot()
        elif self.attempt is not None:
            self._ask_node(self.attempt, time.monotonic() + SETTLING_S)

    def _ask_node(self, attempt: Attempt, until_mono_s: float) -> None:
        """Asks the node what became of the attempt; it may itself still be coming back."""

        def on_answer(reply: Msg | BusError) -> None:
            if attempt is not self.attempt or self.stage is not Stage.RUNNING:
                return
            told = None if isinstance(reply, BusError) else decoded(reply, ControlReply)
            if told is not None:
                self._reconcile(attempt, told.attempt_state)
            elif time.monotonic() < until_mono_s:
                self._loop.call_later(_NODE_RETRY_S, self._ask_node, attempt, until_mono_s)
            else:
                self._lose("the node did not come back to the bus", is_dead=False)

        if attempt is not self.attempt:
            return
        question = encode(ControlAttempt(attempt_id=attempt.attempt_id))
        try:
            self._bus.ask(subjects.NODE_CONTROL.of(attempt.node_id), question, on_answer, timeout_s=_NODE_ANSWER_S)
        except NotConnected:
            return  # the next reconnect asks again

    def _reconcile(self, attempt: Attempt, state: AttemptState | None) -> None:
        match state:
            case AttemptState.RUNNING:
                return
            case AttemptState.STREAMING:
                attempt.fence.on_first_token()
            case AttemptState.ENDED_SPOKEN:
                attempt.fence.end()
                self._close_attempt()
                self._finish()
            case _:
                self._lose("the connection broke before the first token", is_dead=False)

    # -- the end ------------------------------------------------------------------------------------------

    def cancel(self, code: ErrorCode, why: str) -> None:
        """Stops the request wherever it is, and tells the caller if nothing was streamed yet."""
        if self.stage is Stage.OVER:
            return
        attempt = self.attempt
        if attempt is None:
            self._release()
            self._finish_with_error(ErrorBody(code=code, message=why))
            return
        has_streamed = self.has_streamed
        attempt.fence.abandon()
        self._tell_node_to_stop(attempt, code.value)
        self._forget_attempt(attempt)
        self._host.keep_answering(attempt)
        if has_streamed:
            self._end_span(code)
            self._finish()
        else:
            self._finish_with_error(ErrorBody(code=code, message=why), is_reported=True)

    def drop(self) -> None:
        """Forgets the request without a word: its caller has sent it again, or the dispatcher hands it back."""
        if self.stage is Stage.OVER:
            return
        if self.attempt is not None:
            attempt = self.attempt
            attempt.fence.abandon()
            self._detach(attempt, is_dead=False)
        else:
            self._release()
        self._finish()

    def _on_deadline(self) -> None:
        if self.has_streamed:
            self._deadline_timer = self._loop.call_later(_STREAM_GRACE_S, self._on_stream_overdue)
            return
        self.cancel(ErrorCode.DEADLINE_EXCEEDED, f"the deadline of {self.request.deadline_s:g} s passed")

    def _on_stream_overdue(self) -> None:
        attempt = self.attempt
        if attempt is not None:
            self._lose("the node did not end the stream at its deadline", is_dead=False)

    def _release(self) -> None:
        try:
            release = GrantRelease(request_id=self.request.request_id, number=self._tries.number)
            self._bus.publish(subjects.RELEASE, encode(release))
        except NotConnected:
            log.debug("request %s: not released, the scorer forgets it by its deadline", self.request.request_id)

    def _finish_with_error(self, error: ErrorBody, *, is_reported: bool = False) -> None:
        """Tells the caller; `is_reported` means that an outcome of an attempt exists already."""
        try:
            self._bus.respond_error(self.request.reply_to, error)
            if self.request.wants_stream:
                self._bus.publish(self.request.reply_to, b"")
        except NotConnected:
            log.info(
                "request %s: the caller could not be told: %s",
                self.request.request_id,
                error.code,
                extra={"action": "caller_untold", "request_id": self.request.request_id, "code": error.code.value},
            )
        if not is_reported:
            self._report_unserved(error)
        self._end_span(error.code)
        self._finish()

    def _finish(self) -> None:
        if self.stage is Stage.OVER:
            return
        self.stage = Stage.OVER
        self._end_span()
        self._cancel_timer()
        self._deadline_timer.cancel()
        if self._taken_timer is not None:
            self._taken_timer.cancel()
        if self._grants is not None:
            self._grants.close()
        self._host.on_over(self)

    def _end_span(self, error: str = "") -> None:
        if self._span is not None:
            self._span.end(error)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _report_lost(self, attempt: Attempt, error: ErrorBody) -> None:
        self._host.report_outcome(
            presumed_lost(attempt.granted.decision, error, finished_at=instant(datetime.now(UTC)))
        )

    def _report_unserved(self, error: ErrorBody) -> None:
        waited_s = time.monotonic() - self._began_mono_s
        self._host.report_outcome(
            unserved(self.request, error, waited_s=waited_s, finished_at=instant(datetime.now(UTC)))
        )
