"""One request from the caller's side, watched until its answer is complete.

A plain NATS caller publishes and waits. `Call` does more: it knows which dispatcher took the request and probes it
every 500 ms, so that a request that has not begun is sent again, under the same id, when that dispatcher dies, no
longer holds it, or the connection breaks; it asks about an answer that has begun and is silent for seconds, so that
one whose end was lost on the way ends; and it cancels when its user leaves. Every sending has inboxes of its own:
whatever an earlier attempt, or its dispatcher, might still say goes nowhere. Dispatchers that do not confirm a request
may only be overloaded: each further sending waits twice as long for it, so that callers do not add to the load.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import TracebackType
from typing import Self

from sollol_bus.errors import (
    ActorStopped,
    BusError,
    ConnectionLost,
    DecodeFailed,
    NoResponders,
    NotConnected,
    SollolError,
)
from sollol_bus.sdk.listener import LAST_WORDS_S, Listener
from sollol_bus.sdk.silence import is_held
from sollol_bus.transport.connection import SETTLING_S, Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_bus.transport.mux import ReplyInbox
from sollol_bus.transport.streaming import MAX_WAITING_BYTES, ReplyStream
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.control import DispatcherPing
from sollol_schemas.execution import CancelRequest, RequestNews, Taken

log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 0.5
MAX_RESENDS = 9
_RETRY_S = 0.2
_DEADLINE_GRACE_S = 5.0
_TAKEN_WITHIN_S = 2.0
_TAKEN_WITHIN_MAX_S = 60.0
_AGE_TOLD_S = 0.001
_RESTART_S = 10.0
"""A dispatcher that ended may be back within so long."""
_GONE_WITHIN_MAX_S = 3600.0


_RNG = random.Random()


def taken_within_s(unconfirmed: int, rng: random.Random) -> float:
    """How long a dispatcher may take to confirm a request, of which so many sendings came to nothing before.

    Returns:
        2 to 3 s at first, twice that for each further sending, at most 60 s.
    """
    return min(_TAKEN_WITHIN_MAX_S, _TAKEN_WITHIN_S * 2.0**unconfirmed * rng.uniform(1.0, 1.5))


def gone_within_s(error: ActorStopped) -> float:
    """Within how many seconds whoever shuts down is gone, as far as it says so; at most an hour is believed."""
    told = error.details.get("gone_within_s")
    return min(float(told), _GONE_WITHIN_MAX_S) if isinstance(told, (int, float)) and told > 0 else 0.0


class Call:
    """A request in flight; use as an async context manager and iterate over its chunks.

    Args:
        bus: The caller's connection.
        subject: `subjects.GENERATE`, `CHAT`, `EMBED` or `PASSTHROUGH`.
        body: The engine's body, JSON.
        headers: Routing and other headers; copied.
        deadline_s: When the dispatcher gives up; the call itself waits a little longer.
        absence_s: How long to wait for a dispatcher when none is on the bus; one that had the request and went is
            waited for longer, as it may be restarting.
        max_unread_bytes: How much of the answer may wait for a slow reader before it is cut.
        resends: How often the request was sent before, under this id; its attempts are numbered behind those.
        waited_s: Its age.
        secret: Of what was sent before under this id, in whose place it is put.
        max_resends: So often it is sent at most after the first time, earlier sendings under this id included.
        rng: Spreads the resends of many callers.
        on_news: Called with what is told about it on the way: who took it, its place in the queue, and when its wait
            is over, its node. Quick requests have no news.
    """

    def __init__(
        self,
        bus: Bus,
        subject: str,
        body: bytes,
        *,
        headers: dict[str, str] | None = None,
        deadline_s: float = 600.0,
        absence_s: float = 3.0,
        request_id: str | None = None,
        max_unread_bytes: int = MAX_WAITING_BYTES,
        resends: int = 0,
        waited_s: float = 0.0,
        secret: str = "",
        max_resends: int = MAX_RESENDS,
        rng: random.Random = _RNG,
        on_news: Callable[[RequestNews], None] | None = None,
    ) -> None:
        self.request_id = request_id or secrets.token_hex(8)
        self.resends = resends
        self.dispatcher: str | None = None
        """Instance of the dispatcher that took the request, once it said so."""
        self.gives_up_mono_s = time.monotonic() + deadline_s
        self.comes_again = False
        """Whether somebody else will ask for it: a cancel ends it only while it waits, and it is not sent again."""
        self.bus = bus
        self._loop = asyncio.get_running_loop()
        self._subject = subject
        self._body = body
        self._headers = dict(headers or {})
        self.secret = secret or secrets.token_hex(16)
        self._max_resends = max_resends
        self._rng = rng
        self._resends_before = resends
        self._on_news = on_news
        now = time.monotonic()
        self._began_mono_s = now - waited_s
        self._absence_until = now + absence_s
        total_s = deadline_s + _DEADLINE_GRACE_S
        self._stream = ReplyStream(
            bus, first_s=total_s, total_s=total_s, breaks_on_disconnect=False, max_unread_bytes=max_unread_bytes
        )
        self._listener = Listener(bus, self._stream)
        self._control: ReplyInbox | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_sent = False
        self._is_over = False
        self._left: SollolError | None = None
        """Why its user left."""

    @property
    def first(self) -> Msg | None:
        """The first message, which carries the decision."""
        return self._stream.first

    @property
    def last(self) -> Msg | None:
        """The last, empty message, which carries the figures."""
        return self._stream.last

    @property
    def is_complete(self) -> bool:
        """Whether the end has come, so that nothing follows the chunks that were taken."""
        return self._stream.is_complete

    @property
    def age_s(self) -> float:
        """Seconds since the request was made."""
        return time.monotonic() - self._began_mono_s

    async def __aenter__(self) -> Self:
        self.bus.on_disconnect(self._on_disconnect)
        self.bus.on_reconnect(self._on_reconnect)
        self.bus.on_closed(self._on_closed)
        self.bus.on_cluster_change(self._on_cluster_change)
        try:
            self._send_soon()
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_over:
            self.cancel()
        self._end()

    async def __aiter__(self) -> AsyncIterator[Msg]:
        """The chunks of the answer.

        Raises:
            SollolError: What ended the request; see `sollol_bus.errors`.
        """
        while True:
            try:
                async for msg in self._stream:
                    yield msg
            except NoResponders as error:
                await self._wait_for_dispatcher(error)
                continue
            except ActorStopped as error:
                self._follow(error)
                continue
            except SollolError:
                self._is_over = True
                raise
            self._is_over = True
            return

    def take_ready(self) -> list[Msg]:
        """The chunks that have arrived already, beside the one that the iteration gave last."""
        return self._stream.take_ready()

    def leave(self, error: SollolError) -> None:
        """Cancels the request and ends the iteration with `error`; safe from callbacks, and twice."""
        if not self._is_over:
            self._left = error
            self.cancel()
            self._stream.fail(error)

    def cancel(self) -> None:
        """Tells the dispatchers that the answer is no longer wanted."""
        self._publish_cancel(
            CancelRequest(request_id=self.request_id, secret=self.secret, comes_again=self.comes_again)
        )

    def _publish_cancel(self, message: CancelRequest) -> None:
        try:
            self.bus.publish(subjects.CANCEL, encode(message))
        except NotConnected:
            log.debug("request %s: not cancelled, the connection is down", self.request_id)

    # -- sending ------------------------------------------------------------------------------------------

    def _send(self) -> None:
        if self._control is not None:
            self._control.close()
        self._control = self.bus.reply_inbox(self._on_control)
        headers = {
            **self._headers,
            h.REQUEST_ID: self.request_id,
            h.CANCEL_SECRET: self.secret,
            h.CONTROL_INBOX: self._control.subject,
            h.STREAM: "1",
        }
        if self.resends:
            headers[h.RESEND] = str(self.resends)
        if self.age_s > _AGE_TOLD_S:
            headers[h.WAITED] = f"{self.age_s:.3f}"
        self.dispatcher = None
        self._stream.send(self._subject, self._body, headers)
        self._watch_again_in(taken_within_s(self.resends - self._resends_before, self._rng))

    def _send_again(self, why: str) -> None:
        if self._is_over or self._stream.has_begun:
            return
        if self.resends >= self._max_resends:
            self._stream.fail(ConnectionLost(f"sent {self.resends + 1} times without an answer: {why}"))
            return
        # By its number: subscriptions of one receiver take turns, so this may be handled after what is sent next.
        superseded = CancelRequest(request_id=self.request_id, secret=self.secret, resend=self.resends)
        self.resends += 1
        log.info(
            "request %s is sent again: %s",
            self.request_id,
            why,
            extra={"action": "request_resent", "request_id": self.request_id},
        )
        self._publish_cancel(superseded)
        self._send_soon()

    def _send_soon(self) -> None:
        """Sends the request, now or once the connection is back."""
        try:
            self._send()
            self._is_sent = True
        except NotConnected:
            if self.bus.closed.is_set():
                self._on_closed()
            log.debug("request %s waits for the connection", self.request_id)

    async def _wait_for_dispatcher(self, error: SollolError) -> None:
        """Nobody listens: dispatchers may be on their way back."""
        if time.monotonic() > self._absence_until:
            self._is_over = True
            raise error
        await asyncio.sleep(_RETRY_S)
        if self._left is not None:
            self._is_over = True
            raise self._left
        self._stream.reopen()
        self._send_soon()

    def _follow(self, error: ActorStopped) -> None:
        """Its dispatcher left, and nobody took it over: sends it to the next one that starts.

        Raises:
            ActorStopped: Its user left, or the answer has begun.
        """
        if self._left is not None or self.comes_again or self._stream.has_begun:
            self._is_over = True
            raise error
        self._expect_restart(gone_within_s(error))
        self._stream.reopen()
        self._send_again("its dispatcher left")

    def _expect_restart(self, gone_within_s: float = 0.0) -> None:
        """A dispatcher that had the request ends within so many seconds: then another one may start in its place."""
        self._absence_until = max(self._absence_until, time.monotonic() + gone_within_s + _RESTART_S)

    # -- watching over the dispatcher ---------------------------------------------------------------------

    def _on_control(self, msg: Msg | BusError) -> None:
        if isinstance(msg, BusError):
            return
        try:
            news: RequestNews = decode(msg.data, RequestNews)  # type: ignore[arg-type]  # a union decodes too
        except DecodeFailed as error:
            log.warning("control inbox: %s", error, extra={"action": "bad_message", "request_id": self.request_id})
            return
        if isinstance(news, Taken):
            self.dispatcher = news.instance
            self._watch_again_in(PROBE_INTERVAL_S)
        if self._on_news is not None:
            self._on_news(news)

    def _watch_again_in(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._watch)

    def _watch(self) -> None:
        self._timer = None
        if self._is_over:
            return
        if self._stream.has_begun:
            again_in_s = self._listener.look()
            if again_in_s is not None:
                self._watch_again_in(again_in_s)
            return
        if not self.bus.is_connected:
            return  # the reconnect goes on from here
        if self.dispatcher is None:
            self._send_again("no dispatcher confirmed it")
            return
        self._watch_again_in(PROBE_INTERVAL_S)
        self.bus.ask(
            subjects.DISPATCHER_PROBE.of(self.dispatcher),
            encode(DispatcherPing(request_id=self.request_id)),
            partial(self._on_probe_answer, self.dispatcher),
            timeout_s=10 * PROBE_INTERVAL_S,
        )

    def _on_probe_answer(self, instance: str, reply: Msg | BusError) -> None:
        if instance != self.dispatcher:
            return
        if isinstance(reply, NoResponders):
            if not self.bus.is_settling:
                self._expect_restart()
                self._send_again("its dispatcher is gone")
        elif not isinstance(reply, BusError) and not is_held(reply):
            self._loop.call_later(LAST_WORDS_S, self._on_answer_lost, instance)

    def _on_answer_lost(self, instance: str) -> None:
        """Its dispatcher is done with it, and nothing of the answer has come."""
        if instance == self.dispatcher:
            self._send_again("its answer was lost on the way")

    def _on_disconnect(self) -> None:
        if self._stream.has_begun and not self._is_over:
            self._stream.fail(ConnectionLost("the connection to the bus broke in the middle of the answer"))

    def _on_reconnect(self) -> None:
        """A request that had not begun may be lost with the server: say so and send it again."""
        self._absence_until = max(self._absence_until, time.monotonic() + SETTLING_S)
        if self._is_over:
            return
        if self._is_sent:
            self._send_again("the connection broke before the answer began")
        else:
            self._send_soon()

    def _on_cluster_change(self) -> None:
        """Servers that had lost each other may be together again: what nobody confirmed was lost between them."""
        delay_s = self._rng.uniform(0.5, 1.0) * _TAKEN_WITHIN_S
        is_late = self._timer is not None and self._timer.when() > self._loop.time() + delay_s
        if is_late and self.dispatcher is None and not self._stream.has_begun:
            self._watch_again_in(delay_s)

    def _on_closed(self) -> None:
        if not self._is_over:
            self._stream.fail(NotConnected(f"the connection to the bus is closed: {self.bus.close_reason}"))

    def _end(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._control is not None:
            self._control.close()
        self.bus.forget_callbacks(self._on_disconnect, self._on_reconnect, self._on_closed, self._on_cluster_change)
        self._stream.close()
