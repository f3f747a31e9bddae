"""One request on its way: waiting for a slot, running on a node, failing over, and answered exactly once.

It is driven by callbacks alone (replies of the scorer, reports of the node, probes, timers), so that a waiting
request costs no task.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from sollol_agents.dispatcher.requests.attempt import Attempt
from sollol_agents.dispatcher.requests.caller import Caller
from sollol_agents.dispatcher.requests.failover import END_LOST, GiveUp, Tries, after_failure, after_refusal, is_doubt
from sollol_agents.dispatcher.requests.fence import Phase
from sollol_agents.dispatcher.requests.handing_on import hand_on, nobody_left
from sollol_agents.dispatcher.requests.intake import Request
from sollol_agents.dispatcher.requests.outcomes import presumed_lost, proven, unserved
from sollol_agents.dispatcher.requests.tools import Tools
from sollol_agents.dispatcher.requests.tracing import tell_failed, tell_granted, traced
from sollol_bus.alarms import Stoppable
from sollol_bus.errors import BusError, DecodeFailed, NotConnected, PayloadTooLarge
from sollol_bus.transport.messages import Msg, decode, encode, is_no_responders
from sollol_bus.transport.mux import ReplyInbox
from sollol_schemas import subjects
from sollol_schemas.control import AttemptState
from sollol_schemas.decision import Decision
from sollol_schemas.errors import FREE_OF_CHARGE, ErrorBody, ErrorCode
from sollol_schemas.execution import ABANDONED, AttemptDone, AttemptFailed, AttemptReport, RequestWaiting
from sollol_schemas.grant import Birth, Granted, GrantQueued, GrantRefused, GrantRelease, GrantReply, GrantRequest
from sollol_schemas.headers import TRACEPARENT

log = logging.getLogger(__name__)

_STALE_GRANT_S = 0.1
"""After a grant that answers an earlier question, the next question waits so long."""
_STREAM_GRACE_S = 5.0
"""The node ends a stream at its deadline itself; the dispatcher only when the node does not."""


class ActiveRequest:
    """One request that this dispatcher is responsible for.

    Args:
        tools: What all its requests share.
        request: The request.
        on_over: Called once, when it is answered.
    """

    def __init__(self, tools: Tools, request: Request, on_over: Callable[[ActiveRequest], None]) -> None:
        self._tools = tools
        self._bus = tools.bus
        self._loop = asyncio.get_running_loop()
        self._on_over = on_over
        self.request, self._span = traced(tools.bus.tracer, request)
        self.attempt: Attempt | None = None
        """The one that runs on a node; None while it waits for a slot."""
        self._is_over = self._is_admitted = False
        now = time.monotonic()
        self._began_mono_s = now - request.waited_s
        self._deadline_mono_s = self._began_mono_s + request.deadline_s
        self._doubts: list[tuple[Decision, AttemptFailed]] = []
        self._tries = Tries(max_attempts=tools.max_attempts, number=request.first_attempt, excluded=request.excluded)
        self._caller = Caller(tools.bus, self.request, tools.instance, self._on_caller_gone)
        self._grants: ReplyInbox | None = None
        self._timer: Stoppable | None = None
        """Until it asks again, while it waits; until its node must have accepted it, while it runs."""
        self._deadline_timer = self._loop.call_later(max(0.0, self._deadline_mono_s - now), self._on_deadline)

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a slot."""
        return self.attempt is None and not self._is_over

    @property
    def has_streamed(self) -> bool:
        """Whether a chunk is with the caller, or may be."""
        return self.attempt is not None and self.attempt.fence.phase is Phase.STREAMING

    # -- waiting for a slot -------------------------------------------------------------------------------

    def ask_for_slot(self) -> None:
        """Asks the scorer; asking again for the same request is harmless. Goes through the scorer's watch."""
        if not self.is_waiting:
            return
        if self._grants is None:
            self._grants = self._bus.reply_inbox(self._on_grant_reply)
        now = time.monotonic()
        request = GrantRequest(
            request_id=self.request.request_id,
            number=self._tries.number,
            context=self.request.context,
            routing=self.request.routing,
            birth=self.request.birth or Birth(at_s=self._began_mono_s, clock=self._tools.instance),
            waited_s=now - self._began_mono_s,
            behind=self.request.behind,
            deadline_s=max(0.0, self._deadline_mono_s - now),
            excluded=self._tries.excluded,
            failed_models=self._tries.failed_models,
            busy=self._tries.busy,
            dispatcher=self._tools.instance,
            caller=self.request.caller,
            is_admitted=self._is_admitted,
            is_resumable=self.request.is_resumable,
            continuation=self.request.continuation(self._tries.cuts),
        )
        trace = {TRACEPARENT: self.request.traceparent} if self.request.traceparent else None
        try:
            self._bus.publish(subjects.GRANT, encode(request), reply=self._grants.subject, headers=trace)
            self._ask_again_in(self._tools.pace.grant_silence_s)
        except NotConnected:
            self._cancel_timer()  # the reconnect goes on from here

    def _ask_again_in(self, delay_s: float) -> None:
        self._cancel_timer()
        self._timer = self._bus.alarms.after(delay_s, self._tools.scorer.ask, self)

    def _on_grant_reply(self, reply: Msg | BusError) -> None:
        if isinstance(reply, BusError) or self._is_over:
            return  # the connection broke; the dispatcher asks again when it is back
        if is_no_responders(reply):
            if self.is_waiting:
                self._cancel_timer()
                self._tools.scorer.park(self)
            return
        self._tools.scorer.heard()
        request_id = self.request.request_id
        try:
            answer: GrantReply = decode(reply.data, GrantReply)  # type: ignore[arg-type]  # a union decodes too
        except DecodeFailed as error:
            extra = {"action": "bad_grant_reply", "request_id": request_id}
            log.warning("request %s: %s", request_id, error, extra=extra)
            return
        if not self.is_waiting:
            return  # a second grant for the same question expires at the scorer by itself
        match answer:
            case Granted():
                self._run(answer)
            case GrantQueued():
                self._is_admitted = True
                position, is_blocked = answer.position, answer.is_blocked
                self._caller.tell(RequestWaiting(request_id=request_id, position=position, is_blocked=is_blocked))
                self._ask_again_in(self._tools.pace.grant_silence_s)
            case GrantRefused():
                self._finish_with_error(after_refusal(self._tries, answer))

    def on_no_scorer(self, why: str) -> None:
        """No scorer came into office for too long."""
        self._finish_with_error(ErrorBody(code=ErrorCode.NO_NODES, message=why))

    # -- running ------------------------------------------------------------------------------------------

    def _run(self, granted: Granted) -> None:
        self._cancel_timer()
        self._is_admitted = True
        if granted.decision.node_id in self._tries.excluded or granted.decision.attempt != self._tries.number:
            self._ask_again_in(_STALE_GRANT_S)  # the answer to an earlier question
            return
        attempt = Attempt(self._bus, granted, self._tools.pace, self._on_report, self._reconcile)
        try:
            attempt.start(self.request, max(0.0, self._deadline_mono_s - time.monotonic()), self._tools.leaves)
        except NotConnected:
            attempt.close()
            return  # the reconnect goes on from here
        except PayloadTooLarge as error:
            attempt.close()
            self._release()  # the slot that was granted
            self._finish_with_error(self.request.too_large(error.body))
            return
        self.attempt = attempt
        self._caller.tell_granted(attempt.node_id)
        if self._span is not None:
            tell_granted(self._span, granted)
        self._tools.nodes.watch(attempt.node_id)
        self._timer = self._bus.alarms.after(self._tools.pace.accept_s, self._on_accept_timeout)

    def _on_accept_timeout(self) -> None:
        """The node did not take the attempt in time; without a lease it cannot have spoken."""
        if self.attempt is not None and not self.attempt.is_accepted:
            self._lose("the node did not accept the attempt in time")

    def _on_report(self, attempt: Attempt, report: AttemptReport) -> None:
        if attempt.is_accepted:
            self._tools.nodes.heard(attempt.node_id)
        match report:
            case AttemptDone() | AttemptFailed() if attempt is not self.attempt:
                self._tools.abandoned.forget(attempt)
            case AttemptDone():
                self._close_attempt(attempt)
                for decision, failed in self._doubts:  # what other nodes refused has been served
                    self._tools.outcomes.publish(proven(decision, failed))
                self._finish()
            case AttemptFailed():
                if report.error.code is ErrorCode.NODE_LOST and not attempt.is_accepted:
                    self._report_lost(attempt, report.error)
                if is_doubt(report.error):
                    self._doubts.append((attempt.granted.decision, report))
                self._close_attempt(attempt)
                self._after_failure(attempt, report.error, has_streamed=report.is_streaming)
            case _:
                pass  # the fence has taken note of it

    def _after_failure(self, attempt: Attempt, error: ErrorBody, *, has_streamed: bool) -> None:
        if self._span is not None:
            tell_failed(self._span, attempt.granted, error)
        decision = attempt.granted.decision
        model = decision.model if decision.group else ""
        action = after_failure(self._tries, attempt.node_id, error, model=model, has_streamed=has_streamed)
        r, a, n = self.request.request_id, attempt.attempt_id, attempt.node_id
        extra = {"action": "attempt_failed", "request_id": r, "attempt_id": a, "node_id": n, "code": error.code.value}
        log.info("request %s: attempt %s on %s failed: %s", r, a, n, error.code, extra=extra)
        match action:
            case GiveUp() if has_streamed:
                self._finish(error.code)  # the node has told the caller
            case GiveUp():
                self._finish_with_error(action.error, is_reported=error.code not in FREE_OF_CHARGE)
            case _ if action.delay_s > 0:
                self._ask_again_in(action.delay_s)
            case _:
                self._tools.scorer.ask(self)

    def on_node_dead(self) -> None:
        """The node's process is gone."""
        self._lose("the node's process is gone", is_dead=True)

    def on_node_silent(self) -> None:
        """The node answers no probes: what may not be given up for that stays, a lease until it has run out."""
        if self.attempt is None or not self.attempt.fence.may_move(time.monotonic()):
            return
        if self.attempt.is_accepted or not self._tries.charged:  # else others are silent too: all it can do is wait
            self._lose("the node does not answer")

    def on_node_down(self) -> None:
        """The node's heartbeats have stopped too: it hangs, and ends no stream by itself."""
        if self.has_streamed:
            self._lose("the node's heartbeats have stopped")
        else:
            self.on_node_silent()

    def _lose(self, why: str, *, is_dead: bool = False) -> None:
        """The attempt is over without a word of its node."""
        attempt, has_streamed = self.attempt, self.has_streamed
        if attempt is None:
            return
        why = why.replace("the node", f"node {attempt.node_id}", 1)
        error = ErrorBody(code=ErrorCode.NODE_LOST, message=why, details={"node_id": attempt.node_id})
        self._report_lost(attempt, error)
        self._abandon(attempt, ABANDONED, is_dead=is_dead)
        if has_streamed:
            self._finish_with_error(error, is_reported=True)
        else:
            self._after_failure(attempt, error, has_streamed=False)

    def _abandon(self, attempt: Attempt, reason: str, *, is_dead: bool = False) -> None:
        """From now on the attempt may not speak; a node that lives is told so, also when it asks."""
        attempt.fence.abandon()
        if is_dead:
            attempt.close()
        else:
            attempt.cancel(reason)
            self._tools.abandoned.keep(attempt)
        self._forget_attempt(attempt)

    def _close_attempt(self, attempt: Attempt) -> None:
        attempt.fence.end()
        attempt.close()
        self._forget_attempt(attempt)

    def _forget_attempt(self, attempt: Attempt) -> None:
        self.attempt = None
        self._cancel_timer()
        self._tools.nodes.unwatch(attempt.node_id)

    def on_reconnect(self) -> None:
        """The connection is back: a report about what runs may have been lost, so the node is asked."""
        if self.attempt is not None:
            self.attempt.find_out()

    def _reconcile(self, attempt: Attempt, state: AttemptState | None) -> None:
        if attempt is not self.attempt:
            return
        match state:
            case None:
                self._lose("the node did not come back to the bus")
            case AttemptState.RUNNING:
                return
            case AttemptState.STREAMING:
                attempt.fence.on_first_token()
            case AttemptState.ENDED_SPOKEN:  # its last words to the caller may be lost as its report was
                self._close_attempt(attempt)
                self._finish_with_error(END_LOST, is_reported=True)
            case _:
                self._lose("the end of the attempt was lost on the way, or the node has forgotten it")

    # -- its dispatcher leaves ----------------------------------------------------------------------------

    def move(self, gone_within_s: float, *, has_others: bool) -> None:
        """Lets another dispatcher go on with what waits; without any its caller is told. Raises `NotConnected`."""
        self._release(comes_again=True)
        try:
            if has_others:
                hand_on(self._bus, self.request, number=self._tries.number + 1, waited_s=self._age_s())
                self._finish()
            else:
                self._finish_with_error(nobody_left(gone_within_s))
        except PayloadTooLarge as error:
            self._finish_with_error(error.body)

    def part(self, *, has_others: bool) -> None:
        """The dispatcher leaves now: another goes on, or the node alone, which needs none. Raises `NotConnected`."""
        attempt = self.attempt
        if attempt is not None and has_others and attempt.fence.may_move(time.monotonic()):
            self._abandon(attempt, ABANDONED)
            attempt = None
        if attempt is None:
            self.move(0.0, has_others=has_others)
        else:
            attempt.leave()
            self._close_attempt(attempt)
            self._finish()

    # -- the end ------------------------------------------------------------------------------------------

    def cancel(self, code: ErrorCode, why: str, *, comes_again: bool = False) -> None:
        """Stops it wherever it is, and tells the caller if nothing was streamed; a job given back `comes_again`."""
        if self._is_over:
            return
        is_reported, has_streamed = self.attempt is not None, self.has_streamed
        self._stop(code.value, comes_again=comes_again)
        if has_streamed:
            self._finish(code)
        else:
            self._finish_with_error(ErrorBody(code=code, message=why), is_reported=is_reported)

    def drop(self) -> None:
        """Forgets the request without a word: its caller has sent it again."""
        if not self._is_over:
            self._stop(ABANDONED)
            self._finish()

    def _stop(self, reason: str, *, comes_again: bool = False) -> None:
        if self.attempt is None:
            self._release(comes_again=comes_again)
        else:
            self._abandon(self.attempt, reason)

    def _on_deadline(self) -> None:
        if self.has_streamed:
            overdue = partial(self._lose, "the node did not end the stream at its deadline")
            self._deadline_timer = self._loop.call_later(_STREAM_GRACE_S, overdue)
            return
        self.cancel(ErrorCode.DEADLINE_EXCEEDED, f"the deadline of {self.request.deadline_s:g} s passed")

    def _release(self, *, comes_again: bool = False) -> None:
        release = GrantRelease(request_id=self.request.request_id, number=self._tries.number, comes_again=comes_again)
        with suppress(NotConnected):  # the scorer forgets it by its deadline
            self._bus.publish(subjects.RELEASE, encode(release))

    def _finish_with_error(self, error: ErrorBody, *, is_reported: bool = False) -> None:
        """Tells the caller; `is_reported` means that an outcome of an attempt exists already."""
        self._caller.refuse(error)
        if not is_reported:
            self._tools.outcomes.publish(unserved(self.request, error, waited_s=self._age_s()))
        self._finish(error.code)

    def _on_caller_gone(self) -> None:
        if not self.has_streamed:  # a stream's node notices by itself
            extra = {"action": "caller_gone", "request_id": self.request.request_id}
            log.info("request %s: its caller is gone", self.request.request_id, extra=extra)
            self.cancel(ErrorCode.CANCELLED, "its caller is gone")

    def _finish(self, error: str = "") -> None:
        if self._is_over:
            return
        self._is_over = True
        self._bus.endpoints.over(self.request.reply_to, error)
        if self._span is not None:
            self._span.end(error)
        self._cancel_timer()
        self._deadline_timer.cancel()
        self._caller.close()
        self._tools.scorer.forget(self)
        if self._grants is not None:
            self._grants.close()
        self._on_over(self)

    def _age_s(self) -> float:
        return time.monotonic() - self._began_mono_s

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _report_lost(self, attempt: Attempt, error: ErrorBody) -> None:
        self._tools.outcomes.publish(presumed_lost(attempt.granted.decision, error))
