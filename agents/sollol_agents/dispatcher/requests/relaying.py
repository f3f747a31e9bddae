"""Answers for callers that only listen: a dispatcher receives them, says them again, and goes on with what breaks off.

For such a caller the dispatcher is what a client library is for others: it makes the request itself, under the same id,
as a `Call` over a connection of its own, and says each chunk again into the caller's inbox. What it says carries an
interest probe, so that a caller that left is noticed. The request itself is queued, counted and recorded as any other;
this one is none but a listener. When the dispatcher leaves, an answer of which nothing was said goes to another
dispatcher; one that has begun has the time of the drain to end. One that loses the dispatcher's connection in its
middle ends with an error: nobody knows what of it arrived.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from sollol_agents.dispatcher.requests.caller import Caller
from sollol_agents.dispatcher.requests.handing_on import hand_on, nobody_left
from sollol_agents.dispatcher.requests.intake import SUBJECT_OF, Rejected, Request, in_use
from sollol_bus.errors import ActorStopped, BusError, ConnectionLost, NotConnected, SollolError, error_from
from sollol_bus.parts import Spawn
from sollol_bus.sdk.call import Call
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode, error_headers, is_no_responders
from sollol_bus.transport.pieces import pieces
from sollol_bus.waiting import happens
from sollol_schemas import headers as h
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import CancelRequest, RequestNews, Taken

log = logging.getLogger(__name__)

_HELD_BYTES_MAX: Final = 512 << 20
"""Text of answers that one dispatcher holds for others."""
_LEAST_DEADLINE_S: Final = 0.01
_BACK_WITHIN_S: Final = 30.0
"""So long an end waits for a connection over which it can be told."""
_LEFT: Final = "its dispatcher is shutting down in the middle of the answer"
_LOST: Final = "its dispatcher lost the bus in the middle of the answer"
_ENDS_WITHIN_S: Final = 2.0
_MADE_HERE: Final = ".here"
"""Behind a caller's secret: that of what is asked for it, which is given up without ending what the caller asked."""
_ITS_OWN: Final = frozenset(
    {h.REQUEST_ID, h.CANCEL_SECRET, h.CONTROL_INBOX, h.RESEND, h.WAITED, h.NUMBER, h.STREAM, h.RESUME, h.CONTINUE}
)
"""Headers that a call sets itself."""


class _Listening(Call):
    """A call whose place another one may take under the same id, in this process or in another."""

    is_handed_on = False

    def cancel(self) -> None:
        """Tells the dispatchers that nobody wants the answer, or nobody what was sent here, where another call does."""
        if self.is_handed_on:
            up_to = CancelRequest(request_id=self.request_id, secret=self.secret, resend=self.resends)
            self._publish_cancel(up_to)
        else:
            super().cancel()


class Relay:
    """One answer for a caller that only listens.

    Args:
        bus: The dispatcher's connection, over which the caller is told.
        calls: The connection over which the request is made.
        request: As its caller sent it.
        instance: Who has it.
        limit_bytes: So much text of the answer is held.
    """

    def __init__(self, bus: Bus, calls: Bus, request: Request, instance: str, *, limit_bytes: int) -> None:
        self.request = request
        self.messages = 0
        """Messages of the answer that were said."""
        self._bus = bus
        self._caller = Caller(bus, request, instance, self._on_gone)
        self._is_gone = False
        self._is_back = asyncio.Event()
        self._resumed = 0
        self._probe = bus.new_inbox()
        self._secret = request.secret or bus.new_token()
        self._call = _Listening(
            calls,
            SUBJECT_OF[request.kind],
            request.relayed,
            headers={name: text for name, text in request.headers.items() if name not in _ITS_OWN},
            deadline_s=max(_LEAST_DEADLINE_S, request.deadline_s - request.waited_s),
            request_id=request.request_id,
            resends=request.resend,
            waited_s=request.waited_s,
            secret=self._secret + _MADE_HERE,
            resume_bytes=limit_bytes,
            is_joined=request.is_joined,
            on_news=self._on_news,
        )

    @property
    def is_waiting(self) -> bool:
        """Whether nothing of it was said."""
        return not self.messages

    async def run(self) -> None:
        """Says the whole answer, or what ended it."""
        probes = self._bus.subscribe(f"{self._probe}.*", self._on_probe)
        self._bus.on_disconnect(self._on_disconnect)
        self._bus.on_reconnect(self._is_back.set)
        try:
            error = await self._relayed()
            if not self._is_gone and await self._is_heard():
                self._end(error)
        except NotConnected as error:
            request_id = self.request.request_id
            extra = {"action": "caller_untold", "request_id": request_id}
            log.info("request %s: its caller could not be told: %s", request_id, error, extra=extra)
        finally:
            probes.unsubscribe_soon()
            self._caller.close()
            self._bus.forget_callbacks(self._on_disconnect, self._is_back.set)

    def leave(self, error: SollolError) -> None:
        """Ends the request, and tells its caller the error; safe twice."""
        self._call.leave(error)

    def refuse(self, error: ErrorBody) -> None:
        """Tells the caller of an answer of which nothing was said what went wrong."""
        self._caller.refuse(error)

    def drop(self) -> None:
        """Ends the request without a word: its caller has sent it again, or another dispatcher has it."""
        self._call.is_handed_on = True
        self._forget()

    def hand_on(self) -> None:
        """Lets another dispatcher make the request; its attempts are numbered behind those that were made here.

        Raises:
            NotConnected: The connection is down; nothing was sent.
        """
        call, resend = self._call, self._call.resends + 1
        headers = {**self.request.headers, h.RESEND: str(resend), h.CANCEL_SECRET: self._secret}
        moved = msgspec.structs.replace(self.request, headers=headers, resend=resend)
        hand_on(self._bus, moved, number=moved.first_attempt, waited_s=call.age_s)
        self.drop()

    def _forget(self) -> None:
        self._is_gone = True
        self._call.leave(cancelled("nobody listens to the answer"))

    async def _relayed(self) -> SollolError | None:
        """Says the chunks as they come; returns what ended the answer before its end."""
        try:
            async with self._call as call:
                async for msg in call:
                    self._say(msg)
                    for more in call.take_ready():
                        self._say(more)
                    await self._bus.make_room()
        except NotConnected:
            return _in_middle(ConnectionLost(_LOST))
        except SollolError as error:
            return error
        return None

    async def _is_heard(self) -> bool:
        """Whether there is a connection over which the end can be told, or comes to be."""
        self._is_back.clear()
        return self._bus.is_connected or await happens(self._is_back, _BACK_WITHIN_S)

    # -- saying it ----------------------------------------------------------------------------------------

    def _say(self, msg: Msg) -> None:
        for data, part in pieces(msg.data, self._bus.max_payload):
            headers = self._told_with_it()
            if part:
                headers[h.PART] = part
            self._publish(data, headers)

    def _told_with_it(self) -> dict[str, str]:
        """What goes with the first message, and with the first one of every further attempt: who makes it."""
        call = self._call
        if not self.messages:
            told = call.first.headers if call.first is not None else None
            return {name: told[name] for name in (h.DECISION, h.CONTENT_TYPE) if told and name in told}
        if call.resumed > self._resumed:
            self._resumed = call.resumed
            return {h.DECISION: encode(call.decisions[-1]).decode()} if call.decisions else {}
        return {}

    def _end(self, error: SollolError | None) -> None:
        """The last words: of an answer that failed its error, then the empty message."""
        body = error.body if error is not None else None
        if body is not None and not self.messages:
            self.refuse(body)
            return
        if body is not None:
            self._publish(encode(body), error_headers(body))
        last = self._call.last.headers if self._call.last is not None and body is None else None
        headers = {h.CHUNKS: str(self.messages)}
        if last and h.FIGURES in last:
            headers[h.FIGURES] = last[h.FIGURES]
        self._publish(b"", headers)
        self._bus.endpoints.over(self.request.reply_to, body.code.value if body is not None else "")

    def _publish(self, data: bytes, headers: dict[str, str]) -> None:
        reply = f"{self._probe}.{self.messages + 1}"
        self._bus.publish(self.request.reply_to, data, reply=reply, headers=headers or None)
        self.messages += 1

    # -- what happens meanwhile ---------------------------------------------------------------------------

    def _on_news(self, news: RequestNews) -> None:
        if not isinstance(news, Taken):  # its caller watches this dispatcher, which watches that one
            self._caller.tell(news)

    def _on_probe(self, msg: Msg) -> None:
        if is_no_responders(msg) and not self._bus.is_settling:
            self._on_gone()

    def _on_gone(self) -> None:
        if not self._is_gone:
            extra = {"action": "caller_gone", "request_id": self.request.request_id}
            log.info("request %s: its caller is gone", self.request.request_id, extra=extra)
            self._forget()

    def _on_disconnect(self) -> None:
        if self.messages:
            self.leave(_in_middle(ConnectionLost(_LOST)))


class Relays:
    """The answers that one dispatcher receives for others.

    Args:
        bus: The dispatcher's connection.
        calls: The connection of the requests that it makes for others.
        spawn: Runs a coroutine as a task of the dispatcher.
        instance: Who has them.
        limit_bytes: So much text of each answer is held; 0: none is received for anybody.
        on_over: Called whenever one has ended.
    """

    def __init__(
        self,
        bus: Bus,
        calls: Callable[[], Bus],
        spawn: Spawn,
        *,
        instance: str,
        limit_bytes: int,
        on_over: Callable[[Request], None],
    ) -> None:
        self._bus = bus
        self._calls = calls
        self._spawn = spawn
        self._instance = instance
        self._limit_bytes = limit_bytes
        self._most = _HELD_BYTES_MAX // limit_bytes if limit_bytes else 0
        self._on_over = on_over
        self._held: dict[str, Relay] = {}
        self._tasks: dict[Relay, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def has_room(self) -> bool:
        """Whether one more answer may be held; without, it goes past the dispatcher, and breaks where it breaks."""
        return len(self._tasks) < self._most

    def in_flight(self) -> Collection[str]:
        """Ids of their requests."""
        return self._held.keys()

    def held(self, request_id: str) -> Relay | None:
        """What is received under this id."""
        return self._held.get(request_id)

    def check(self, request: Request) -> None:
        """Lets a request that was sent again take the place of what was sent before.

        Raises:
            Rejected: Its id is another request's.
        """
        held = self._held.get(request.request_id)
        if held is None:
            return
        if not request.is_again(held.request):
            raise Rejected(in_use(request.request_id))
        held.drop()

    def begin(self, request: Request) -> None:
        """Makes the request for its caller."""
        relay = self._held[request.request_id] = Relay(
            self._bus, self._calls(), request, self._instance, limit_bytes=self._limit_bytes
        )
        task = self._tasks[relay] = self._spawn(_guarded(relay), name=f"relay.{request.request_id}")
        task.add_done_callback(partial(self._over, relay))

    def leave(self) -> None:
        """The dispatcher takes nothing new: another one, which there is, makes what has said nothing yet.

        Raises:
            NotConnected: The connection is down.
        """
        for relay in [one for one in self._tasks if not one.messages]:
            relay.hand_on()

    async def end(self) -> None:
        """The dispatcher leaves now: what has not ended ends with an error."""
        tasks = set(self._tasks.values())
        for relay in list(self._tasks):
            relay.leave(_in_middle(ActorStopped(_LEFT)) if relay.messages else error_from(nobody_left(0.0)))
        if tasks:
            await asyncio.wait(tasks, timeout=_ENDS_WITHIN_S)

    def _over(self, relay: Relay, _: asyncio.Task[None]) -> None:
        del self._tasks[relay]
        if self._held.get(relay.request.request_id) is relay:
            del self._held[relay.request.request_id]
        self._on_over(relay.request)


async def _guarded(relay: Relay) -> None:
    """Runs one whose failure must not end the dispatcher."""
    try:
        await relay.run()
    except Exception as error:
        request_id = relay.request.request_id
        log.exception("request %s", request_id, extra={"action": "relay_failed", "request_id": request_id})
        body = ErrorBody(code=ErrorCode.INTERNAL, message=f"its dispatcher failed: {type(error).__name__}")
        with suppress(BusError):
            relay.refuse(body)


def _in_middle(error: SollolError) -> SollolError:
    """An error in the middle of an answer with whose dispatcher goes what was held of it."""
    body = msgspec.structs.replace(error.body, details={"not_resumed": "it is held by its dispatcher alone"})
    return error_from(body)


def cancelled(why: str) -> SollolError:
    """The error of an answer that is no longer wanted."""
    return error_from(ErrorBody(code=ErrorCode.CANCELLED, message=why))
