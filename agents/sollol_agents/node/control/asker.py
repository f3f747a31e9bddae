"""Whoever asked for an operation that may take long: told how it goes, and missed when nobody listens any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sollol_bus.errors import BusError, NotConnected
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, is_no_responders
from sollol_schemas.control import STILL_AT_IT
from sollol_schemas.errors import ErrorBody

_STILL_EVERY_S: Final = 2.0
_LAST_WORDS_EVERY_S: Final = 0.5
_LAST_WORDS_TIMES: Final = 30
"""Whoever waits gives leave anew when nothing was heard for some seconds; twice as long as that takes."""


class Asker:
    """The inbox of whoever waits for an operation to end.

    Args:
        bus: The connection.
        inbox: Where it is told; empty: nobody waits, and nobody is missed.
        is_stream: Whether it takes many messages; else the one answer is all that it is told.
    """

    def __init__(self, bus: Bus, inbox: str, *, is_stream: bool) -> None:
        self._bus = bus
        self._inbox = inbox
        self._is_stream = is_stream
        self._refusals = bus.reply_inbox(self._on_refusal)
        self._forget_losses = bus.on_refused(self._on_loss)
        self._is_lost = False
        self._timer: asyncio.TimerHandle | None = None
        self.has_left = False
        """Whether the server said that nobody listens there."""
        self.on_left: Callable[[], None] | None = None
        """Called once when it did."""
        if inbox and is_stream:
            self._beat()

    def tell(self, data: bytes) -> None:
        """Tells a part of the answer; one that is not empty is missed when it reaches nobody.

        Raises:
            NotConnected: The connection is down.
        """
        if self._inbox:
            self._bus.publish(self._inbox, data, reply=self._refusals.subject if data else "")

    async def tell_end(self, *words: bytes) -> None:
        """Tells the end.

        Raises:
            NotConnected: The connection is down.
        """

        def say() -> None:
            for data in words:
                self.tell(data)

        await self._say_until_heard(say)

    async def tell_failure(self, error: ErrorBody) -> None:
        """Tells the end that was none.

        Raises:
            NotConnected: The connection is down.
        """

        def say() -> None:
            self._bus.respond_error(self._inbox, error)
            if self._is_stream:
                self.tell(b"")

        await self._say_until_heard(say)

    async def _say_until_heard(self, say: Callable[[], None]) -> None:
        """Says it again and again while the server lets nothing through: whoever waits gives leave anew."""
        for _ in range(_LAST_WORDS_TIMES):
            self._is_lost = False
            say()
            if not self._is_stream or not self._inbox:
                return
            await self._bus.flush()  # the server refuses before it answers this
            if not self._is_lost:
                return
            await asyncio.sleep(_LAST_WORDS_EVERY_S)

    def close(self) -> None:
        """Misses nobody any more."""
        self._forget_losses()
        if self._timer is not None:
            self._timer.cancel()
        self._refusals.close()

    def _beat(self) -> None:
        """Comes again and again, so that both sides learn soon when the other one is gone."""
        if self._timer is not None:
            try:
                self.tell(STILL_AT_IT)
            except NotConnected:
                return
        self._timer = asyncio.get_running_loop().call_later(_STILL_EVERY_S, self._beat)

    def _on_loss(self, subject: str) -> None:
        self._is_lost = self._is_lost or subject == self._inbox.lower()

    def _on_refusal(self, reply: Msg | BusError) -> None:
        if self.has_left or not isinstance(reply, Msg) or not is_no_responders(reply) or self._bus.is_settling:
            return
        self.has_left = True
        if self.on_left is not None:
            self.on_left()
