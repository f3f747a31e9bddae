"""One try of a job: a request like any client's, whose news and answer are kept for its job."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import NamedTuple, Self

from sollol_agents.dispatcher.jobs.intake import Accepted
from sollol_agents.dispatcher.requests.intake import SUBJECT_OF, UNLIMITED_S
from sollol_bus.errors import NotConnected, RequestTimedOut, SollolError
from sollol_bus.sdk.answers import joined
from sollol_bus.sdk.call import Call
from sollol_bus.sdk.checked import in_place_of, left_s, tell_verdict
from sollol_bus.sdk.escalation import Escalation
from sollol_bus.sdk.results import figures_of
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.joined import chunks_in
from sollol_bus.transport.messages import Msg
from sollol_bus.transport.streaming import MAX_ANSWER_BYTES, too_large
from sollol_bus.waiting import happens
from sollol_schemas import headers as h
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.escalation import Tried
from sollol_schemas.execution import Figures, RequestGranted, RequestNews, RequestWaiting
from sollol_schemas.routing import routing_header

_AVOID = routing_header("avoid_models")
_GIVEN_UP = ErrorBody(code=ErrorCode.ACTOR_STOPPED, message="given up")
_MAX_RESENDS = 99
"""The job's own limit: a request that nobody has begun is as good as new, however often its dispatcher died."""


class Answered(NamedTuple):
    """The whole answer of a try."""

    body: bytes
    decision: Decision | None
    figures: Figures | None
    tried: tuple[Tried, ...] = ()
    """Models whose answers failed the job's check before."""
    check_failure: str = ""
    """Why this answer fails it too; empty: it does not."""


class Try:
    """A job's request, from the sending to the answer.

    Use as an async context manager: it is asked for inside, and given up at the end unless it was over.

    Args:
        calls: The connection of the requests, with a client's inboxes.
        accepted: The job.
        headers: What goes with its request.
        age_s: Seconds since it was due.
        resume_bytes: So much of the answer's text is kept, so that it goes on when it breaks off; 0: it does not.
    """

    def __init__(
        self, calls: Bus, accepted: Accepted, *, headers: dict[str, str], age_s: float, resume_bytes: int
    ) -> None:
        self.node_id = ""
        """Where it runs, or ran last."""
        self.tokens = 0
        """Chunks of output so far."""
        self.is_blocked = False
        """Whether it waits because no node may take it at present."""
        self.has_news = asyncio.Event()
        """Set when it got a slot, and when it is over."""
        self.result: Answered | ErrorBody | None = None
        self._loop = asyncio.get_running_loop()
        self._accepted = accepted
        self._kind = accepted.kind
        self._headers = headers
        checking = accepted.checking
        self._escalation = Escalation(
            is_explicit=checking is not None and checking.is_explicit, avoided=accepted.avoid_models
        )
        deadline_s = accepted.job.deadline_s
        self._call = Call(
            calls,
            SUBJECT_OF[accepted.kind],
            accepted.body,
            headers=headers,
            deadline_s=UNLIMITED_S if deadline_s is None else max(0.0, deadline_s - age_s),
            waited_s=age_s,
            max_resends=_MAX_RESENDS,
            resume_bytes=resume_bytes if accepted.resumes else 0,
            is_joined=True,
            on_news=self._on_news,
        )
        self._chunks: list[bytes] = []
        self._bytes = self._resumed = 0
        self._decision: Decision | None = None
        """Of the attempt that spoke last."""
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._task = self._loop.create_task(self._run(), name="dispatcher.job.try")  # ended below, whatever happens
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_up(_GIVEN_UP)
        if not self._task.done():
            await asyncio.wait((self._task,))
        if not self._task.cancelled():
            self._task.result()  # raises what is a bug

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes; `result` tells how it ended."""
        return self.result is not None or self._task.done()

    @property
    def resumed(self) -> int:
        """How often its answer broke off and went on."""
        return self._call.resumed

    async def withdraw(self, within_s: float) -> bool:
        """Ends it unless it has a slot; somebody else will ask for its job, whose place in the queue is kept.

        Returns:
            Whether it has none, as far as was heard in time.
        """
        self._call.comes_again = True
        self._call.cancel()
        await happens(self.has_news, within_s)
        self._call.comes_again = False
        return self.node_id == ""

    def give_up(self, why: ErrorBody) -> None:
        """Ends it; whoever works on it is told so. Safe at any time, and twice."""
        if self.result is None:
            self.result = why
            self.has_news.set()
        self._task.cancel()

    async def _run(self) -> None:
        try:
            self.result = await self._answered()
        except SollolError as error:
            self.result = cause_of(error)
        finally:
            self._chunks.clear()
            self.has_news.set()

    async def _answered(self) -> Answered:
        """The answer of the first model that passes the job's check, or of the last.

        Raises:
            SollolError: What ended the request, when no model had answered before.
        """
        last: Answered | None = None
        while True:
            try:
                answer = await self._ask()
            except SollolError as error:
                if last is None or not _says_enough(error):
                    raise
                self._escalation.give_last(error.body.code.value)
                return self._marked(last)
            decision, checking, rules = answer.decision, self._accepted.checking, self._escalation
            if checking is None or decision is None or not rules.is_for(decision):
                return answer
            why = checking.failure_of(answer.body)
            caller = self._headers.get(h.CALLER)
            tell_verdict(self._call.bus, decision, why, {h.CALLER: caller} if caller else None)
            if not why or not rules.has_next(decision) or left_s(self._call) <= 0:
                rules.settle(why)
                return self._marked(answer)
            rules.note(decision, answer.figures, why)
            last = answer
            headers = self._headers | {_AVOID: ",".join(rules.avoid_models)}
            self._call = in_place_of(
                self._call,
                SUBJECT_OF[self._kind],
                self._accepted.body,
                headers,
                on_news=self._on_news,
                max_resends=_MAX_RESENDS,
            )

    async def _ask(self) -> Answered:
        self._chunks.clear()
        self._bytes = self._resumed = 0
        self._decision = None
        async with self._call as call:
            async for msg in call:
                self._collect(msg)
        body = joined(self._kind, self._chunks)
        return Answered(body, self._decision, figures_of(self._call.last))

    def _marked(self, answer: Answered) -> Answered:
        return answer._replace(tried=self._escalation.tried, check_failure=self._escalation.failure)

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
        if not self._chunks or self._call.resumed != self._resumed:
            self._resumed = self._call.resumed
            decision = self._decision = next(reversed(self._call.decisions), None)
            self._note_node(decision.node_id if decision is not None else "")
        self.tokens += chunks_in(msg.data)
        self._bytes += len(msg.data)
        if self._bytes > MAX_ANSWER_BYTES:
            raise too_large()
        self._chunks.append(msg.data)


def _says_enough(error: SollolError) -> bool:
    """Whether a later model's failure leaves the answer before it: the job was not cancelled, nor given back."""
    return error.body.code not in (ErrorCode.CANCELLED, ErrorCode.ACTOR_STOPPED)


def cause_of(error: SollolError) -> ErrorBody:
    """What ended a try, as the life of its job judges it: trouble on the way here is nobody's fault."""
    match error:
        case NotConnected():
            return ErrorBody(code=ErrorCode.ACTOR_STOPPED, message=error.message)
        case RequestTimedOut():
            return ErrorBody(code=ErrorCode.CONNECTION_LOST, message=error.message)
    return error.body
