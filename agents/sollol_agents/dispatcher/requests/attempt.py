"""Attempts at the bus: the exec, the reports that come back, and the `no` for those that were given up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from sollol_agents.dispatcher.leaves import Leaves
from sollol_agents.dispatcher.node_outcomes import publish_outcome
from sollol_agents.dispatcher.pace import Pace
from sollol_agents.dispatcher.requests import continuing
from sollol_agents.dispatcher.requests.fence import AttemptFence, Phase
from sollol_agents.dispatcher.requests.intake import Request
from sollol_agents.requests.body import with_model
from sollol_bus.alarms import Stoppable
from sollol_bus.errors import BusError, DecodeFailed, NotConnected, PayloadTooLarge
from sollol_bus.transport.connection import SETTLING_S, Bus
from sollol_bus.transport.leave import give
from sollol_bus.transport.messages import Msg, decode, decoded, encode, is_no_responders
from sollol_bus.transport.subscription import Subscription
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.control import AttemptState, ControlAttempt, ControlReply
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import Outcome
from sollol_schemas.execution import (
    GO_S,
    AttemptAccepted,
    AttemptDone,
    AttemptFailed,
    AttemptFirstToken,
    AttemptReport,
    AttemptStart,
    CancelAttempt,
    Exec,
    StartAnswer,
)
from sollol_schemas.grant import Granted
from sollol_schemas.inboxes import is_node_inbox

log = logging.getLogger(__name__)

_NODE_ANSWER_S = 1.0
_NODE_RETRY_S = 0.1
_KEPT_MAX = 4096
_KEEP_S = 600.0
_GO = encode(StartAnswer(go=True))
_NO = encode(StartAnswer(go=False))

OnReport = Callable[["Attempt", AttemptReport], None]
OnState = Callable[["Attempt", AttemptState | None], None]


class Attempt:
    """One granted attempt, from its exec to its end.

    Args:
        bus: The connection.
        granted: The slot.
        pace: When the node is asked what became of it.
        on_report: Called for each report, once the fence has taken note of it and the node has its answer.
        on_state: Called with what the node says of it when it is asked; with None when it did not come back to the bus.
    """

    __slots__ = (
        "_bus",
        "_leave_to",
        "_on_report",
        "_on_state",
        "_pace",
        "_subscription",
        "_timer",
        "attempt_id",
        "fence",
        "granted",
        "is_accepted",
        "node_id",
    )

    def __init__(self, bus: Bus, granted: Granted, pace: Pace, on_report: OnReport, on_state: OnState) -> None:
        self._bus = bus
        self.granted = granted
        self.attempt_id = granted.decision.attempt_id
        self.node_id = granted.decision.node_id
        self._pace = pace
        self._on_report = on_report
        self._on_state = on_state
        self._timer: Stoppable | None = None
        self._subscription: Subscription | None = None
        self._leave_to = ""
        """The inbox for which the node needs leave; empty: it needs none."""
        self.fence = AttemptFence(GO_S)
        self.is_accepted = False

    def start(self, request: Request, deadline_s: float, leaves: Leaves) -> None:
        """Subscribes to its reports and sends the exec, in this order."""
        subject = subjects.ATTEMPT.of(self.node_id, self.attempt_id)
        self._subscription = self._bus.subscribe(subject, self._on_message)
        self._leave_to = request.reply_to
        ticket = leaves.ticket(self.node_id, request.reply_to, deadline_s)
        decision = self.granted.decision
        sent = continuing.sent(
            with_model(request.body, decision.model) if decision.group else request.body, request.said
        )
        exec_ = envelope(request, self.granted, deadline_s, ticket, sent.body_bytes)
        headers = {h.EXEC: encode(exec_).decode(), h.REPLY_TO: request.reply_to}
        if request.traceparent:
            headers[h.TRACEPARENT] = request.traceparent
        if request.via:
            headers[h.VIA] = request.via
        self._bus.publish(subjects.NODE_EXEC.of(self.node_id), sent.payload, reply=subject, headers=headers)
        self._bus.hasten()
        self._check_again()

    def cancel(self, reason: str) -> None:
        """Tells the node to stop it."""
        message = CancelAttempt(attempt_id=self.attempt_id, reason=reason)
        try:
            self._bus.publish(subjects.NODE_CANCEL.of(self.node_id), encode(message))
        except NotConnected:
            log.debug("attempt %s: the node will find out by itself", self.attempt_id)

    def find_out(self) -> None:
        """Asks the node what became of it, also while the node itself is coming back, and tells `on_state`."""
        self._ask_node(time.monotonic() + SETTLING_S)

    def _check(self) -> None:
        """The report of its end may have been lost: asks, now and then."""
        if self.fence.is_open:
            self._check_again()
            if self.is_accepted:
                self._ask_node(None)

    def _check_again(self) -> None:
        self._timer = self._bus.alarms.after(self._pace.attempt_check_s, self._check)

    def _ask_node(self, until_mono_s: float | None) -> None:
        """Asks the node, which tells the end again of an attempt that is over. While the bus is down nothing is asked.

        Args:
            until_mono_s: Until then it is asked again; None: once, and its silence tells nothing.
        """

        def on_reply(reply: Msg | BusError) -> None:
            told = None if isinstance(reply, BusError) else decoded(reply, ControlReply)
            state = told.attempt_state if told is not None else None
            if state in (AttemptState.ENDED_SPOKEN, AttemptState.ENDED_SILENT):
                loop.call_later(self._pace.last_words_s, self._tell, state)  # its report may follow
            elif state is not None:
                self._tell(state)
            elif until_mono_s is not None and time.monotonic() < until_mono_s:
                loop.call_later(_NODE_RETRY_S, self._ask_node, until_mono_s)
            elif until_mono_s is not None:
                self._tell(None)

        if self._subscription is None:
            return
        loop = asyncio.get_running_loop()
        question = encode(ControlAttempt(attempt_id=self.attempt_id))
        try:
            self._bus.ask(subjects.NODE_CONTROL.of(self.node_id), question, on_reply, timeout_s=_NODE_ANSWER_S)
        except NotConnected:
            log.debug("attempt %s: asked about after the next reconnect", self.attempt_id)

    def _tell(self, state: AttemptState | None) -> None:
        if self._subscription is not None:
            self._on_state(self, state)

    def leave(self) -> None:
        """Stops listening at once: the node that asks whether it may speak learns that it may, nobody else can."""
        if self._subscription is not None:
            self._subscription.unsubscribe()
            self._forget()

    def close(self) -> None:
        """Stops listening to its reports; from now on the node is told that nobody is there."""
        if self._subscription is not None:
            self._subscription.unsubscribe_soon()
            self._forget()

    def _forget(self) -> None:
        self._subscription = None
        if self._timer is not None:
            self._timer.cancel()

    def _on_message(self, msg: Msg) -> None:
        if self._subscription is None:
            return
        if is_no_responders(msg):
            if self.fence.phase is Phase.SENT:
                self._on_report(self, self._unheard())
            return
        try:
            report: AttemptReport = decode(msg.data, AttemptReport)  # type: ignore[arg-type]  # a union decodes too
        except DecodeFailed as error:
            request_id = self.granted.decision.request_id
            extra = {"action": "bad_report", "request_id": request_id, "attempt_id": self.attempt_id}
            log.warning("attempt %s: %s", self.attempt_id, error, extra=extra)
            return
        match report:
            case AttemptAccepted():
                self.is_accepted = True
                if report.is_open:
                    self._leave_to = ""
                self._answer(msg, self.fence.on_accepted(time.monotonic()))
            case AttemptStart():
                self._answer(msg, self.fence.on_start_asked())
            case AttemptFirstToken():
                self.fence.on_first_token()
            case AttemptDone() | AttemptFailed() if is_node_inbox(msg.reply, self.node_id):
                self._publish_outcome(report, msg.reply)
            case _:
                pass
        self._on_report(self, report)

    def _publish_outcome(self, report: AttemptDone | AttemptFailed, ack_to: str) -> None:
        """Publishes what the node reported as the outcome; the node sends it itself when it is not acknowledged."""
        event = encode(Outcome.of_report(self.granted.decision, report).as_event(is_cut=True))
        try:
            publish_outcome(self._bus, self.node_id, self.attempt_id, event, ack_to)
        except (NotConnected, PayloadTooLarge) as error:
            log.debug("the outcome of %s is left to its node: %s", self.attempt_id, error)

    def _answer(self, msg: Msg, go: bool) -> None:
        """Says whether the node may speak; before each `go` it gets leave, as an earlier one may be lost."""
        if not is_node_inbox(msg.reply, self.node_id):
            return
        if go and self._leave_to:
            give(self._bus, self.node_id, self._leave_to)
        self._bus.publish(msg.reply, _GO if go else _NO)

    def _unheard(self) -> AttemptFailed:
        """Nobody got the exec. While everybody is just coming back to the bus, asking again soon costs no attempt."""
        code, why = ErrorCode.NODE_LOST, "the node is not on the bus"
        if self._bus.is_settling:
            code, why = ErrorCode.BUSY, "the node is on its way back to the bus"
        error = ErrorBody(code=code, message=why, details={"node_id": self.node_id})
        return AttemptFailed(attempt_id=self.attempt_id, error=error)


class AbandonedAttempts:
    """Attempts that were given up: their nodes are told `no` until they report an end; bounded in number and time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._kept: dict[Attempt, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, attempt: Attempt) -> None:
        """Goes on answering an attempt that its request has given up."""
        self._kept[attempt] = self._loop.call_later(_KEEP_S, self.forget, attempt)
        while len(self._kept) > _KEPT_MAX:
            self.forget(next(iter(self._kept)))

    def forget(self, attempt: Attempt) -> None:
        """The attempt is over, or was answered long enough; harmless for any other."""
        timer = self._kept.pop(attempt, None)
        if timer is not None:
            timer.cancel()
            attempt.close()

    async def close(self) -> None:
        """Leaves all of them without an answer."""
        for attempt in list(self._kept):
            self.forget(attempt)


def envelope(
    request: Request, granted: Granted, deadline_s: float, ticket: str = "", body_bytes: int | None = None
) -> Exec:
    """The metadata that goes with the body."""
    return Exec(
        decision=granted.decision,
        path=request.path,
        stream=request.wants_stream,
        is_joined=request.is_joined,
        deadline_s=deadline_s,
        keep_alive_s=granted.keep_alive_s,
        has_tools=request.context.has_tools,
        ticket=ticket,
        is_resumable=request.is_resumable,
        is_bound=request.is_resumable and continuing.is_bound(request.routing, request.context, request.said),
        body_bytes=body_bytes,
    )
