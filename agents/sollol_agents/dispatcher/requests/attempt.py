"""One attempt at the bus: its exec, its subscription, and the reports that come back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from sollol_agents.dispatcher.requests.fence import AttemptFence, Phase
from sollol_agents.dispatcher.requests.intake import Request
from sollol_bus.errors import DecodeFailed
from sollol_bus.transport.connection import Bus, Subscription
from sollol_bus.transport.messages import Msg, decode, encode, is_no_responders
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
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

log = logging.getLogger(__name__)

_GO = encode(StartAnswer(go=True))
_NO = encode(StartAnswer(go=False))

OnReport = Callable[["Attempt", AttemptReport], None]


class Attempt:
    """One granted attempt, from its exec to its end.

    Args:
        bus: The connection.
        granted: The slot.
        on_report: Called for first token, done and failed; the questions of the node are answered here.
    """

    __slots__ = ("_bus", "_on_report", "_subscription", "fence", "granted", "is_accepted", "sent_mono_s")

    def __init__(self, bus: Bus, granted: Granted, on_report: OnReport) -> None:
        self._bus = bus
        self.granted = granted
        self._on_report = on_report
        self._subscription: Subscription | None = None
        self.fence = AttemptFence(GO_S)
        self.is_accepted = False
        self.sent_mono_s = 0.0

    @property
    def attempt_id(self) -> str:
        """Its id."""
        return self.granted.decision.attempt_id

    @property
    def node_id(self) -> str:
        """The node it runs on."""
        return self.granted.decision.node_id

    def start(self, request: Request, deadline_s: float) -> None:
        """Subscribes to its reports and sends the exec, in this order on one connection."""
        subject = subjects.ATTEMPT.of(self.node_id, self.attempt_id)
        self._subscription = self._bus.subscribe(subject, self._on_message)
        headers = {h.EXEC: encode(envelope(request, self.granted, deadline_s)).decode(), h.REPLY_TO: request.reply_to}
        if request.traceparent:
            headers[h.TRACEPARENT] = request.traceparent
        self.sent_mono_s = time.monotonic()
        self._bus.publish(subjects.NODE_EXEC.of(self.node_id), request.body, reply=subject, headers=headers)

    def cancel(self, reason: str) -> None:
        """Tells the node to stop it."""
        message = CancelAttempt(attempt_id=self.attempt_id, reason=reason)
        self._bus.publish(subjects.NODE_CANCEL.of(self.node_id), encode(message))

    def close(self) -> None:
        """Stops listening to its reports; from now on the node is told that nobody is there."""
        if self._subscription is not None:
            self._subscription.unsubscribe_soon()
            self._subscription = None

    def _on_message(self, msg: Msg) -> None:
        if self._subscription is None:
            return
        if is_no_responders(msg):
            if self.fence.phase is Phase.SENT:
                self._on_report(self, self._returning() if self._bus.is_settling else self._lost())
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
                self._answer(msg, self.fence.on_accepted(time.monotonic()))
            case AttemptStart():
                self._answer(msg, self.fence.on_start_asked())
            case AttemptFirstToken():
                self.fence.on_first_token()
                self._on_report(self, report)
            case AttemptDone() | AttemptFailed():
                self._on_report(self, report)

    def _answer(self, msg: Msg, go: bool) -> None:
        self._bus.answer(msg, _GO if go else _NO)

    def _lost(self) -> AttemptFailed:
        return self._failed(ErrorCode.NODE_LOST, "the node is not on the bus")

    def _returning(self) -> AttemptFailed:
        """Nobody got the exec, but everybody is just coming back to the bus: asking again soon costs no attempt."""
        return self._failed(ErrorCode.BUSY, "the node is on its way back to the bus")

    def _failed(self, code: ErrorCode, why: str) -> AttemptFailed:
        error = ErrorBody(code=code, message=why, details={"node_id": self.node_id})
        return AttemptFailed(attempt_id=self.attempt_id, error=error)


def envelope(request: Request, granted: Granted, deadline_s: float) -> Exec:
    """The metadata that goes with the body."""
    return Exec(
        decision=granted.decision,
        path=request.path,
        stream=request.wants_stream,
        deadline_s=deadline_s,
        keep_alive_s=granted.keep_alive_s,
        has_tools=request.context.has_tools,
    )
