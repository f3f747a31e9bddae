"""The right of one attempt to speak into its caller's inbox, as the node knows it.

The server gives it with a message whose reply subject that inbox is, and lets nothing through without it: after
`LEAVE_S`, or on another connection. Given again before it has ended it ends no later, so a long answer pauses: it stops
a few seconds before the end, for the server began to count earlier than the node, and goes on behind it.
Where the server gives and takes no such right, all of this does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Final

from sollol_bus.errors import BusError, NotConnected
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decoded, encode
from sollol_schemas import subjects
from sollol_schemas.control import LeaveReply, LeaveRequest
from sollol_schemas.inboxes import LEAVE_S

log = logging.getLogger(__name__)

_EARLY_S: Final = 5.0
_LATE_S: Final = 0.5
_ANSWER_S: Final = 2.0
_RETRY_S: Final = 0.25
_RETRIED_S: Final = 30.0


class Leave:
    """Leave to speak into one inbox.

    Args:
        bus: The node's connection.
        node_id: The node.
        inbox: Where.
        ticket: What gets it again; empty: nothing does.
        lasts_s: How long it lasts.
        is_given: Whether it is given already, and counts from now; else it is with the dispatcher's first `go`.
    """

    __slots__ = ("_bus", "_lasts_s", "_node_id", "_ticket", "_until", "inbox", "is_asked")

    def __init__(
        self,
        bus: Bus,
        node_id: str,
        inbox: str,
        ticket: str,
        lasts_s: float = LEAVE_S,
        *,
        is_given: bool = True,
    ) -> None:
        self._bus = bus
        self.inbox = inbox
        self._node_id = node_id
        self._ticket = ticket
        self._lasts_s = lasts_s
        self._until = time.monotonic() + lasts_s if is_given else -math.inf
        self.is_asked = False
        """Whether a question for it is open."""

    @property
    def is_given(self) -> bool:
        """Whether it was given, or is not needed."""
        return self._until > -math.inf

    def given(self) -> None:
        """It came just now, unless it had before."""
        if not self.is_given:
            self._until = time.monotonic() + self._lasts_s

    def is_ending(self, now: float) -> bool:
        """Whether nothing should be said any more before `renew`."""
        return now > self._until - _EARLY_S

    def ask(self, on_given: Callable[[], None]) -> None:
        """Asks for it anew, unless it is asked already; `on_given` is called when it was given."""
        if not self._ticket or self.is_asked:
            return

        def on_answer(answer: Msg | BusError) -> None:
            self.is_asked = False
            told = None if isinstance(answer, BusError) else decoded(answer, LeaveReply)
            if told is not None and told.is_given:
                self._until = time.monotonic() + self._lasts_s
                on_given()

        try:
            question = encode(LeaveRequest(inbox=self.inbox, ticket=self._ticket))
            self._bus.ask(subjects.LEAVE_WANTED.of(self._node_id), question, on_answer, timeout_s=_ANSWER_S)
            self.is_asked = True
        except NotConnected:
            log.debug("no leave asked for: no connection")

    async def renew(self) -> None:
        """Waits until it has ended, and returns when it was given anew; or when nobody gives it, and all goes on."""
        await asyncio.sleep(max(0.0, self._until + _LATE_S - time.monotonic()))
        given = asyncio.Event()
        until = time.monotonic() + _RETRIED_S
        while self._ticket and not given.is_set() and time.monotonic() < until:
            self.ask(given.set)
            try:
                async with asyncio.timeout(_RETRY_S):
                    await given.wait()
            except TimeoutError:
                continue
        self._until = time.monotonic() + self._lasts_s
