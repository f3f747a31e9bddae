"""One inference request over HTTP: the messages of its call become the answer.

The first message decides the status, so nothing is sent before it; an event stream that waits long begins with
comments instead, and tells what goes wrong inside the stream. Chunks are not decoded: lines and events go on as they
are, several in one write when several have come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterable
from typing import Final

import msgspec

from sollol_agents.gateway.http import routing_headers
from sollol_agents.gateway.http.errors import (
    EVENT_HEADERS,
    EVENTS,
    JSON,
    NDJSON,
    PLAIN_JSON,
    Header,
    error_in_stream,
    refusal,
)
from sollol_agents.gateway.http.metrics import Metrics
from sollol_agents.gateway.http.reply import Reply
from sollol_agents.gateway.inference import native, tracing
from sollol_agents.gateway.inference.checked import CheckedAnswers
from sollol_agents.gateway.inference.comments import Comments
from sollol_agents.gateway.inference.event_relay import EventRelay
from sollol_agents.gateway.inference.native import LineRelay
from sollol_agents.gateway.inference.order import first_fault
from sollol_agents.gateway.inference.passing import Passing, Relay
from sollol_agents.gateway.inference.request import HttpRequest
from sollol_agents.requests.dialects import Dialect
from sollol_bus.errors import SollolError
from sollol_bus.observe.tracing import Span
from sollol_bus.parts import Spawn
from sollol_bus.sdk.answers import joined
from sollol_bus.sdk.call import Call
from sollol_bus.sdk.escalation import Escalation
from sollol_bus.sdk.results import decision_of, figures_of
from sollol_bus.transport.messages import Msg
from sollol_bus.transport.streaming import MAX_ANSWER_BYTES, too_large
from sollol_schemas import headers as h
from sollol_schemas.context import RequestKind
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode, Owner
from sollol_schemas.execution import Figures

log = logging.getLogger(__name__)

NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")
"""Beside a type that an engine chose."""
_BROKEN_OFF: Final = frozenset(
    {
        ErrorCode.NODE_LOST,
        ErrorCode.CONNECTION_LOST,
        ErrorCode.ENGINE_UNAVAILABLE,
        ErrorCode.ENGINE_FAILED,
        ErrorCode.ENGINE_PROTOCOL,
        ErrorCode.STALLED,
        ErrorCode.MOVED,
    }
)
"""What ends an answer in its middle through no fault of the request."""


class Exchange:
    """One request and its answer.

    Args:
        request: The request.
        reply: Where its answer goes.
        metrics: Counters.
        keep_alive_s: Seconds of waiting after which an event stream begins with comments.
        spawn: Runs a coroutine as a task of the gateway.
    """

    def __init__(
        self, request: HttpRequest, reply: Reply, metrics: Metrics, *, keep_alive_s: float, spawn: Spawn
    ) -> None:
        self._request = request
        self._reply = reply
        self._metrics = metrics
        self._keep_alive_s = keep_alive_s
        self._spawn = spawn
        self._comments: Comments | None = None
        self._first_at: float | None = None
        self._began = time.perf_counter()
        self._rest = b""
        self._error: SollolError | None = None
        self._events: EventRelay | None = None
        self._lines = LineRelay()
        self._kept = 0
        self._resumed = 0
        self._coming: AsyncIterable[Msg]
        self._told_last: Msg | None = None
        self._told_figures: Figures | None = None
        checking = request.checking
        self.checked = CheckedAnswers(request, checking) if checking is not None else None
        self.call: Call | None = None
        self.decision: Decision | None = None
        self.span: Span | None = None

    def may_try_again(self, error: SollolError) -> bool:
        """Whether a request that broke off may begin anew: an engine or a node failed, and the client saw nothing."""
        body = error.body
        is_broken = body.code in _BROKEN_OFF and body.owner not in (Owner.REQUEST, Owner.OUTPUT)
        if not is_broken or body.engine_status:  # an engine that refuses has not begun
            return False
        return not self._reply.status and self._require_call().first is not None

    async def run(self, call: Call) -> None:
        """Relays the answer of a call; of a second one when the first may be tried again.

        Raises:
            Escalated: The answer failed its check, and another model is to be asked.
            SollolError: What ended the request.
        """
        await self._run(call, call if self.checked is None else self.checked.messages(call))

    async def run_kept(self, error: SollolError) -> bool:
        """Gives the answer that failed its check, since the next model brought none; False: there is no such."""
        kept = None if self.checked is None or self._reply.status else self.checked.last_kept(error.body.code)
        if kept is None or self.checked is None:
            return False
        await self._run(kept, self.checked.kept())
        return True

    async def _run(self, call: Call, coming: AsyncIterable[Msg]) -> None:
        request, self.call, self._first_at, self.decision = self._request, call, None, None
        self._coming = coming
        self._lines, self._rest = LineRelay(), b""
        self._kept = self._resumed = 0
        if not request.is_native:
            told = routing_headers.told(None, call.request_id)
            after_s = self._keep_alive_s
            self._comments = Comments(request, self._reply, told, after_s=after_s, spawn=self._spawn)
            try:
                await self._passthrough()
            finally:
                await self._comments.end()
        elif request.kind is not RequestKind.EMBED and request.wants_stream:
            await self._native()
        else:
            await self._object()

    # -- Ollama's own ---------------------------------------------------------------------------------------

    async def _native(self) -> None:
        call, reply, lines = self._require_call(), self._reply, self._lines
        async for msg in self._coming:
            if call.resumed != self._resumed:
                self._note_resumed()
            data = lines.feed(msg.data, *[one.data for one in call.take_ready()])
            if not reply.status and (data or not native.is_alone(lines.held)):
                reply.start(200, [(b"content-type", NDJSON), *self._told()])
                self._pass_on(lines)
            if data:
                await reply.write(data)
        last = lines.rest()
        if not reply.status:
            body = native.with_routing(last, self._routing())
            await reply.whole(200, [(b"content-type", JSON), *self._told(is_over=True)], body, as_go=True)
            return
        await reply.end(native.with_routing(last, self._routing()) + b"\n" if last else b"")

    def _pass_on(self, relay: Relay) -> None:
        """Lets chunks go on the moment they come, unless they are to be looked at first."""
        if self.checked is None:
            self._require_call().pass_to(Passing(self._reply, relay))

    async def _object(self) -> None:
        body = native.with_routing(joined(self._request.kind, await self._collected()), self._routing())
        await self._reply.whole(200, [(b"content-type", JSON), *self._told(is_over=True)], body, as_go=True)

    async def _collected(self) -> list[bytes]:
        call = self._require_call()
        pieces: list[bytes] = []
        async for msg in self._coming:
            if self._first_at is None:
                self._note_first()
            if call.resumed != self._resumed:
                self._note_resumed()
            for one in (msg, *call.take_ready()):
                self._keep(pieces, one.data)
        return pieces

    def _keep(self, pieces: list[bytes], data: bytes) -> None:
        """Collects a piece of an answer that leaves as one.

        Raises:
            SollolError: It grew too large.
        """
        pieces.append(data)
        self._kept += len(data)
        if self._kept > MAX_ANSWER_BYTES:
            raise too_large()

    # -- any other path -------------------------------------------------------------------------------------

    async def _passthrough(self) -> None:
        call, reply = self._require_call(), self._reply
        pieces: list[bytes] = []
        content_type = b""
        events: EventRelay | None = None
        async for msg in self._coming:
            data = b"".join([msg.data, *[one.data for one in call.take_ready()]])
            if self._first_at is None:
                if self._comments is not None:
                    await self._comments.end()
                self._note_first()
                content_type = _content_type(call)
                if EVENTS in content_type or reply.status:
                    events = self._events = EventRelay(self._request.label, call.request_id)
                    self._begin_events()
                    self._pass_on(events)
                elif NDJSON in content_type:
                    reply.start(200, [(b"content-type", content_type), NO_SNIFFING, *self._told()])
            if call.resumed != self._resumed:
                seam = self._note_resumed()
                data = seam + data if events is not None else data
            if events is not None:
                data = events.feed(data)
            if not reply.status:
                self._keep(pieces, data)
            elif call.is_complete:
                self._rest = data  # leaves together with the end
            elif data:
                await reply.write(data)
        if not reply.status:
            body = self._unique(b"".join(pieces))
            headers = [(b"content-type", content_type or JSON), NO_SNIFFING, *self._told(is_over=True)]
            await reply.whole(200, headers, body, as_go=_is_ollamas(self._request.path, content_type))
        else:
            rest, self._rest = self._rest, b""
            await reply.end(rest + events.rest() if events is not None else rest)

    def _unique(self, body: bytes) -> bytes:
        """A whole body with an id of ours where the engine's own is not unique."""
        relay = EventRelay(self._request.label, self._require_call().request_id)
        return relay.feed(body) + relay.rest()

    def _begin_events(self) -> None:
        if not self._reply.status:
            self._reply.start(200, [*EVENT_HEADERS, *self._told()])

    # -- the end --------------------------------------------------------------------------------------------

    async def fail(self, error: SollolError) -> None:
        """Tells the client what went wrong, before the answer or in it."""
        reply, request = self._reply, self._request
        self._error = error = first_fault(request.label, request.body, error)
        try:
            if not reply.status:
                refused = refusal(request.dialect, _as_asked(request, error.body), request.path)
                request_id = self.call.request_id if self.call is not None else request.request_id or "-"
                headers = [*refused.headers, *routing_headers.told(None, request_id)]
                await reply.whole(refused.status, headers, refused.body)
                return
            dialect = request.dialect if request.is_native or self._events is not None else Dialect.OLLAMA
            said = error_in_stream(dialect, error.body, request.path)
            if held := self._lines.rest():
                said = held + b"\n" + said
            gap = self._events.gap if self._events is not None else b""
            await reply.end(self._rest + gap + said)
        except SollolError as cut:
            log.info("the client was cut: %s", cut, extra={"action": "reader_cut"})

    def observe(self, seconds: float) -> None:
        """Counts how it went."""
        call = self._require_call()
        code = self._error.body.code if self._error is not None else None
        status = 499 if code is ErrorCode.CANCELLED else self._reply.status
        first_s = self._first_at - self._began if self._first_at is not None else None
        self._metrics.ended(
            self._request.label,
            status,
            seconds,
            first_s=first_s,
            decision=self.decision,
            figures=self._figures,
            code=code,
        )
        tracing.finish(
            self.span,
            status,
            request_id=call.request_id,
            decision=self.decision,
            figures=self._figures,
            error=code or "",
        )

    def _note_first(self) -> None:
        self._first_at = time.perf_counter()
        decision = decision_of(self._require_call().first)
        self.decision = self._shown(decision) if decision is not None else None

    def _note_resumed(self) -> bytes:
        """The answer broke off and goes on; returns what tells it inside an event stream."""
        call = self._require_call()
        for reason in call.mended[self._resumed :]:
            self._metrics.resumed(reason)
        self._resumed = call.resumed
        self.decision = self._shown(call.decisions[-1])
        return b": resumed on %b\n\n" % self.decision.node_id.encode()

    def _shown(self, decision: Decision) -> Decision:
        return decision if self._request.sees_addresses else decision.without_address()

    def _told(self, *, is_over: bool = False) -> list[Header]:
        call = self._require_call()
        if self._first_at is None:
            self._note_first()
        figures = self._figures if is_over else None
        return routing_headers.told(self.decision, call.request_id, figures, self._escalation, resumed=self._resumed)

    def _routing(self) -> bytes:
        call = self._require_call()
        decisions = call.decisions if self._resumed else ()
        return native.routing_of(self.decision, self._figures, call.request_id, self._escalation, decisions)

    @property
    def _figures(self) -> Figures | None:
        """What the last message tells; it is read once."""
        last = self._require_call().last
        if last is not self._told_last:
            self._told_last, self._told_figures = last, figures_of(last)
        return self._told_figures

    @property
    def _escalation(self) -> Escalation | None:
        return self.checked.escalation if self.checked is not None else None

    def _require_call(self) -> Call:
        assert self.call is not None
        return self.call


def _as_asked(request: HttpRequest, error: ErrorBody) -> ErrorBody:
    """An engine's refusal as a client gets it who does not stream: the engine was asked to, and chose its head so."""
    if not request.is_native or request.wants_stream or "engine_type" not in error.details:
        return error
    details = {name: value for name, value in error.details.items() if name != "engine_type"}
    return msgspec.structs.replace(error, details=details)


def _is_ollamas(path: str, content_type: bytes) -> bool:
    """Whether an answer looks like Ollama's: llama.cpp names the character set everywhere, Ollama not below `/v1`."""
    return path.startswith("/api/") or content_type == PLAIN_JSON


def _content_type(call: Call) -> bytes:
    first = call.first
    text = (first.headers or {}).get(h.CONTENT_TYPE, "") if first is not None else ""
    return text.encode("latin-1", "replace")
