"""Interest in a subject, ended at once or soon."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from sollol_bus.errors import NotConnected
from sollol_bus.transport.messages import Msg

log = logging.getLogger(__name__)

_DRAIN_S = 2.0


class Connection(Protocol):
    """What a subscription needs of its connection."""

    def announce_leaving(self, sid: int) -> None:
        """Tells the server that a subscription ends."""

    def forget(self, sid: int) -> None:
        """Ends a subscription."""

    def forget_soon(self, sid: int) -> None:
        """Ends a subscription a moment later, together with others."""

    async def flush(self) -> None:
        """Returns when the server has sent what it had."""


class Subscription:
    """Interest in a subject; `unsubscribe` ends it at once.

    It stands in the client library's own table, and there in place of the future of a single answer. The library's own
    kind keeps a queue and a task for each subscription and wakes that task for each message.

    Args:
        client: The connection.
        number: By which the server knows it.
        subject: The subject, or pattern.
        queue: The queue group; empty for none.
        handler: Takes each message as soon as it is read; what it raises is logged and ends nothing.
    """

    __slots__ = ("_client", "_id", "_queue", "_received", "_subject", "handler", "is_over")

    # what the library looks for in every subscription, when it connects anew or closes
    _jsi = _message_iterator = _pending_next_msgs_calls = _wait_for_msgs_task = None
    _max_msgs = 0

    def __init__(
        self,
        client: Connection,
        number: int,
        subject: str,
        queue: str,
        handler: Callable[[Msg], None],
    ) -> None:
        self._client = client
        self._id = number
        self._subject = subject
        self._queue = queue
        self._received = 0
        self.handler = handler
        """Takes each message; whoever calls it says with `failed` what it raised."""
        self.is_over = False
        """Whether it was ended, or is about to be."""

    @property
    def subject(self) -> str:
        """The subject, or pattern."""
        return self._subject

    def unsubscribe(self) -> None:
        """Ends the interest; messages already received are dropped. Safe to call twice and when disconnected."""
        if not self.is_over:
            self.is_over = True
            self._client.forget(self._id)

    async def drain(self) -> None:
        """Ends the interest; what the server sent before it heard of that is still handled when this returns."""
        if self.is_over:
            return
        self.is_over = True
        self._client.announce_leaving(self._id)
        # never cancelled: the library would read no more
        asked = asyncio.get_running_loop().create_task(self._client.flush(), name=f"drains {self._subject}")
        asked.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait((asked,), timeout=_DRAIN_S)
        self._client.forget(self._id)

    def unsubscribe_soon(self) -> None:
        """Ends the interest a moment later, together with others: a write less for each."""
        if not self.is_over:
            self.is_over = True
            self._client.forget_soon(self._id)

    # -- for the connection -------------------------------------------------------------------------------

    @property
    def _future(self) -> Subscription:
        return self

    def cancelled(self) -> bool:
        """Whether messages are no longer wanted: never, a subscription is ended instead."""
        return False

    def set_result(self, msg: Msg) -> None:
        """Takes one message."""
        try:
            self.handler(msg)
        except Exception as error:  # noqa: BLE001 it is logged, and ends nothing
            self.failed(msg, error)

    def failed(self, msg: Msg, error: Exception) -> None:
        """The handler raised this."""
        if isinstance(error, NotConnected):
            log.info("lost the connection while handling %s: %s", msg.subject, error, extra={"action": "handler_cut"})
        else:
            extra = {"action": "handler_failed"}
            log.error("handling a message on %s failed", msg.subject, exc_info=error, extra=extra)
