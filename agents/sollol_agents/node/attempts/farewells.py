"""Says how attempts ended, to their callers and to their dispatchers, and says it again where it may have been lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from sollol_agents.node.attempts.kept_ends import PROVEN_KEPT_S, KeptEnds
from sollol_agents.node.attempts.leave import Leave
from sollol_agents.node.attempts.speaker import Words
from sollol_bus.errors import NotConnected
from sollol_bus.parts import Part
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.mux import OnReply
from sollol_schemas.headers import CHUNKS

log = logging.getLogger(__name__)

REPORT_ACK_S: Final = 1.5
"""Within this time JetStream has acknowledged the outcome that a dispatcher made of a report."""
_LOOK_EVERY_S: Final = PROVEN_KEPT_S / 3


class End:
    """How one attempt ended.

    Args:
        leave: To speak to the caller.
        words: What the caller is told, in order; nothing: the dispatcher tells the caller.
        probe: Where the server says that nobody listens there, but for the last token.
        count: How many messages the caller was told before.
        subject: Where the dispatcher is told.
    """

    __slots__ = ("_count", "_probe", "_subject", "_words", "leave", "report")

    def __init__(self, leave: Leave, words: tuple[Words, ...], probe: str, count: int, subject: str) -> None:
        self.leave = leave
        self._words = words
        self._probe = probe
        self._count = count
        self._subject = subject
        self.report = b""
        """What the dispatcher is told, once it is known."""

    def is_enough(self) -> None:
        """The caller is told nothing more: whoever gave the attempt up has told it, or it asked for that."""
        self._words = ()

    @property
    def chunks(self) -> int | None:
        """Of a stream, how many messages it has, without an empty one that ends it."""
        told = self._words[-1].headers.get(CHUNKS) if self._words else None
        return None if told is None else int(told)

    @property
    def size(self) -> int:
        """Its bytes, about."""
        return sum(words.size for words in self._words) + len(self.leave.inbox) + len(self._subject)

    def tell_caller(self, bus: Bus) -> None:
        """Ends the caller's answer.

        Raises:
            NotConnected: The connection is down.
        """
        for number, words in enumerate(self._words, 1):
            told = "end" if number == len(self._words) else str(self._count + number)
            bus.publish(self.leave.inbox, words.data, reply=f"{self._probe}.{told}", headers=words.headers)

    def tell_dispatcher(self, bus: Bus, on_answer: OnReply | None = None) -> None:
        """Reports to the dispatcher; as a question, when somebody waits for its answer.

        Raises:
            NotConnected: The connection is down; `on_answer` will not be called.
        """
        if on_answer is not None:
            bus.ask(self._subject, self.report, on_answer, timeout_s=REPORT_ACK_S)
        elif self.report:
            bus.publish(self._subject, self.report)


class Farewells(Part):
    """The ends of one node's attempts, each known by the token of its stream.

    Args:
        bus: The connection.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._kept: KeptEnds[End] = KeptEnds()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._forget_refusals: Callable[[], None] | None = None

    async def start(self) -> None:
        """Follows what becomes of the connection."""
        self._bus.on_disconnect(self._on_disconnect)
        self._bus.on_reconnect(self._on_reconnect)
        self._bus.on_cluster_change(self._on_cluster_change)
        self._forget_refusals = self._bus.on_refused(self._on_refused)

    async def close(self) -> None:
        """Says nothing again any more."""
        self._bus.forget_callbacks(self._on_disconnect, self._on_reconnect, self._on_cluster_change)
        if self._forget_refusals is not None:
            self._forget_refusals()
        if self._timer is not None:
            self._timer.cancel()

    def begin(self, stream: str, end: End, *, is_said: bool, is_wanted: bool) -> None:
        """An attempt ended: its caller is told first.

        Args:
            stream: Its token.
            end: What is to be said.
            is_said: Whether the caller was told already.
            is_wanted: Whether the caller still waits for it, as far as is known.
        """
        try:
            if not is_said:
                end.tell_caller(self._bus)
            is_said = self._bus.is_connected
        except NotConnected:
            is_said = False
        if not is_wanted:
            end.is_enough()
        now = time.monotonic()
        self._kept.keep(stream, end, end.size, now, is_said=is_said)
        self._look_at(now + _LOOK_EVERY_S)

    def report(self, stream: str, end: End, report: bytes, on_answer: OnReply | None = None) -> None:
        """And then its dispatcher; `on_answer` gets JetStream's acknowledgement of the outcome, or the error."""
        end.report = report
        try:
            end.tell_dispatcher(self._bus, on_answer)
        except NotConnected as error:
            self._kept.unsaid(stream)
            if on_answer is not None:
                on_answer(error)

    def refused(self, stream: str) -> None:
        """The server says that nobody got the end of this attempt's answer."""
        due_at = self._kept.refused(stream, time.monotonic())
        if due_at is not None:
            self._look_at(due_at)

    def leave_lost(self, stream: str) -> None:
        """The server did not let the end of this attempt's answer through: asks for leave, and says it again."""
        end = self._kept.get(stream)
        if end is not None and not end.leave.is_asked:
            self.refused(stream)  # later too, should nobody give leave now
            end.leave.ask(lambda: self.say_again(stream))

    def say_again(self, stream: str) -> None:
        """Somebody asks how this attempt ended."""
        end = self._kept.get(stream)
        if end is not None:
            self._say(stream, end)

    def _on_refused(self, subject: str) -> None:
        for stream in [key for key, end in self._kept.items() if end.leave.inbox.lower() == subject]:
            self.leave_lost(stream)

    def _on_disconnect(self) -> None:
        self._kept.lost(self._bus.proven_mono_s)

    def _on_reconnect(self) -> None:
        self._kept.connected(time.monotonic())
        self._say_due()

    def _on_cluster_change(self) -> None:
        self._kept.expire(time.monotonic(), self._bus.proven_mono_s)
        self._kept.doubted(time.monotonic())
        self._say_due()

    def _say_due(self) -> None:
        due = self._kept.due(time.monotonic())
        for stream, end in due:
            self._say(stream, end)
        if due:
            log.info("said again how %d attempts ended", len(due), extra={"action": "ends_said_again"})
        next_at = self._kept.next_at()
        if next_at is not None:
            self._look_at(next_at)

    def _say(self, stream: str, end: End) -> None:
        try:
            end.tell_caller(self._bus)
            end.tell_dispatcher(self._bus)
        except NotConnected:
            self._kept.unsaid(stream)
        else:
            self._kept.said(stream, time.monotonic())

    def _look_at(self, at: float) -> None:
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._kept.expire(now, self._bus.proven_mono_s)
        if len(self._kept):
            self._look_at(now + _LOOK_EVERY_S)
        self._say_due()
