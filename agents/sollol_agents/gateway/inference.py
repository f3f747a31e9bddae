"""Inference over HTTP: one request becomes one call on the bus, and its messages become the answer.

The first message decides the status, so nothing is sent before it; an event stream that waits long begins with
comments instead, and tells what goes wrong inside the stream. Chunks are not decoded: lines and events go on as they
are, several in one write when several have come.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import msgspec

from sollol_agents.gateway import native, telling, tracing
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.dialects import (
    EVENTS,
    JSON,
    NDJSON,
    Dialect,
    Header,
    error_in_stream,
    refusal,
    waiting_event,
)
from sollol_agents.gateway.events import EventRelay
from sollol_agents.gateway.metrics import Metrics
from sollol_agents.gateway.reply import Reply
from sollol_agents.gateway.server import Connection
from sollol_bus.call import Call
from sollol_bus.connection import Bus
from sollol_bus.errors import (
    ActorStopped,
    BackendBrokeProtocol,
    Cancelled,
    Conflict,
    QueueFull,
    SollolError,
    error_from,
)
from sollol_bus.results import decision_of, figures_of
from sollol_bus.tracing import Span
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.decision import DecisionSummary
from sollol_schemas.errors import ErrorBody, ErrorCode

log = logging.getLogger(__name__)

_SUBJECTS: Final = {
    RequestKind.GENERATE: subjects.GENERATE,
    RequestKind.CHAT: subjects.CHAT,
    RequestKind.EMBED: subjects.EMBED,
    RequestKind.PASSTHROUGH: subjects.PASSTHROUGH,
}
_STREAM: Final = re.compile(rb'"stream"\s*:\s*(true|false)')
_DEADLINE: Final = re.compile(rb'"deadline_s"\s*:\s*([0-9.]+)')
_DEADLINE_HEADER: Final = "x-sollol-deadline-s"

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class Asked(msgspec.Struct):
    """One inference request as it came."""

    kind: RequestKind
    dialect: Dialect
    path: str
    """The path in origin form, with its query."""
    label: str
    """What metrics call the path."""
    body: bytes
    wishes: telling.Wishes

    @property
    def is_native(self) -> bool:
        """Whether the answer is made of Ollama's objects."""
        return self.kind is not RequestKind.PASSTHROUGH


class _StreamField(msgspec.Struct):
    stream: bool | None = None


def wants_stream(body: bytes, *, default: bool) -> bool:
    """What the top-level field `stream` says; looked at closely only when the word stands somewhere."""
    found = _STREAM.search(body)
    if found is None or found.group(1) == (b"true" if default else b"false"):
        return default
    try:
        stated = msgspec.json.decode(body, type=_StreamField).stream
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return default
    return default if stated is None else stated


class Inference:
    """Serves inference requests.

    Args:
        bus: The gateway's connection.
        config: Settings.
        metrics: Counters.
        spawn: Runs a coroutine as a task of the gateway.
        on_end: Called when a request has ended.
    """

    def __init__(
        self, bus: Bus, config: GatewayConfig, metrics: Metrics, *, spawn: Spawn, on_end: Callable[[], None]
    ) -> None:
        self._bus = bus
        self._config = config
        self._metrics = metrics
        self._spawn = spawn
        self._on_end = on_end
        self.active: dict[str, Call] = {}
        """Calls that are not answered yet, by request id."""

    def hand_back(self, reason: str) -> None:
        """Ends what is still running."""
        for call in list(self.active.values()):
            call.leave(ActorStopped(reason))

    async def serve(self, asked: Asked, reply: Reply, connection: Connection) -> None:
        """Answers one request, whatever becomes of it."""
        began = time.perf_counter()
        exchange = _Exchange(self, asked, reply)
        exchange.span = tracing.begin(
            self._bus.tracer,
            kind=asked.kind,
            path=asked.path,
            label=asked.label,
            body=asked.body,
            headers=asked.wishes.headers,
        )
        try:
            call = self._call(asked)
        except SollolError as error:
            await exchange.fail(error)
            self._metrics.refused(asked.label, reply.status)
            tracing.finish(exchange.span, reply.status, error=error.body.code)
            return
        exchange.call = call
        self.active[call.request_id] = call
        connection.on_gone = partial(call.leave, Cancelled("the client left"))
        self._metrics.began()
        try:
            async with call:
                await exchange.run()
        except SollolError as error:
            await exchange.fail(error)
        finally:
            connection.on_gone = None
            del self.active[call.request_id]
            exchange.observe(time.perf_counter() - began)
            self._on_end()

    def _call(self, asked: Asked) -> Call:
        """The call for a request.

        Raises:
            SollolError: Too many are open already, or the client chose an id that is in use.
        """
        if len(self.active) >= self._config.max_active:
            raise QueueFull(f"this gateway serves {len(self.active)} requests already; try again later")
        wishes = asked.wishes
        if wishes.request_id is not None and wishes.request_id in self.active:
            raise Conflict(f"request id {wishes.request_id} is in use")
        headers = wishes.headers
        if asked.kind is RequestKind.PASSTHROUGH:
            headers = {**headers, h.PATH: asked.path}
        return Call(
            self._bus,
            _SUBJECTS[asked.kind],
            asked.body,
            headers=headers,
            deadline_s=self._deadline_s(asked),
            request_id=wishes.request_id,
            max_unread_bytes=self._config.max_unread_bytes,
        )

    def _deadline_s(self, asked: Asked) -> float:
        """How long the call waits by itself; the dispatcher checks and keeps the deadline."""
        stated = asked.wishes.headers.get(_DEADLINE_HEADER)
        if stated is None and asked.is_native and (found := _DEADLINE.search(asked.body)):
            stated = found.group(1).decode()
        try:
            return max(0.0, float(stated)) if stated is not None else self._config.deadline_s
        except ValueError:
            return self._config.deadline_s

    # -- what an exchange needs -----------------------------------------------------------------------------

    @property
    def config(self) -> GatewayConfig:
        """The gateway's settings."""
        return self._config

    @property
    def metrics(self) -> Metrics:
        """The gateway's counters."""
        return self._metrics

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs the comments of a waiting stream."""
        return self._spawn(coroutine, "waiting")


class _Exchange:
    """One call and its answer."""

    def __init__(self, owner: Inference, asked: Asked, reply: Reply) -> None:
        self._owner = owner
        self._asked = asked
        self._reply = reply
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._first_at: float | None = None
        self._began = time.perf_counter()
        self._error: SollolError | None = None
        self._events: EventRelay | None = None
        self._held = b""
        self.call: Call | None = None
        self.decision: DecisionSummary | None = None
        self.span: Span | None = None

    async def run(self) -> None:
        """Relays the answer.

        Raises:
            SollolError: What ended the request.
        """
        asked = self._asked
        if not asked.is_native:
            try:
                await self._passthrough()
            finally:
                await self._end_waiting()
        elif asked.kind is not RequestKind.EMBED and wants_stream(asked.body, default=True):
            await self._lines()
        else:
            await self._object()

    # -- Ollama's own ---------------------------------------------------------------------------------------

    async def _lines(self) -> None:
        call, reply = self._require_call(), self._reply
        async for msg in call:
            lines = [msg.data, *(one.data for one in call.take_ready())]
            if self._held:
                lines.insert(0, self._held)
            self._held = lines.pop() if native.may_be_last(lines[-1]) else b""
            if not reply.status and not (self._held and not lines and native.is_only_loaded(self._held)):
                await reply.start(200, [(b"content-type", NDJSON), *self._told()])
            if lines:
                lines.append(b"")
                await reply.write(b"\n".join(lines))
        last, self._held = self._held, b""
        if not reply.status:
            body = native.with_routing(last, self._routing())
            await reply.whole(200, [(b"content-type", JSON), *self._told(is_over=True)], body)
            return
        await reply.end(native.with_routing(last, self._routing()) + b"\n" if last else b"")

    async def _object(self) -> None:
        lines = await self._collected()
        try:
            body = native.joined(self._asked.kind, lines)
        except native.NotNative as error:
            raise BackendBrokeProtocol(f"not an engine's answer: {error}") from error
        body = native.with_routing(body, self._routing())
        await self._reply.whole(200, [(b"content-type", JSON), *self._told(is_over=True)], body)

    async def _collected(self) -> list[bytes]:
        call = self._require_call()
        pieces = []
        async for msg in call:
            if self._first_at is None:
                self._note_first()
            pieces.append(msg.data)  # the call must be iterated in its context
            pieces += [one.data for one in call.take_ready()]
        return pieces

    # -- any other path -------------------------------------------------------------------------------------

    async def _passthrough(self) -> None:
        call, reply = self._require_call(), self._reply
        self._wait_with_comments()
        pieces: list[bytes] = []
        content_type = b""
        events: EventRelay | None = None
        async for msg in call:
            data = b"".join([msg.data, *(one.data for one in call.take_ready())])
            if self._first_at is None:
                await self._end_waiting()
                self._note_first()
                content_type = _content_type(call)
                if EVENTS in content_type or reply.status:
                    events = self._events = EventRelay(self._asked.label, call.request_id)
                    await self._begin_events()
                elif NDJSON in content_type:
                    await reply.start(200, [(b"content-type", content_type), *self._told()])
            if events is not None:
                data = events.feed(data)
            if not reply.status:
                pieces.append(data)
            elif data:
                await reply.write(data)
        if not reply.status:
            body = self._unique(b"".join(pieces))
            await reply.whole(200, [(b"content-type", content_type or JSON), *self._told(is_over=True)], body)
        else:
            await reply.end(events.rest() if events is not None else b"")

    def _unique(self, body: bytes) -> bytes:
        """A whole body with an id of ours where the engine's own is not unique."""
        relay = EventRelay(self._asked.label, self._require_call().request_id)
        return relay.feed(body) + relay.rest()

    async def _begin_events(self) -> None:
        if not self._reply.status:
            await self._reply.start(200, [*_EVENT_HEADERS, *self._told()])

    def _wait_with_comments(self) -> None:
        """Begins an event stream with comments when the first message takes long."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._owner.config.keep_alive_s, self._begin_waiting)

    def _begin_waiting(self) -> None:
        if wants_stream(self._asked.body, default=False):
            self._waiting = self._owner.spawn(self._comment())

    async def _comment(self) -> None:
        try:
            # nothing is decided yet, so the head tells no more than the request's id
            head = [*_EVENT_HEADERS, *telling.told(None, self._require_call().request_id)]
            await self._reply.start(200, head)
            while True:
                await self._reply.write(waiting_event(self._asked.dialect))
                await asyncio.sleep(self._owner.config.keep_alive_s)
        except SollolError as error:
            log.info("a client that waits does not read: %s", error, extra={"action": "reader_cut"})

    async def _end_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)
            self._waiting = None

    # -- the end --------------------------------------------------------------------------------------------

    async def fail(self, error: SollolError) -> None:
        """Tells the client what went wrong, before the answer or in it."""
        self._error = error
        await self._end_waiting()
        reply, asked = self._reply, self._asked
        try:
            if not reply.status:
                refused = refusal(asked.dialect, error.body, asked.path)
                request_id = self.call.request_id if self.call is not None else asked.wishes.request_id or "-"
                headers = [*refused.headers, *telling.told(None, request_id)]
                await reply.whole(refused.status, headers, refused.body)
                return
            dialect = asked.dialect if asked.is_native or self._events is not None else Dialect.OLLAMA
            said = error_in_stream(dialect, error.body, asked.path)
            if self._held:
                said = self._held + b"\n" + said
            await reply.end((b"\n" if self._events is not None and self._events.is_inside_event else b"") + said)
        except SollolError as cut:
            log.info("the client was cut: %s", cut, extra={"action": "reader_cut"})

    def observe(self, seconds: float) -> None:
        """Counts how it went."""
        call = self._require_call()
        code = self._error.body.code if self._error is not None else None
        status = 499 if code is ErrorCode.CANCELLED else self._reply.status
        first_s = self._first_at - self._began if self._first_at is not None else None
        self._owner.metrics.ended(
            self._asked.label,
            status,
            seconds,
            first_s=first_s,
            decision=self.decision,
            figures=figures_of(call.last),
            code=code,
        )
        tracing.finish(
            self.span,
            status,
            request_id=call.request_id,
            decision=self.decision,
            figures=figures_of(call.last) if self.span is not None else None,
            error=code or "",
        )

    def _note_first(self) -> None:
        self._first_at = time.perf_counter()
        self.decision = decision_of(self._require_call().first)

    def _told(self, *, is_over: bool = False) -> list[Header]:
        call = self._require_call()
        if self._first_at is None:
            self._note_first()
        return telling.told(self.decision, call.request_id, figures_of(call.last) if is_over else None)

    def _routing(self) -> bytes:
        call = self._require_call()
        return native.routing_of(self.decision, figures_of(call.last), call.request_id)

    def _require_call(self) -> Call:
        assert self.call is not None
        return self.call


_EVENT_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-type", EVENTS),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


def _content_type(call: Call) -> bytes:
    first = call.first
    text = (first.headers or {}).get(h.CONTENT_TYPE, "") if first is not None else ""
    return text.encode("latin-1", "replace")


def bad_request(message: str) -> SollolError:
    """The refusal of a request that cannot be used."""
    return error_from(ErrorBody(code=ErrorCode.BAD_REQUEST, message=message))
