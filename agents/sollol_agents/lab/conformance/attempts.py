"""One attempt on the node under test, as its dispatcher and its caller see it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_bus.transport.subscription import Subscription
from sollol_schemas import headers as h
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome
from sollol_schemas.execution import (
    AttemptAccepted,
    AttemptDone,
    AttemptFailed,
    AttemptReport,
    AttemptStart,
    Exec,
    StartAnswer,
)

_LAST_WORDS = 2
_AT_ONCE_S = 0.02

Ended = AttemptDone | AttemptFailed


class Go(msgspec.Struct, frozen=True, kw_only=True):
    """The dispatcher's answers to a node's questions; None: none."""

    accepted: bool | None = True
    start: bool | None = True


class ToldOutcome(NamedTuple):
    """An outcome as it came, or as a report that asks for an acknowledgement says it."""

    data: bytes
    reply: str


class PlayedAttempt:
    """What is sent of one attempt, and all that comes of it.

    Args:
        bus: The connection.
        exec_: What the node is told.
        body: The caller's body.
        reply_to: Where the answer goes.
        go: The answers to its questions.
    """

    def __init__(self, bus: Bus, exec_: Exec, body: bytes, reply_to: str, go: Go) -> None:
        self.exec_ = exec_
        self.attempt_id = exec_.attempt_id
        self.body = body
        self.reply_to = reply_to
        self.go = go
        self.is_outcome_acked = True
        """Whether its outcome is acknowledged, as JetStream does it."""
        self.heard: list[Msg] = []
        """What its caller got, in order."""
        self.heard_at: list[float] = []
        """When (monotonic seconds)."""
        self.reports: list[AttemptReport] = []
        self.asked: dict[type[AttemptReport], list[Msg]] = {AttemptAccepted: [], AttemptStart: []}
        """Its questions, by kind."""
        self.outcomes: list[ToldOutcome] = []
        self.told_by_load: list[bool] = []
        """Of each load message since it began, whether the attempt was in it."""
        self.inbox: Subscription | None = None
        self._bus = bus

    @property
    def accepted(self) -> list[Msg]:
        """Its questions for the first permission."""
        return self.asked[AttemptAccepted]

    @property
    def starts(self) -> list[Msg]:
        """Its later questions."""
        return self.asked[AttemptStart]

    @property
    def ends(self) -> list[Ended]:
        """Reports of its end."""
        return [one for one in self.reports if isinstance(one, (AttemptDone, AttemptFailed))]

    @property
    def is_over(self) -> bool:
        """Whether the node reported its end."""
        return bool(self.ends)

    @property
    def is_running(self) -> bool:
        """Whether the node took it, and has not reported as many ends."""
        return len(self.ends) < max(len(self.accepted), bool(self.reports))

    @property
    def came_at_once(self) -> bool:
        """Whether what its caller got may have left the node in one write."""
        return bool(self.heard_at) and self.heard_at[-1] - self.heard_at[0] < _AT_ONCE_S

    @property
    def has_end(self) -> bool:
        """Whether the caller heard the message that ends its stream."""
        return any(not msg.data for msg in self.heard)

    @property
    def code(self) -> ErrorCode | None:
        """Why it failed, as reported; None: it did not, or is not over."""
        return next((one.error.code for one in self.ends if isinstance(one, AttemptFailed)), None)

    @property
    def outcome(self) -> Outcome:
        """How it ended, as the node tells everybody.

        Raises:
            DecodeFailed: It is none.
        """
        return decode(self.outcomes[0].data, Outcome)

    @property
    def is_broken_off(self) -> bool:
        """Whether its caller heard an error, and then the message that ends a stream."""
        words = [msg for msg in self.heard if not msg.data]
        return len(self.heard) >= _LAST_WORDS and words == self.heard[-1:] and error_of(self.heard[-2]) is not None

    @property
    def how(self) -> str:
        """What came of it, in a few words."""
        reports = ", ".join(type(one).__name__ for one in self.reports) or "no report"
        code = f" ({self.code})" if self.code else ""
        return f"{reports}{code}; the caller got {len(self.heard)} messages"

    def on_report(self, msg: Msg, report: AttemptReport) -> None:
        """Takes a report, and answers a question unless that is withheld."""
        self.reports.append(report)
        if isinstance(report, (AttemptAccepted, AttemptStart)):
            self.asked[type(report)].append(msg)
            go = self.go.accepted if isinstance(report, AttemptAccepted) else self.go.start
            if go is not None:
                self.answer(msg, go=go)
        elif isinstance(report, (AttemptDone, AttemptFailed)) and msg.reply and self.is_outcome_acked:
            self._keep(msg, encode(Outcome.of_report(self.exec_.decision, report)))

    def answer(self, question: Msg, *, go: bool) -> None:
        """Says whether the node may speak."""
        self._bus.answer(question, encode(StartAnswer(go=go)))

    def on_outcome(self, msg: Msg) -> None:
        """Takes its outcome, and acknowledges it unless that is withheld."""
        self._keep(msg, msg.data)

    def _keep(self, msg: Msg, outcome: bytes) -> None:
        self.outcomes.append(ToldOutcome(outcome, msg.reply))
        if self.is_outcome_acked:
            self._bus.answer(msg, encode({"stream": "SOLLOL_EVENTS", "seq": 1}))

    def header(self, place: int, name: str) -> str:
        """A header of a message that the caller got."""
        return (self.heard[place].headers or {}).get(name, "")

    def headers(self) -> dict[str, str]:
        """Those of its exec."""
        return {h.EXEC: encode(self.exec_).decode(), h.REPLY_TO: self.reply_to}
