"""One try of a job: its request goes the ordinary way through scorer and node, and its answer is collected here."""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeVar

import msgspec

from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.requests.active import ActiveRequest, Stage
from sollol_agents.dispatcher.requests.intake import Request
from sollol_agents.dispatcher.requests.table import RequestTable
from sollol_agents.requests.answers import joined
from sollol_bus.errors import BackendBrokeProtocol, DecodeFailed
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, error_of, is_no_responders
from sollol_schemas import headers as h
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import Figures, RequestGranted, RequestNews, RequestWaiting

T = TypeVar("T", bound=msgspec.Struct)
MAX_ANSWER_BYTES = 256 << 20
_SILENCE_S = 5.0
"""A node that has said nothing for so long is asked whether it still works on the attempt."""
_LAST_WORDS_S = 1.0
"""The node reports its end on another subject than its words: these may be read a moment later."""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer of a try."""

    body: bytes
    decision: Decision | None
    figures: Figures | None


class Dispatching(Protocol):
    """The dispatcher, as far as the jobs need it."""

    config: DispatcherConfig
    instance: str

    @property
    def bus(self) -> Bus:
        """The dispatcher's connection."""

    def drain_progress(self) -> None:
        """Says that something in flight has ended."""


class Execution:
    """Collects one try's answer.

    Args:
        requests: Holds its request.
        request: What to run; its `reply_to` must lead to `on_message`.
    """

    def __init__(self, requests: RequestTable, request: Request) -> None:
        self.tokens = 0
        """Chunks of output so far."""
        self.node_id = ""
        """Where it runs, or ran last."""
        self.has_news = asyncio.Event()
        """Set when it got a slot, and when it is over."""
        self.result: Answered | ErrorBody | None = None
        self._requests = requests
        self._is_blocked = False
        self._kind = request.kind
        self._chunks: list[bytes] = []
        self._parts: list[bytes] = []
        self._bytes = 0
        self._messages = 0
        self._decision: Decision | None = None
        self._error: ErrorBody | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._heard_tokens = -1
        self._heard_mono_s = 0.0
        self.active = ActiveRequest(requests.tools, request, self._on_over, self)

    def start(self) -> None:
        """Asks for a slot; a request under the same id that is not a job's goes first."""
        if not self._requests.hold(self.active):
            self._end(ErrorBody(code=ErrorCode.BUSY, message="a request with the job's id is in flight"))

    def stop(self) -> None:
        """Gives the try up without a word: the slot is released, the node is told to stop."""
        self.active.drop()
        self._end(ErrorBody(code=ErrorCode.ACTOR_STOPPED, message="given up"))

    def check_on_node(self, now: float) -> None:
        """Asks the node what became of the attempt after a silence: its last words may have fallen into an outage.

        A request of a caller has a deadline that ends such a wait; a job may have none.
        """
        if self.tokens != self._heard_tokens:
            self._heard_tokens, self._heard_mono_s = self.tokens, now
        elif now - self._heard_mono_s > _SILENCE_S:
            self._heard_mono_s = now
            self.active.on_reconnect()

    @property
    def is_blocked(self) -> bool:
        """Whether the scorer holds it because no node may take it at present."""
        return self._is_blocked and self.active.stage is Stage.WAITING

    # -- the answer ---------------------------------------------------------------------------------------

    def on_message(self, msg: Msg) -> None:
        """Takes one message of the answer."""
        if self.result is not None or is_no_responders(msg):
            return
        if not msg.data:
            self._finish(msg.headers or {})
            return
        self._messages += 1
        error = error_of(msg)
        if error is not None:
            self._error = error
            return
        self._collect(msg.data, msg.headers or {})

    def _collect(self, data: bytes, headers: dict[str, str]) -> None:
        if self._messages == 1 and h.DECISION in headers:
            self._decision = _decoded(headers[h.DECISION], Decision)
        self._bytes += len(data)
        if self._bytes > MAX_ANSWER_BYTES:
            self._error = ErrorBody(
                code=ErrorCode.REPLY_TOO_LARGE, message=f"the answer exceeds {MAX_ANSWER_BYTES} bytes"
            )
            self.active.cancel(ErrorCode.REPLY_TOO_LARGE, self._error.message)
            self._end(self._error)
            return
        number, _, total = headers.get(h.PART, "1/1").partition("/")
        self._parts.append(data)
        if number == total:
            self._chunks.append(b"".join(self._parts))
            self._parts.clear()
            self.tokens += 1

    def _finish(self, headers: dict[str, str]) -> None:
        """The empty message: the answer is whole, or an error went before."""
        if self._error is not None:
            self._end(self._error)
            return
        promised = headers.get(h.CHUNKS, "")
        if promised.isdigit() and int(promised) != self._messages:
            text = f"{self._messages} of {promised} messages arrived"
            self._end(ErrorBody(code=ErrorCode.CONNECTION_LOST, message=text))
            return
        try:
            body = joined(self._kind, self._chunks)
        except BackendBrokeProtocol as error:
            self._end(error.body)
            return
        figures = _decoded(headers[h.FIGURES], Figures) if h.FIGURES in headers else None
        self._end(Answered(body=body, decision=self._decision, figures=figures))

    def _end(self, result: Answered | ErrorBody) -> None:
        if self.result is None:
            self.result = result
            self._chunks.clear()
            self._parts.clear()
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        self.has_news.set()

    # -- what its request tells ---------------------------------------------------------------------------

    def tell(self, news: RequestNews) -> None:
        """Takes note of where it stands; what an earlier attempt might have said does not count."""
        match news:
            case RequestWaiting():
                self._is_blocked = news.is_blocked
            case RequestGranted():
                self.node_id = news.node_id
                self.has_news.set()

    def refuse(self, error: ErrorBody) -> None:
        """It ended without an answer."""
        self._end(error)

    def close(self) -> None:
        """Nothing to close."""

    def _on_over(self, request: ActiveRequest) -> None:
        """The request is over; what the node said last may still be on its way here."""
        self._requests.forget(request)
        if self.result is None:
            lost = ErrorBody(code=ErrorCode.CONNECTION_LOST, message="the end of the answer was lost on the way")
            self._grace = asyncio.get_running_loop().call_later(_LAST_WORDS_S, self._end, lost)


def _decoded(text: str, kind: type[T]) -> T | None:
    try:
        return decode(text.encode(), kind)
    except DecodeFailed:
        return None
