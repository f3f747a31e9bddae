"""One try of a job: a request like any client's, whose news and answer are kept for its job."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import NamedTuple, Self

from sollol_agents.dispatcher.jobs.intake import Accepted
from sollol_agents.dispatcher.requests.intake import SUBJECT_OF, UNLIMITED_S
from sollol_bus.errors import BusError, NoResponders, NotConnected, RequestTimedOut, SollolError
from sollol_bus.sdk.answers import joined
from sollol_bus.sdk.call import Call
from sollol_bus.sdk.results import decision_of, figures_of
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decoded, encode
from sollol_bus.transport.streaming import MAX_ANSWER_BYTES, too_large
from sollol_schemas import subjects
from sollol_schemas.control import AttemptState, ControlAttempt, ControlReply
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import Figures, RequestGranted, RequestNews, RequestWaiting

_MAX_RESENDS = 99
"""The job's own limit: a request that nobody has begun is as good as new, however often its dispatcher died."""
_SILENCE_S = 5.0
"""A node that has said nothing for so long in the middle of an answer is asked about it."""
_NODE_ANSWER_S = 2.0
_LAST_WORDS_S = 1.0
"""The node answers on another subject than it speaks: its last words may be read a moment later."""
_NODE_GONE = ErrorBody(code=ErrorCode.NODE_LOST, message="the node is gone")
_END_LOST = ErrorBody(code=ErrorCode.CONNECTION_LOST, message="the end of the answer was lost on the way")


class Answered(NamedTuple):
    """The whole answer of a try."""

    body: bytes
    decision: Decision | None
    figures: Figures | None


class Try:
    """A job's request, from the sending to the answer.

    Use as an async context manager: it is asked for inside, and given up at the end unless it was over.

    Args:
        bus: The control connection, over which the node is asked.
        calls: The connection of the requests, with a client's inboxes.
        accepted: The job.
        headers: What goes with its request.
        age_s: Seconds since it was due.
    """

    def __init__(self, bus: Bus, calls: Bus, accepted: Accepted, *, headers: dict[str, str], age_s: float) -> None:
        self.node_id = ""
        """Where it runs, or ran last."""
        self.tokens = 0
        """Chunks of output so far."""
        self.is_blocked = False
        """Whether it waits because no node may take it at present."""
        self.has_news = asyncio.Event()
        """Set when it got a slot, and when it is over."""
        self.result: Answered | ErrorBody | None = None
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._kind = accepted.kind
        deadline_s = accepted.job.deadline_s
        self._call = Call(
            calls,
            SUBJECT_OF[accepted.kind],
            bytes(accepted.job.body),
            headers=headers,
            deadline_s=UNLIMITED_S if deadline_s is None else max(0.0, deadline_s - age_s),
            waited_s=age_s,
            max_resends=_MAX_RESENDS,
            on_news=self._on_news,
        )
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._heard_mono_s = 0.0
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._task = self._loop.create_task(self._run(), name="dispatcher.job.try")  # ended below, whatever happens
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_up(ErrorBody(code=ErrorCode.ACTOR_STOPPED, message="given up"))
        await asyncio.wait((self._task,))
        if not self._task.cancelled():
            self._task.result()  # raises what is a bug

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes; `result` tells how it ended."""
        return self.result is not None or self._task.done()

    def give_up(self, why: ErrorBody) -> None:
        """Ends it; whoever works on it is told so. Safe at any time, and twice."""
        if self.result is None:
            self.result = why
            self.has_news.set()
        self._task.cancel()

    async def _run(self) -> None:
        try:
            async with self._call as call:
                async for msg in call:
                    self._collect(msg)
            body = joined(self._kind, self._chunks)
            self.result = Answered(body, decision_of(self._call.first), figures_of(self._call.last))
        except SollolError as error:
            self.result = cause_of(error)
        finally:
            self._chunks.clear()
            self.has_news.set()

    def check_on_node(self) -> None:
        """Asks the node about an answer that stopped in its middle: its end may have been lost, its dispatcher too.

        The request of another caller has a deadline that ends such a wait; a job may have none.
        """
        decision = decision_of(self._call.first)
        now = time.monotonic()
        if decision is None or self.result is not None or now - self._heard_mono_s < _SILENCE_S:
            return
        self._heard_mono_s = now
        question = encode(ControlAttempt(attempt_id=decision.attempt_id))
        try:
            self._bus.ask(
                subjects.NODE_CONTROL.of(decision.node_id), question, self._on_node_answer, timeout_s=_NODE_ANSWER_S
            )
        except NotConnected:
            return  # asked again after the next silence

    def _on_news(self, news: RequestNews) -> None:
        match news:
            case RequestWaiting():
                self.is_blocked = news.is_blocked
            case RequestGranted():
                self._note_node(news.node_id)

    def _note_node(self, node_id: str) -> None:
        self.is_blocked = False
        if node_id != self.node_id:  # a quick node's words come before the news of it
            self.node_id = node_id
            self.has_news.set()

    def _collect(self, msg: Msg) -> None:
        self._heard_mono_s = time.monotonic()
        if not self.tokens:
            decision = decision_of(self._call.first)
            self._note_node(decision.node_id if decision is not None else "")
        self.tokens += 1
        self._bytes += len(msg.data)
        if self._bytes > MAX_ANSWER_BYTES:
            raise too_large()
        self._chunks.append(msg.data)

    def _on_node_answer(self, reply: Msg | BusError) -> None:
        if isinstance(reply, NoResponders):
            if not self._bus.is_settling:
                self._loop.call_later(_LAST_WORDS_S, self.give_up, _NODE_GONE)
        elif not isinstance(reply, BusError) and _is_over(decoded(reply, ControlReply)):
            self._loop.call_later(_LAST_WORDS_S, self.give_up, _END_LOST)


def cause_of(error: SollolError) -> ErrorBody:
    """What ended a try, as the life of its job judges it: trouble on the way here is nobody's fault."""
    match error:
        case NotConnected():
            return ErrorBody(code=ErrorCode.ACTOR_STOPPED, message=error.message)
        case RequestTimedOut():
            return ErrorBody(code=ErrorCode.CONNECTION_LOST, message=error.message)
    return error.body


def _is_over(reply: ControlReply | None) -> bool:
    state = reply.attempt_state if reply is not None else None
    return state in (AttemptState.UNKNOWN, AttemptState.ENDED_SPOKEN, AttemptState.ENDED_SILENT)
