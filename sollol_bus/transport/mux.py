"""Many conversations over one wildcard inbox: requests, callbacks and multi-reply inboxes without a subscription each.

It costs half the processor time of the client library's own `request`, because it needs no `wait_for` task and no
second validation of the subject for each call. Nobody can guess where a reply is awaited: whoever may publish to
inboxes could otherwise answer in another's place.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from functools import partial

from sollol_bus.alarms import Alarms, Stoppable
from sollol_bus.errors import BusError, NoResponders, NotConnected, NotPermitted, RequestTimedOut
from sollol_bus.transport.messages import Msg, is_no_responders

Publish = Callable[..., None]
"""`Bus.publish`."""
OnReply = Callable[[Msg | BusError], None]


class _Question:
    """One that waits for its reply."""

    __slots__ = ("on_reply", "subject", "timer")

    def __init__(self, subject: str, on_reply: OnReply, timer: Stoppable) -> None:
        self.subject = subject
        self.on_reply = on_reply
        self.timer = timer


def unguessable() -> Iterator[str]:
    """Tokens of 128 random bits each; the system is asked for many at a time."""
    while True:
        drawn = os.urandom(16 * 256).hex()
        for start in range(0, len(drawn), 32):
            yield drawn[start : start + 32]


class Mux:
    """Hands the replies that arrive under one inbox prefix to whoever asked."""

    def __init__(self, prefix: str, publish: Publish, loop: asyncio.AbstractEventLoop, alarms: Alarms) -> None:
        self.wildcard = f"{prefix}.*"
        self._start = len(prefix) + 1
        self._prefix = prefix
        self._publish = publish
        self._loop = loop
        self._alarms = alarms
        self._keys = unguessable()
        self._open: dict[str, OnReply] = {}
        self._asked: dict[str, _Question] = {}

    def __len__(self) -> int:
        return len(self._open) + len(self._asked)

    def on_message(self, msg: Msg) -> None:
        """Takes every message under the wildcard; a reply nobody waits for is dropped."""
        key = msg.subject[self._start :]
        question = self._asked.pop(key, None)
        if question is not None:
            question.timer.cancel()
            is_heard = msg.data or not is_no_responders(msg)
            question.on_reply(msg if is_heard else NoResponders(f"nobody listens on {question.subject}"))
        elif (on_reply := self._open.get(key)) is not None:
            on_reply(msg)

    def open(self, on_reply: OnReply) -> tuple[str, str]:
        """A new inbox: (its subject, its key for `close`). Stays open until closed."""
        key = next(self._keys)
        self._open[key] = on_reply
        return f"{self._prefix}.{key}", key

    def close(self, key: str) -> None:
        """Forgets an inbox; closing twice is harmless."""
        self._open.pop(key, None)

    def ask(
        self,
        subject: str,
        payload: bytes,
        on_reply: OnReply,
        *,
        timeout_s: float,
        headers: dict[str, str] | None = None,
    ) -> Callable[[], None]:
        """Publishes a request; `on_reply` is called once, with the reply or with the error.

        Returns:
            A function that withdraws the question: `on_reply` is not called afterwards.

        Raises:
            NotConnected: Nothing was sent; `on_reply` will not be called.
        """
        key = next(self._keys)
        self._publish(subject, payload, reply=f"{self._prefix}.{key}", headers=headers)
        timer = self._alarms.after(timeout_s, self._expire, key, timeout_s)
        self._asked[key] = _Question(subject, on_reply, timer)
        return partial(self._withdraw, key)

    def _withdraw(self, key: str) -> None:
        question = self._asked.pop(key, None)
        if question is not None:
            question.timer.cancel()

    def _settle(self, key: str, result: Msg | BusError) -> None:
        question = self._asked.pop(key, None)
        if question is not None:
            question.timer.cancel()
            question.on_reply(result)

    def _expire(self, key: str, timeout_s: float) -> None:
        subject = self._asked[key].subject
        self._settle(key, RequestTimedOut(f"no answer on {subject} within {timeout_s:g} s"))

    async def request(
        self, subject: str, payload: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Msg:
        """The one reply to a request.

        Raises:
            NoResponders: Nobody listens on the subject.
            RequestTimedOut: No reply came within `timeout_s`.
            NotConnected: The connection is, or went, down.
        """
        future: asyncio.Future[Msg] = self._loop.create_future()

        def settle(result: Msg | BusError) -> None:
            if future.done():
                return
            if isinstance(result, BusError):
                future.set_exception(result)
            else:
                future.set_result(result)

        withdraw = self.ask(subject, payload, settle, timeout_s=timeout_s, headers=headers)
        try:
            return await future
        finally:
            withdraw()

    def refuse(self, subject: str) -> None:
        """Fails every question on a subject (in lower case, as the server names it) that may not be published to."""
        for key, question in list(self._asked.items()):
            if question.subject.lower() == subject:
                self._settle(key, NotPermitted(f"these credentials may not publish to {subject}"))

    def fail_all(self) -> None:
        """Tells everybody who waits that the connection went down; multi-reply inboxes stay open."""
        for key in list(self._asked):
            self._settle(key, _went_down())
        for on_reply in list(self._open.values()):
            on_reply(_went_down())


def _went_down() -> NotConnected:
    return NotConnected("the connection to the bus went down while waiting for a reply")


class ReplyInbox:
    """An inbox for many replies to one callback, without a subscription of its own."""

    __slots__ = ("_key", "_mux", "subject")

    def __init__(self, mux: Mux, on_reply: OnReply) -> None:
        self._mux = mux
        self.subject, self._key = mux.open(on_reply)

    def close(self) -> None:
        """Stops listening; safe to call twice."""
        self._mux.close(self._key)
