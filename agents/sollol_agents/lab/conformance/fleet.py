"""Scorer, dispatcher and caller in one, towards the node under test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from sollol_agents.lab.conformance.attempts import Go, PlayedAttempt
from sollol_agents.lab.conformance.bus import PlayedBus
from sollol_agents.lab.conformance.findings import BrokenRule, NotTried, Pace
from sollol_agents.lab.conformance.keeping import PlayedKeeping
from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.transport.messages import Msg, decode, encode, error_of, is_no_responders
from sollol_bus.waiting import happens
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import ContinueFrom, packed
from sollol_schemas.control import ClaimRequest, ControlPing, ControlReply
from sollol_schemas.decision import Decision
from sollol_schemas.execution import AttemptReport, CancelAttempt, Exec
from sollol_schemas.telemetry import InstalledModel, LoadUpdate, Telemetry

_SHORT: Final = 5


class Cut(NamedTuple):
    """What ran when the node's connection was broken."""

    streaming: PlayedAttempt
    silent: PlayedAttempt
    """It had not been allowed to speak."""
    claims: int
    """How many there had been."""
    beats: int


class Process(Protocol):
    """The node's process, when it is ours."""

    async def start(self) -> None:
        """Starts it again after it has ended."""

    async def end(self) -> None:
        """Asks it to end, and returns when it has."""


class PlayedFleet:
    """All that a node meets on the bus.

    Args:
        server: The bus; nobody else plays a fleet there.
        pace: How patient it is.
        node_id: The node; empty: the first that claims its id or tells of itself.
        model: What is asked of; empty: the first one that talks.
        process: The node's process; None: nobody here started it.
    """

    def __init__(
        self,
        server: PlayedBus,
        pace: Pace,
        *,
        node_id: str = "",
        model: str = "",
        process: Process | None = None,
    ) -> None:
        self.server = server
        self.bus = server.bus
        self.pace = pace
        self.node_id = node_id
        self.process = process
        self.keeping = PlayedKeeping(server.bus, self._is_own, self.trouble)
        self.beats: list[tuple[float, Telemetry]] = []
        """Heartbeats, with when they came (monotonic seconds)."""
        self.loads: list[LoadUpdate] = []
        self.unheard: list[str] = []
        """Subjects of the node on which nobody listened when it told of itself first."""
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
        self.cut: Cut | None = None
        """What ran when the connection was broken."""
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
        bus.subscribe(subjects.TELEMETRY.all, self._on_told)
        bus.subscribe(subjects.LOAD.all, self._on_told)
        self._reports = bus.subscribe(subjects.ATTEMPT.all, self._on_report)
        bus.subscribe(subjects.NODE_OUTCOME.all, self._on_outcome)
        await bus.flush()

    @contextlib.contextmanager
    def no_dispatcher(self) -> Iterator[None]:
        """Meanwhile nobody listens to what attempts ask and report."""
        self._reports.unsubscribe()
        try:
            yield
        finally:
            self._reports = self.bus.subscribe(subjects.ATTEMPT.all, self._on_report)

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
    def claims(self) -> list[tuple[Msg, ClaimRequest | None]]:
        """Claims of the node's id, as they came."""
        return self.keeping.claims

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

    async def must(
        self, is_so: Callable[[], object], complaint: Callable[[], str], within_s: float | None = None
    ) -> None:
        """Returns when something became so.

        Raises:
            BrokenRule: It did not in time.
        """
        if not await self.until(is_so, within_s):
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
        said: ContinueFrom | None = None,
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
        ticket = f"ticket-{self._run}-{number}"
        sent = encode({"stream": stream} | body)
        if said is not None:
            more, sent = more | {"body_bytes": len(sent)}, packed(sent, said)[0]
        exec_ = Exec(decision=decision, stream=stream, ticket=ticket, **{"deadline_s": 120.0, **more})
        attempt = PlayedAttempt(self.bus, exec_, sent, reply_to or self.bus.new_inbox(), go)
        self._attempts[attempt.attempt_id] = attempt

        def on_heard(msg: Msg) -> None:
            attempt.heard.append(msg)
            attempt.heard_at.append(time.monotonic())
            self._changed.set()

        attempt.inbox = self.bus.subscribe(attempt.reply_to, on_heard)
        if is_sent:
            self.exec(attempt, attempt.headers())
        return attempt

    def exec(self, attempt: PlayedAttempt, headers: dict[str, str]) -> None:
        """Sends an exec, with leave to speak before it."""
        self.keeping.give(self.node_id, attempt.reply_to, attempt.exec_.ticket)
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
            refused = error_of(msg)
            if refused is not None:
                return ControlReply(node_id=self.node_id, instance=self.state.instance, error=refused)
            return decode(msg.data, ControlReply)
        except BusError as error:
            raise BrokenRule(f"the control subject: {error}") from error

    async def objects(self, request: bytes) -> list[Msg]:
        """What the node answers to a request of which it tells the progress.

        Raises:
            BrokenRule: The last, empty message did not come.
        """
        heard: list[Msg] = []

        def on_heard(msg: Msg) -> None:
            heard.append(msg)
            self._changed.set()

        inbox = self.bus.new_inbox()
        subscription = self.bus.subscribe(inbox, on_heard)
        self.bus.publish(subjects.NODE_LEAVE.of(self.node_id), reply=inbox)
        self.bus.publish(subjects.NODE_CONTROL.of(self.node_id), request, reply=inbox)
        try:
            await self.must(
                lambda: any(not msg.data for msg in heard),
                lambda: f"no empty message ends the answer to {request[:60]!r}: {[msg.data[:60] for msg in heard[:2]]}",
            )
        finally:
            subscription.unsubscribe()
        return heard

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
        kept = [one for one in (self.whole, *(self.cut or ())[:2]) if one is not None]
        others = [one for one in self._attempts.values() if one not in kept]
        for attempt in others:
            attempt.go, attempt.is_outcome_acked = Go(accepted=False, start=False), True
            if attempt.is_running:
                self.cancel(attempt)
        await self.until(lambda: not any(one.is_running for one in others))
        for attempt in others:
            if attempt.inbox is not None:
                attempt.inbox.unsubscribe()
                attempt.inbox = None
        self._attempts = {key: one for key, one in self._attempts.items() if one in kept or not one.outcomes}

    # -- what comes -----------------------------------------------------------------------------------------

    def _is_own(self, node_id: str) -> bool:
        self.node_id = self.node_id or node_id
        self._changed.set()
        return node_id == self.node_id

    def trouble(self, text: str) -> None:
        """Something is not as the contract has it."""
        self.troubles.append(text)

    def _try_subjects(self) -> None:
        """Whether the node listens on all its subjects, on which nothing comes that it would heed."""
        node_id = self.node_id
        words = {
            subjects.NODE_EXEC: (b"{}", {h.EXEC: "{", h.REPLY_TO: self.bus.new_inbox()}),
            subjects.NODE_CANCEL: (encode(CancelAttempt(attempt_id="check-0")), None),
            subjects.NODE_LEAVE: (b"", None),
            subjects.NODE_CONTROL: (encode(ControlPing()), None),
        }
        for row, (data, headers) in words.items():

            def on_answer(msg: Msg, subject: str = row.of(node_id)) -> None:
                if is_no_responders(msg):
                    self.unheard.append(subject)

            inbox = self.bus.new_inbox()
            self.bus.subscribe(inbox, on_answer)
            self.bus.publish(row.of(node_id), data, reply=inbox, headers=headers)

    def _on_told(self, msg: Msg) -> None:
        if not self._is_own(subjects.last_token(msg.subject)):
            return
        told = self._read(msg, Telemetry | LoadUpdate)
        if told is None:
            return
        self.told.append(told)
        if len(self.told) == 1:
            self._try_subjects()
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
            self.trouble(f"{msg.subject}: {error}")
            return None


def _only_embeds(model: InstalledModel) -> bool:
    return bool(model.capabilities) and set(model.capabilities) == {"embedding"}


def told_of(attempt: PlayedAttempt) -> bytes:
    """The exec's envelope as JSON, to be changed."""
    return msgspec.json.encode(attempt.exec_)
