"""A dispatcher and a caller in one, for tests of a node: sends execs, answers its questions, hears its answers."""

# ruff: noqa: ANN401 fields of an exec are passed on by name

from __future__ import annotations

from typing import Any

import msgspec

from sollol_agents.dispatcher.node_outcomes import publish_outcome
from sollol_agents.lab.testing.messages import decision
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.leave import give
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import ContinueFrom, packed
from sollol_schemas.decision import Decision, Forecast
from sollol_schemas.events import Outcome
from sollol_schemas.execution import (
    AttemptAccepted,
    AttemptDone,
    AttemptFailed,
    AttemptReport,
    AttemptStart,
    CancelAttempt,
    Exec,
    StartAnswer,
)


class PlayedDispatcher:
    """Sends execs to one node.

    Args:
        bus: The connection.
        node_id: The node.
    """

    def __init__(self, bus: Bus, node_id: str) -> None:
        self.reports: list[AttemptReport] = []
        """What the node reported, in order."""
        self.heard: list[Msg] = []
        """What the callers got, in order."""
        self.order: list[str] = []
        """Names of both as they came: of a report's type, `chunk`, or `end`."""
        self.go: bool | None = True
        """How the node's questions are answered; None: not at all."""
        self.publishes = True
        """Whether it publishes the outcomes of what is reported."""
        self.given: list[str] = []
        """Inboxes for which the node got leave."""
        self._leaves_to: dict[str, str] = {}
        self._bus = bus
        self._node_id = node_id
        self._number = 0
        self._decisions: dict[str, Decision] = {}
        self.acks_elsewhere = False
        """Whether the node does not hear that such an outcome is stored."""
        self.reporting = bus.subscribe(subjects.ATTEMPT.of(node_id, "*"), self._on_report)

    def send(
        self,
        instance: str,
        body: dict[str, Any],
        *,
        kind: RequestKind = RequestKind.CHAT,
        stream: bool = True,
        reply_to: str = "",
        term: int = 1,
        needs_load: bool = False,
        said: ContinueFrom | None = None,
        **more: Any,
    ) -> str:
        """Sends an exec and returns its attempt's id.

        Args:
            instance: The node's instance.
            body: The caller's body.
            kind: What is asked.
            stream: Whether the caller wants chunks.
            reply_to: Where the answer goes; empty: to an inbox that is heard here.
            term: Of the decision.
            needs_load: Whether the model has to be loaded first.
            said: What was said of the answer already; None: it begins.
            **more: Further fields of the exec.
        """
        self._number += 1
        attempt_id = f"r{self._number}-1"
        if not reply_to:
            reply_to = self._bus.new_inbox()
            self.inbox = self._bus.subscribe(reply_to, self._on_chunk)
        decided = self._decisions[attempt_id] = decision(
            attempt_id,
            self._node_id,
            instance=instance,
            model=body["model"],
            kind=kind,
            term=term,
            forecast=Forecast(needs_load=needs_load),
        )
        payload = msgspec.json.encode(body)
        if said is not None:
            more["body_bytes"] = len(payload)
            payload, _ = packed(payload, said)
        headers = {h.EXEC: encode(Exec(decision=decided, stream=stream, **more)).decode(), h.REPLY_TO: reply_to}
        subject, reply = subjects.NODE_EXEC.of(self._node_id), subjects.ATTEMPT.of(self._node_id, attempt_id)
        self._leaves_to[attempt_id] = reply_to
        self._bus.publish(subject, payload, reply=reply, headers=headers)
        return attempt_id

    def give_up(self, attempt_id: str, reason: str = "enough") -> None:
        """Takes an attempt back."""
        cancel = CancelAttempt(attempt_id=attempt_id, reason=reason)
        self._bus.publish(subjects.NODE_CANCEL.of(self._node_id), encode(cancel))

    def ends(self) -> list[AttemptDone | AttemptFailed]:
        """How attempts ended, in order."""
        return [one for one in self.reports if isinstance(one, (AttemptDone, AttemptFailed))]

    def failures(self) -> list[AttemptFailed]:
        """How attempts failed, in order."""
        return [one for one in self.reports if isinstance(one, AttemptFailed)]

    def text(self) -> str:
        """What the chunks of chats say, together."""
        lines = [msgspec.json.decode(msg.data) for msg in self.heard if msg.data]
        return "".join(line["message"]["content"] for line in lines)

    def _on_report(self, msg: Msg) -> None:
        report: AttemptReport = decode(msg.data, AttemptReport)  # type: ignore[arg-type]  # a union decodes too
        self.reports.append(report)
        self.order.append(type(report).__name__)
        if isinstance(report, (AttemptAccepted, AttemptStart)) and self.go is not None:
            reply_to = self._leaves_to.pop(report.attempt_id, "")
            if reply_to and self.go and not (isinstance(report, AttemptAccepted) and report.is_open):
                give(self._bus, self._node_id, reply_to)
                self.given.append(reply_to)
            self._bus.publish(msg.reply, encode(StartAnswer(go=self.go)))
        if isinstance(report, (AttemptDone, AttemptFailed)) and msg.reply and self.publishes:
            outcome = Outcome.of_report(self._decisions[report.attempt_id], report)
            ack_to = self._bus.new_inbox() if self.acks_elsewhere else msg.reply
            publish_outcome(self._bus, self._node_id, report.attempt_id, encode(outcome.as_event()), ack_to)

    def _on_chunk(self, msg: Msg) -> None:
        self.heard.append(msg)
        self.order.append("chunk" if msg.data else "end")
