"""A scorer and nodes that do what a test says, and a dispatcher between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.pace import Pace
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.many import request_many
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.control import AttemptState, ControlReply
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import (
    AttemptAccepted,
    AttemptDone,
    AttemptFailed,
    AttemptFirstToken,
    CancelAttempt,
    Exec,
    Figures,
    StartAnswer,
)
from sollol_schemas.grant import Granted, GrantQueued, GrantRefused, GrantRelease, GrantRequest
from sollol_schemas.inboxes import node_inbox_prefix

BODY: Final = b'{"model":"m","prompt":"hi","stream":true}'


class ScriptedScorer:
    """A double that grants the first node that is not excluded, in the order given."""

    def __init__(self, bus: Bus, nodes: list[str]) -> None:
        self.bus = bus
        self.nodes = nodes
        self.asked: list[GrantRequest] = []
        self.released: list[str] = []
        self.holds_back = False
        bus.subscribe(subjects.GRANT, self._on_grant)
        bus.subscribe(subjects.RELEASE, lambda m: self.released.append(decode(m.data, GrantRelease).request_id))

    def repeat(self) -> None:
        """Says again that what was asked for last has to wait."""
        self.bus.respond(self._last, GrantQueued(request_id=self.asked[-1].request_id, position=1))

    def let_go(self) -> None:
        """Grants what was held back last."""
        self.holds_back = False
        self._on_grant(self._last)

    def _on_grant(self, msg: Msg) -> None:
        asked = decode(msg.data, GrantRequest)
        self.asked.append(asked)
        self._last = msg
        if self.holds_back:
            self.bus.respond(msg, GrantQueued(request_id=asked.request_id, position=1))
            return
        free = [n for n in self.nodes if n not in asked.excluded]
        if not free:
            error = ErrorBody(code=ErrorCode.NO_ELIGIBLE_NODE, message="every node is excluded")
            self.bus.respond(msg, GrantRefused(request_id=asked.request_id, error=error))
            return
        decision = Decision(
            request_id=asked.request_id,
            attempt_id=f"{asked.request_id}-{asked.number}",
            node_id=free[0],
            instance="i1",
            model="m",
            attempt=asked.number,
        )
        self.bus.respond(msg, Granted(decision=decision))


class ScriptedNode:
    """A double of a node: records execs; the test says what it does with each."""

    def __init__(self, bus: Bus, node_id: str, script: Callable[[ScriptedNode, str], None] | None = None) -> None:
        self.bus = bus
        self.node_id = node_id
        self.script = script
        self.execs: list[Exec] = []
        self.payloads: dict[str, bytes] = {}
        """What came with each exec."""
        self.reply_to: dict[str, str] = {}
        self.answers: list[bool] = []
        self.on_go: Callable[[], None] | None = None
        """Called at each `go`."""
        self.cancelled: list[str] = []
        self.probes = 0
        self.is_mute = False
        """Whether it leaves probes unanswered."""
        self.says: AttemptState | None = None
        """What it says of any attempt that it is asked about."""
        self.chunks: int | None = None
        """And how many messages it says there were."""
        self._subscriptions = [
            bus.subscribe(subjects.NODE_EXEC.of(node_id), self._on_exec),
            bus.subscribe(subjects.NODE_CONTROL.of(node_id), self._on_control),
            bus.subscribe(
                subjects.NODE_CANCEL.of(node_id),
                lambda m: self.cancelled.append(decode(m.data, CancelAttempt).attempt_id),
            ),
        ]
        self._answers = f"{node_inbox_prefix(node_id)}.{bus.new_inbox().rpartition('.')[2]}"
        bus.subscribe(self._answers, self._on_answer)
        self.ack_to = f"{self._answers}.acks"
        """Where JetStream acknowledges outcomes."""
        self.acks: list[Msg] = []
        bus.subscribe(self.ack_to, self.acks.append)

    def _on_control(self, msg: Msg) -> None:
        self.probes += 1
        if not self.is_mute:
            told = ControlReply(node_id=self.node_id, instance="i1", attempt_state=self.says, chunks=self.chunks)
            self.bus.respond(msg, told)

    def _on_answer(self, msg: Msg) -> None:
        if msg.data:
            self.answers.append(decode(msg.data, StartAnswer).go)
            if self.answers[-1] and self.on_go is not None:
                self.on_go()

    def _on_exec(self, msg: Msg) -> None:
        assert msg.headers is not None
        envelope = decode(msg.headers[h.EXEC].encode(), Exec)
        self.execs.append(envelope)
        self.payloads[envelope.attempt_id] = msg.data
        self.reply_to[envelope.attempt_id] = msg.headers[h.REPLY_TO]
        if self.script is not None:
            self.script(self, envelope.attempt_id)

    def die(self) -> None:
        """Hears nothing any more."""
        for subscription in self._subscriptions:
            subscription.unsubscribe()

    def report(self, attempt: str, report: object) -> None:
        """Reports of an attempt; the answer to a question comes into `answers`, that to an end into `acks`."""
        reply = self.ack_to if isinstance(report, (AttemptDone, AttemptFailed)) else self._answers
        self.bus.publish(subjects.ATTEMPT.of(self.node_id, attempt), encode(report), reply=reply)

    def accept(self, attempt: str) -> None:
        """Takes the attempt on."""
        self.report(attempt, AttemptAccepted(attempt_id=attempt, instance="i1"))

    def first(self, attempt: str) -> None:
        """The first token, and its chunk."""
        self.report(attempt, AttemptFirstToken(attempt_id=attempt))
        self.bus.publish(self.reply_to[attempt], b'{"response":"a"}')

    def say(self, attempt: str, chunk: bytes) -> None:
        """A further chunk."""
        self.bus.publish(self.reply_to[attempt], chunk)

    def finish(self, attempt: str) -> None:
        """The end of the answer."""
        self.bus.publish(self.reply_to[attempt], b"", headers={h.CHUNKS: "1"})
        self.report(attempt, AttemptDone(attempt_id=attempt, figures=Figures()))

    def fail(self, attempt: str, code: ErrorCode, *, status: int = 0) -> None:
        """Reports a failure; `status` is what the engine answered, 0 when it did not."""
        error = ErrorBody(code=code, message="scripted failure", status=status)
        self.report(attempt, AttemptFailed(attempt_id=attempt, error=error))


def begin(node: ScriptedNode, attempt: str) -> None:
    """A script: the first chunk, and no end."""
    node.accept(attempt)
    node.first(attempt)


def serve(node: ScriptedNode, attempt: str) -> None:
    """A script: an answer of one chunk."""
    begin(node, attempt)
    node.finish(attempt)


def serve_when_it_may(node: ScriptedNode, attempt: str) -> None:
    """A script: an answer of one chunk, once the node may speak."""

    def speak() -> None:
        node.first(attempt)
        node.finish(attempt)

    node.on_go = speak
    node.accept(attempt)


def control(server: EmbeddedServer) -> BusConfig:
    """The connection of an actor."""
    return BusConfig(url=server.url, inbox_prefix="_INBOX_ctl")


def quick(dispatcher: Dispatcher) -> Dispatcher:
    """The same dispatcher, which waits for nobody as long as usual."""
    dispatcher.pace = Pace(
        accept_s=0.8,
        attempt_check_s=0.1,
        last_words_s=0.1,
        probe_interval_s=0.05,
        node_silence_s=0.3,
        scorer_absence_s=0.3,
        grant_silence_s=0.3,
    )
    return dispatcher


async def ask(bus: Bus, body: bytes = BODY, **headers: str) -> list[bytes]:
    """The chunks of an answer; headers are named with `_` for `-`."""
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return [m.data async for m in request_many(bus, subjects.GENERATE, body, headers=named or None, total_s=20)]
