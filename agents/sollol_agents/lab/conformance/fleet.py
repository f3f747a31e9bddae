"""Scorer, dispatcher and caller in one, towards the node under test."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from sollol_agents.lab.conformance.attempts import Go, PlayedAttempt
from sollol_agents.lab.conformance.findings import BrokenRule, NotTried, Pace
from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_bus.waiting import happens
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.control import ClaimReply, ClaimRequest, ControlReply, LeaveReply
from sollol_schemas.decision import Decision
from sollol_schemas.execution import AttemptReport, CancelAttempt, Exec
from sollol_schemas.telemetry import InstalledModel, LoadUpdate, Telemetry

REVISION: Final = 41
_SHORT: Final = 5


class PlayedFleet:
    """All that a node meets on the bus.

    Args:
        bus: The connection; nobody else plays a fleet there.
        pace: How patient it is.
        node_id: The node; empty: the first that claims its id or tells of itself.
        model: What is asked of; empty: the first one that talks.
        stop: Asks the node's process to end, and returns when it has; None: nobody here started it.
    """

    def __init__(
        self,
        bus: Bus,
        pace: Pace,
        *,
        node_id: str = "",
        model: str = "",
        stop: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.bus = bus
        self.pace = pace
        self.node_id = node_id
        self.stop = stop
        self.claims: list[tuple[Msg, ClaimRequest | None]] = []
        self.beats: list[tuple[float, Telemetry]] = []
        """Heartbeats, with when they came (monotonic seconds)."""
        self.loads: list[LoadUpdate] = []
        self.told: list[Telemetry | LoadUpdate] = []
        """Both, as they came."""
        self.troubles: list[str] = []
        """What was no claim, telemetry or load as the contract has it."""
        self.bad_reports: list[str] = []
        self.is_gone = False
        """Whether the node's process is known to have ended."""
        self.term = 5
        self.whole: PlayedAttempt | None = None
        """A stream that was left alone, at which several rules look."""
        self._model = model
        self._attempts: dict[str, PlayedAttempt] = {}
        self._numbers = itertools.count(1)
        self._run = secrets.token_hex(3)
        self._changed = asyncio.Event()

    def gone(self) -> None:
        """The node's process has ended."""
        self.is_gone = True
        self._changed.set()

    async def listen(self) -> None:
        """Plays from now on."""
        bus = self.bus
        bus.subscribe(subjects.NODE_CLAIM.all, self._on_claim)
        bus.subscribe(subjects.TELEMETRY.all, self._on_told)
        bus.subscribe(subjects.LOAD.all, self._on_told)
        bus.subscribe(subjects.ATTEMPT.all, self._on_report)
        bus.subscribe(subjects.NODE_OUTCOME.all, self._on_outcome)
        bus.subscribe(subjects.LEAVE_WANTED.all, lambda msg: bus.respond(msg, LeaveReply(is_given=True)))
        await bus.flush()

    # -- what is known --------------------------------------------------------------------------------------

    @property
    def state(self) -> Telemetry:
        """The latest heartbeat.

        Raises:
            NotTried: There is none.
        """
        if not self.beats:
            raise NotTried("no heartbeat came")
        return self.beats[-1][1]

    @property
    def model(self) -> str:
        """What is asked of.

        Raises:
            NotTried: The node tells of no model that talks.
        """
        if self._model:
            return self._model
        talkers = [one.name for one in self.state.installed if not _only_embeds(one)]
        if not talkers:
            raise NotTried("its heartbeat names no model in `installed`")
        return talkers[0]

    @property
    def running(self) -> set[str]:
        """The attempts in slots, as the node told last."""
        return {one.attempt_id for one in self.told[-1].in_flight} if self.told else set()

    async def until(self, is_so: Callable[[], object], within_s: float | None = None) -> bool:
        """Whether something became so within that time, by default that of an answer; looked at after each message."""
        until = time.monotonic() + (self.pace.answer_s if within_s is None else within_s)
        while not is_so():
            self._changed.clear()
            left_s = until - time.monotonic()
            if left_s <= 0 or not await happens(self._changed, left_s):
                return bool(is_so())
        return True

    async def must(self, is_so: Callable[[], object], complaint: Callable[[], str]) -> None:
        """Returns when something became so.

        Raises:
            BrokenRule: It did not in time.
        """
        if not await self.until(is_so):
            raise BrokenRule(complaint())

    async def quiet(self, seconds: float | None = None) -> None:
        """Listens for a while to what should not come."""
        await asyncio.sleep(self.pace.quiet_s if seconds is None else seconds)

    # -- what is asked --------------------------------------------------------------------------------------

    def chat(self, count: int = _SHORT, **more: Any) -> PlayedAttempt:  # noqa: ANN401 fields of an exec and of `send`
        """Sends a chat that is answered by counting down."""
        body = {"messages": [{"role": "user", "content": f"Count down from {count}"}]}
        return self.send(RequestKind.CHAT, {"model": more.pop("model", self.model)} | body, **more)

    def long(self, **more: Any) -> PlayedAttempt:  # noqa: ANN401
        """Sends a chat that takes long."""
        return self.chat(self.pace.long, **more)

    def send(
        self,
        kind: RequestKind,
        body: dict[str, Any],
        *,
        go: Go = Go(),  # noqa: B008 it is frozen
        stream: bool = True,
        instance: str = "",
        term: int = 0,
        reply_to: str = "",
        is_sent: bool = True,
        **more: Any,  # noqa: ANN401 further fields of the exec
    ) -> PlayedAttempt:
        """Sends an attempt, and hears what comes of it."""
        number = next(self._numbers)
        decision = Decision(
            request_id=f"check-{self._run}-{number}",
            attempt_id=f"check-{self._run}-{number}-1",
            node_id=self.node_id,
            instance=instance or self.state.instance,
            model=body["model"],
            kind=kind,
            term=term or self.term,
        )
        exec_ = Exec(decision=decision, stream=stream, **{"deadline_s": 120.0, **more})
        sent = {"stream": stream} | body
        attempt = PlayedAttempt(self.bus, exec_, encode(sent), reply_to or self.bus.new_inbox(), go)
        self._attempts[attempt.attempt_id] = attempt

        def on_heard(msg: Msg) -> None:
            attempt.heard.append(msg)
            self._changed.set()

        attempt.inbox = self.bus.subscribe(attempt.reply_to, on_heard)
        if is_sent:
            self.exec(attempt, attempt.headers())
        return attempt

    def exec(self, attempt: PlayedAttempt, headers: dict[str, str]) -> None:
        """Sends an exec, with leave to speak before it."""
        self.bus.publish(subjects.NODE_LEAVE.of(self.node_id), reply=attempt.reply_to)
        subject = subjects.ATTEMPT.of(self.node_id, attempt.attempt_id)
        self.bus.publish(subjects.NODE_EXEC.of(self.node_id), attempt.body, reply=subject, headers=headers)

    def cancel(self, attempt: PlayedAttempt) -> None:
        """Takes an attempt back."""
        word = CancelAttempt(attempt_id=attempt.attempt_id, reason="the check has seen enough")
        self.bus.publish(subjects.NODE_CANCEL.of(self.node_id), encode(word))

    async def control(self, request: object) -> ControlReply:
        """What the node answers on its control subject.

        Raises:
            BrokenRule: Nothing, or no such answer.
        """
        try:
            payload = request if isinstance(request, bytes) else encode(request)
            msg = await self.bus.request(subjects.NODE_CONTROL.of(self.node_id), payload, timeout_s=self.pace.answer_s)
            return decode(msg.data, ControlReply)
        except BusError as error:
            raise BrokenRule(f"the control subject: {error}") from error

    async def whole_stream(self) -> PlayedAttempt:
        """A short stream that was left alone; the first one asks for it, the others look at the same."""
        if self.whole is None:
            self.whole = attempt = self.chat()
            await self.until(lambda: attempt.code or (attempt.is_over and attempt.has_end and attempt.outcomes))
            await self.quiet(self.pace.quiet_s / 2)
        if not self.whole.reports:
            raise BrokenRule("nothing came of a plain exec")
        return self.whole

    async def settle(self) -> None:
        """Ends what a rule left behind, so that the next one finds the node free."""
        for attempt in self._attempts.values():
            attempt.go, attempt.is_outcome_acked = Go(accepted=False, start=False), True
            if not attempt.is_over and attempt.reports:
                self.cancel(attempt)
        begun = [one for one in self._attempts.values() if one.reports]
        await self.until(lambda: all(one.is_over for one in begun))
        for attempt in self._attempts.values():
            if attempt.inbox is not None and attempt is not self.whole:
                attempt.inbox.unsubscribe()
                attempt.inbox = None
        self._attempts = {key: one for key, one in self._attempts.items() if one is self.whole or not one.outcomes}

    # -- what comes -----------------------------------------------------------------------------------------

    def _is_own(self, node_id: str) -> bool:
        self.node_id = self.node_id or node_id
        self._changed.set()
        return node_id == self.node_id

    def _on_claim(self, msg: Msg) -> None:
        if self._is_own(subjects.last_token(msg.subject)):
            self.claims.append((msg, self._read(msg, ClaimRequest)))
            self.bus.respond(msg, ClaimReply(revision=REVISION))

    def _on_told(self, msg: Msg) -> None:
        if not self._is_own(subjects.last_token(msg.subject)):
            return
        told = self._read(msg, Telemetry | LoadUpdate)
        if told is None:
            return
        self.told.append(told)
        if isinstance(told, Telemetry):
            self.beats.append((time.monotonic(), told))
        else:
            self.loads.append(told)
            for attempt in self._attempts.values():
                attempt.told_by_load.append(attempt.attempt_id in self.running)

    def _on_report(self, msg: Msg) -> None:
        attempt = self._attempts.get(subjects.last_token(msg.subject))
        if attempt is None:
            return  # nobody listens there
        try:
            attempt.on_report(msg, decode(msg.data, AttemptReport))  # type: ignore[arg-type]  # a union decodes too
        except DecodeFailed as error:
            self.bad_reports.append(f"{msg.subject}: {error}")
        self._changed.set()

    def _on_outcome(self, msg: Msg) -> None:
        attempt = self._attempts.get((msg.headers or {}).get(h.MSG_ID, ""))
        if attempt is not None:
            attempt.on_outcome(msg)
        else:
            self.bus.answer(msg, encode({"stream": "SOLLOL_EVENTS", "seq": 1}))
        self._changed.set()

    def _read(self, msg: Msg, kind: Any) -> Any:  # noqa: ANN401 a Struct or a union of them
        try:
            return decode(msg.data, kind)
        except DecodeFailed as error:
            self.troubles.append(f"{msg.subject}: {error}")
            return None


def _only_embeds(model: InstalledModel) -> bool:
    return bool(model.capabilities) and set(model.capabilities) == {"embedding"}


def told_of(attempt: PlayedAttempt) -> bytes:
    """The exec's envelope as JSON, to be changed."""
    return msgspec.json.encode(attempt.exec_)
