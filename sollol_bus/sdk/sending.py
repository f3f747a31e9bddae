"""How a request is sent, and sent again until an answer begins; the part of a call that gives its user nothing.

What is sent stands in `Resuming`: the body alone, or with it what was said before.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from functools import partial

from sollol_bus.errors import BusError, Cancelled, DecodeFailed, NoResponders, NotConnected, SollolError
from sollol_bus.sdk.listener import LAST_WORDS_S, Listener
from sollol_bus.sdk.pacing import TAKEN_WITHIN_S, taken_within_s
from sollol_bus.sdk.passing import PassingStream
from sollol_bus.sdk.resume.resuming import Resuming
from sollol_bus.sdk.resume.transcript import RESUME_BYTES
from sollol_bus.sdk.silence import is_held
from sollol_bus.transport.callbacks import Change
from sollol_bus.transport.connection import SETTLING_S, Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_bus.transport.mux import ReplyInbox
from sollol_bus.transport.streaming import MAX_WAITING_BYTES, BrokenForGood, PathBroken
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.control import DispatcherPing
from sollol_schemas.execution import CancelRequest, RequestNews, Taken
from sollol_schemas.ids import new_id

log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 0.5
MAX_RESENDS = 9
_DEADLINE_GRACE_S = 5.0
_AGE_TOLD_S = 0.001
_RESTART_S = 10.0
"""A dispatcher that ended may be back within so long."""
RECONNECT_S = 30.0
"""An answer that broke off with the connection waits so long for the next one."""
_RNG = random.Random()


class Sending:
    """One request on its way; the arguments are those of `Call`."""

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
        resume_bytes: int = RESUME_BYTES,
        is_joined: bool = False,
        on_news: Callable[[RequestNews], None] | None = None,
    ) -> None:
        self.request_id = request_id or new_id()
        self.resends = resends
        self.dispatcher: str | None = None
        """Instance of the dispatcher that took the request, once it said so."""
        self.gives_up_mono_s = time.monotonic() + deadline_s
        self.comes_again = False
        """Whether somebody else will ask for it: a cancel ends it only while it waits, and it is not sent again."""
        self.resume_bytes = resume_bytes
        self.is_joined = is_joined
        self.bus = bus
        self._loop = asyncio.get_running_loop()
        self._subject = subject
        self._headers = dict(headers or {})
        self._answer = Resuming(subject, self._headers.get(h.PATH, ""), body, limit_bytes=resume_bytes)
        self.secret = secret or bus.new_token()
        self._max_resends = max_resends
        self._rng = rng
        self._resends_before = resends
        self._on_news = on_news
        now = time.monotonic()
        self._began_mono_s = now - waited_s
        self._absence_until = now + absence_s
        total_s = deadline_s + _DEADLINE_GRACE_S
        self._stream = PassingStream(
            bus,
            first_s=total_s,
            total_s=total_s,
            breaks_on_disconnect=False,
            max_unread_bytes=max_unread_bytes,
            is_joined=is_joined,
        )
        self._listener = Listener(bus, self._stream)
        self._control: ReplyInbox | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_sent = False
        self._is_over = False
        self._is_cancelled = False
        self._superseded: int | None = None
        self._left: SollolError | None = None
        """Why its user left."""

    @property
    def age_s(self) -> float:
        """Seconds since the request was made."""
        return time.monotonic() - self._began_mono_s

    def _open(self) -> None:
        """Sends it for the first time, and listens to what becomes of the connection."""
        self.bus.on_change(self._on_change)
        try:
            self._send_soon()
        except BaseException:
            self._end()
            raise

    def cancel(self) -> None:
        """Tells the dispatchers that the answer is no longer wanted."""
        self._is_cancelled = not self.comes_again
        self._publish_cancel(
            CancelRequest(request_id=self.request_id, secret=self.secret, comes_again=self.comes_again)
        )
        if self._is_cancelled and self._answer.is_mending and not self._is_sent:
            self._stream.fail(cancelled())  # nobody holds it who would say so

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
            h.STREAM: h.JOINED if self.is_joined else "1",
            **self._answer.headers,
        }
        if self.resends:
            headers[h.RESEND] = str(self.resends)
        if self.age_s > _AGE_TOLD_S:
            headers[h.WAITED] = f"{self.age_s:.3f}"
        self.dispatcher = None
        if self._superseded is not None:
            # By its number: subscriptions of one receiver take turns, so this may be handled after what is sent next.
            self._publish_cancel(CancelRequest(request_id=self.request_id, secret=self.secret, resend=self._superseded))
        self._stream.send(self._subject, self._answer.payload, headers)
        self._watch_again_in(taken_within_s(self.resends - self._resends_before, self._rng))

    def _send_again(self, why: str) -> None:
        if self._is_over or self._stream.has_begun:
            return
        if self.resends >= self._max_resends:
            self._stream.fail(BrokenForGood(f"sent {self.resends + 1} times without an answer: {why}"))
            return
        self._superseded = self.resends
        self.resends += 1
        log.info(
            "request %s is sent again: %s",
            self.request_id,
            why,
            extra={"action": "request_resent", "request_id": self.request_id},
        )
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
            if self._answer.is_mending and not self._is_sent:
                self._stream.fail(BrokenForGood(f"the connection to the bus was not back within {RECONNECT_S:g} s"))
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

    def _on_change(self, change: Change) -> None:
        match change:
            case Change.LOST:
                self._on_disconnect()
            case Change.BACK:
                self._on_reconnect()
            case Change.CLOSED:
                self._on_closed()
            case Change.CLUSTER:
                self._on_cluster_change()

    def _on_disconnect(self) -> None:
        if self._stream.has_begun and not self._is_over:
            self._stream.fail(PathBroken("the connection to the bus broke in the middle of the answer"))

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
        delay_s = self._rng.uniform(0.5, 1.0) * TAKEN_WITHIN_S
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
        self.bus.forget_changes(self._on_change)
        self._stream.take = None
        self._stream.close()


def cancelled() -> Cancelled:
    """The error of a request that its user cancelled."""
    return Cancelled("the request was cancelled")
