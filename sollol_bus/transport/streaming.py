"""Streams of replies: one request, many messages, an empty message as the end (NATS ADR-47).

Each stream listens on an inbox of its own, so that leaving it is visible to the server: whoever publishes the
chunks with a reply subject is told (503) that nobody listens any more. The last token of that reply subject is the
chunk's sequence number, and the last message says how many there were: a lost chunk never goes unnoticed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

from sollol_bus.errors import (
    ConnectionLost,
    DeadlineExceeded,
    NoResponders,
    NotPermitted,
    RequestTimedOut,
    SollolError,
    error_from,
)
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.joined import chunks_in
from sollol_bus.transport.messages import Msg, attempt_in, error_of, is_no_responders
from sollol_bus.transport.subscription import Subscription
from sollol_bus.transport.voice import Heard, Voice
from sollol_schemas import headers as h
from sollol_schemas.errors import ErrorBody, ErrorCode

MAX_ANSWER_BYTES = 64 << 20
"""The largest answer that anybody puts together: some 2,000 vectors of 1,024 numbers."""
MAX_WAITING_BYTES = 64 << 20
"""How much a slow reader may leave unread before its stream is cut."""


class PathBroken(ConnectionLost):
    """What was on its way to this caller was lost; what it has is right, as far as it goes."""


class BrokenForGood(ConnectionLost):
    """Nobody goes on from here: its reader is too slow, or nobody knows what of it is missing."""


def too_large() -> SollolError:
    """The error of an answer that exceeds `MAX_ANSWER_BYTES`: the request is at fault, on whatever node it runs."""
    message = f"the answer exceeds {MAX_ANSWER_BYTES} bytes: ask for less at a time"
    return error_from(
        ErrorBody(code=ErrorCode.REPLY_TOO_LARGE, message=message, details={"limit_bytes": MAX_ANSWER_BYTES})
    )


def grown(size_bytes: int, data: bytes) -> int:
    """The size of what is collected of an answer, with one more piece of it.

    Raises:
        SollolError: It exceeds `MAX_ANSWER_BYTES`.
    """
    if size_bytes + len(data) > MAX_ANSWER_BYTES:
        raise too_large()
    return size_bytes + len(data)


class ReplyStream:
    """The replies to one request, in order; use as an async context manager and iterate.

    Iteration gives the chunks as messages; the empty message ends it and is kept as `last`. A chunk that was
    split because of its size is put together again. What a reader leaves unread is bounded; the chunk that it
    gets next does not count, whatever its size.

    Args:
        bus: The connection to use.
        first_s: How long to wait for the first message, in seconds.
        gap_s: How long to wait between messages.
        total_s: How long the whole stream may take.
        breaks_on_disconnect: Whether a loss of the connection ends the stream; else its owner decides.
        max_unread_bytes: How much a slow reader may leave unread before its stream is cut.
        is_joined: Whether one message may hold several chunks.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        first_s: float = 600.0,
        gap_s: float = 600.0,
        total_s: float = 600.0,
        breaks_on_disconnect: bool = True,
        max_unread_bytes: int = MAX_WAITING_BYTES,
        is_joined: bool = False,
    ) -> None:
        self._bus = bus
        self._max_unread_bytes = max_unread_bytes
        self._first_s = first_s
        self._gap_s = gap_s
        self._deadline = time.monotonic() + total_s
        self._waiting: deque[Msg | SollolError] = deque()
        self._waiting_bytes = 0
        self._arrived: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._due = 0.0
        self._subscription: Subscription | None = None
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._voice = Voice()
        self._subject = self.inbox = ""
        self._forget_refusals: Callable[[], None] | None = None
        self._is_over = False
        self.messages = 0
        """Messages received, the last empty one not counted."""
        self.chunks = 0
        """Chunks of the engine in them."""
        self.is_joined = is_joined
        self.sent_mono_s = self.first_mono_s = 0.0
        """When it was sent, and when its first message came."""
        self.first: Msg | None = None
        """The first message."""
        self.last: Msg | None = None
        """The last message, when the stream ended as it should."""
        self._breaks_on_disconnect = breaks_on_disconnect
        if breaks_on_disconnect:
            bus.on_disconnect(self._on_disconnect)

    @property
    def has_begun(self) -> bool:
        """Whether anything has arrived."""
        return self.messages > 0 or self.last is not None

    @property
    def has_ended(self) -> bool:
        """Whether its end or an error has arrived, read or not: nothing more is waited for."""
        last = self._waiting[-1] if self._waiting else self.last
        return last is not None and (isinstance(last, SollolError) or not last.data)

    @property
    def is_complete(self) -> bool:
        """Whether the next thing to come out of it is its end."""
        waiting = self._waiting
        return bool(waiting) and not isinstance(waiting[0], SollolError) and not waiting[0].data

    def send(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        """Publishes the request with a fresh inbox; what still comes to an earlier inbox is ignored."""
        if self._subscription is not None:
            self._subscription.unsubscribe()
        self.messages = self.chunks = 0
        self.first = self.last = None
        self._waiting.clear()
        self._waiting_bytes = 0
        self._forget_parts()
        self._voice = Voice()
        self._subject = subject.lower()
        self.sent_mono_s = time.monotonic()
        if self._forget_refusals is None:
            self._forget_refusals = self._bus.on_refused(self._on_refused)
        self.inbox = self._bus.new_inbox()
        self._subscription = self._bus.subscribe(self.inbox, self._on_message)
        self._bus.publish(subject, payload, reply=self.inbox, headers=headers)

    def reopen(self) -> None:
        """Makes a stream that ended with an error usable for another `send`."""
        self._is_over = False

    def fail(self, error: SollolError) -> None:
        """Ends the stream with an error, after what has arrived already."""
        self._put(error)

    def conclude(self, messages: int) -> None:
        """Ends the stream without its last message, which was lost: with an error unless so many messages came."""
        self._put(Msg(self._bus.nats, headers={h.CHUNKS: str(messages)}))

    def close(self) -> None:
        """Stops listening; the publisher notices at its next message."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._breaks_on_disconnect:
            self._bus.forget_callbacks(self._on_disconnect)
        if self._forget_refusals is not None:
            self._forget_refusals()
            self._forget_refusals = None
        if self._subscription is not None:
            if self.last is None:
                self._subscription.unsubscribe()
            else:  # nothing more will come, so nobody has to notice
                self._subscription.unsubscribe_soon()
            self._subscription = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[Msg]:
        return self

    async def __anext__(self) -> Msg:
        """The next chunk.

        Raises:
            SollolError: What the other side reported, or `RequestTimedOut`, `DeadlineExceeded`, `NoResponders`,
                `ConnectionLost`.
        """
        if self._is_over:
            raise StopAsyncIteration
        while not self._waiting:
            await self._wait()
        item = self._waiting.popleft()
        if isinstance(item, SollolError):
            self.close()
            raise item
        self._waiting_bytes -= len(item.data)
        if item.data:
            return item
        self.last = item
        self.close()
        self._check_count(item)
        raise StopAsyncIteration

    def take_ready(self) -> list[Msg]:
        """The chunks that are here already, without waiting; the end and errors are left for the iteration."""
        ready: list[Msg] = []
        waiting = self._waiting
        while waiting:
            item = waiting[0]
            if isinstance(item, SollolError) or not item.data:
                break
            ready.append(item)
            waiting.popleft()
            self._waiting_bytes -= len(item.data)
        return ready

    async def _wait(self) -> None:
        limit = self._gap_s if self.has_begun else self._first_s
        now = time.monotonic()
        left = self._deadline - now
        self._due = now + max(0.0, min(limit, left))
        if self._timer is None or self._timer_at > self._due:
            self._look_at(self._due, now)
        self._arrived = asyncio.get_running_loop().create_future()
        try:
            await self._arrived
        except TimeoutError:
            self.close()
            if left > limit:
                raise RequestTimedOut(f"nothing came for {limit:g} s") from None
            raise DeadlineExceeded(f"no complete answer within the deadline ({self.messages} messages came)") from None
        finally:
            self._arrived = None

    def _look_at(self, at: float, now: float) -> None:
        """Looks then whether too long nothing came: one timer for a whole stream, whose every token moves the limit."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(at - now, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._arrived is None or self._arrived.done():
            return
        now = time.monotonic()
        if now < self._due:
            self._look_at(self._due, now)
        else:
            self._arrived.set_exception(TimeoutError())

    def _check_count(self, last: Msg) -> None:
        promised = (last.headers or {}).get(h.CHUNKS)
        if promised is not None and promised.isdigit() and int(promised) != self.messages:
            kind = PathBroken if self._voice.is_counted and self.messages < int(promised) else BrokenForGood
            raise kind(f"{self.messages} of {promised} messages arrived")

    def _on_message(self, msg: Msg) -> None:
        if is_no_responders(msg):
            self._put(
                NoResponders("no dispatcher listens on the bus; start one with `sollol up` or `sollol dispatcher`")
            )
            return
        is_last = not msg.data or (msg.headers is not None and h.CHUNKS in msg.headers)
        if msg.reply and not self._is_next(msg, is_end=is_last):
            return
        error = error_of(msg)
        if error is not None:
            self._put(error_from(error))
            return
        if msg.data and is_last:
            self._put_last(msg)
        elif not (msg.data and self._is_part(msg)):
            self._put(msg)

    def _put_last(self, msg: Msg) -> None:
        """Takes the end of a stream that brings a chunk along; it may come twice, and counts itself."""
        if self.has_ended:
            return
        if (msg.headers or {}).get(h.CHUNKS) != str(self.messages + 1):
            self._break(f"message {self.messages + 1} of the answer was lost on the way")
            return
        self._put(msg)
        self._put(Msg(self._bus.nats, headers=msg.headers))

    def _is_next(self, msg: Msg, *, is_end: bool) -> bool:
        """Whether a node's message is the next one of the node that is heard."""
        heard = self._voice.hears(msg.reply, self.messages, is_end=is_end)
        if heard is Heard.GAP:
            self._break(f"message {self.messages + 1} of the answer was lost on the way")
        elif heard is Heard.OTHER and attempt_in(msg) > attempt_in(self.first):
            self._break("it was begun anew elsewhere while its node slept")
        return heard is Heard.NEXT

    def _break(self, why: str) -> None:
        """Ends the stream behind what has come."""
        self._stop_listening()
        self._put(PathBroken(why))

    def _is_part(self, msg: Msg) -> bool:
        """Collects the parts of a split chunk; the last one is completed and passed on."""
        part = (msg.headers or {}).get(h.PART)
        if part is None:
            return False
        number, _, total = part.partition("/")
        if number != str(len(self._parts) + 1):
            self._stop_listening()
            self._put(PathBroken(f"part {len(self._parts) + 1} of {total} of a chunk was lost on the way"))
            return True
        self._parts.append(msg.data)
        self._parts_bytes += len(msg.data)
        if self._parts_bytes > MAX_ANSWER_BYTES:
            self._forget_parts()
            self._cut(too_large())
            return True
        if number != total:
            self.messages += 1
            self._note_first(msg)
            return True
        msg.data = b"".join(self._parts)
        self._forget_parts()
        return False

    def _forget_parts(self) -> None:
        self._parts.clear()
        self._parts_bytes = 0

    def _cut(self, error: SollolError) -> None:
        """Ends the stream with an error in place of what is unread; the publisher notices, and stops."""
        self._waiting.clear()
        self._stop_listening()
        self._put(error)

    def _stop_listening(self) -> None:
        if self._subscription is not None:
            self._subscription.unsubscribe()

    def _note_first(self, msg: Msg) -> None:
        if self.first is None:
            self.first = msg
            self.first_mono_s = time.monotonic()

    def _put(self, item: Msg | SollolError) -> None:
        if not isinstance(item, SollolError):
            self._note_first(item)
            if item.data:
                self.messages += 1
                self.chunks += chunks_in(item.data) if self.is_joined else 1
            self._waiting_bytes += len(item.data)
            if self._waiting and self._waiting_bytes - self._next_bytes() > self._max_unread_bytes:
                self._cut(BrokenForGood(f"cut: the reader left more than {self._max_unread_bytes} bytes unread"))
                return
        self._waiting.append(item)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _next_bytes(self) -> int:
        """Size of the chunk that the reader gets next."""
        item = self._waiting[0]
        return 0 if isinstance(item, SollolError) else len(item.data)

    def _on_refused(self, subject: str) -> None:
        if subject == self._subject:
            self._put(NotPermitted(f"these credentials may not publish to {subject}"))

    def _on_disconnect(self) -> None:
        body = ErrorBody(code=ErrorCode.CONNECTION_LOST, message="the connection to the bus broke while waiting")
        self._put(error_from(body))
