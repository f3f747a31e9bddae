"""Interest in a subject, ended at once or soon, and coroutines of the client library that never suspend."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import nats.errors
from nats.aio.subscription import Subscription as NatsSubscription

from sollol_bus.errors import NotConnected
from sollol_bus.transport.messages import Msg

log = logging.getLogger(__name__)

LEAVE_WITHIN_S = 0.05
"""How long `unsubscribe_soon` collects subscriptions to end."""
_DRAIN_S = 2.0


class Subscription:
    """Interest in a subject; `unsubscribe` ends it at once."""

    __slots__ = ("_inner", "_leaving", "subject")

    def __init__(self, inner: NatsSubscription, subject: str, leaving: Leaving) -> None:
        self._inner: NatsSubscription | None = inner
        self._leaving = leaving
        self.subject = subject

    def unsubscribe(self) -> None:
        """Ends the interest; messages already received are dropped. Safe to call twice and when disconnected."""
        inner, self._inner = self._inner, None
        if inner is not None:
            _end(inner)

    async def drain(self) -> None:
        """Ends the interest; what the server sent before it heard of that is still handled when this returns."""
        inner, self._inner = self._inner, None
        if inner is None:
            return
        # never cancelled: the library would read no more
        draining = asyncio.get_running_loop().create_task(inner.drain(), name=f"drains {self.subject}")  # type: ignore[no-untyped-call]
        draining.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait((draining,), timeout=_DRAIN_S)
        if not draining.done() or draining.exception() is not None:
            _end(inner)

    def unsubscribe_soon(self) -> None:
        """Ends the interest within `LEAVE_WITHIN_S`, together with others: a write less for each."""
        inner, self._inner = self._inner, None
        if inner is not None:
            self._leaving.add(inner)


class Delivery:
    """Hands each message of a subscription to its handler as soon as it is parsed.

    It stands where the client library takes a future for a single answer. Given a callback instead, the library keeps
    a queue and a task for each subscription and wakes that task for each message: a fifth of all processor time.

    Args:
        handler: Takes the messages; what it raises is logged and ends nothing.
    """

    __slots__ = ("_handler",)

    def __init__(self, handler: Callable[[Msg], None]) -> None:
        self._handler = handler

    def cancelled(self) -> bool:
        """Whether messages are no longer wanted: never, a subscription is ended instead."""
        return False

    def set_result(self, msg: Msg) -> None:
        """Takes one message."""
        try:
            self._handler(msg)
        except NotConnected as error:
            log.info("lost the connection while handling %s: %s", msg.subject, error, extra={"action": "handler_cut"})
        except Exception:
            log.exception("handling a message on %s failed", msg.subject, extra={"action": "handler_failed"})


class Leaving:
    """Subscriptions of one connection that end together a moment later."""

    def __init__(self) -> None:
        self._waiting: list[NatsSubscription] = []

    def add(self, inner: NatsSubscription) -> None:
        """Ends one with the others of the same moment."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(LEAVE_WITHIN_S, self._end_all)
        self._waiting.append(inner)

    def _end_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for inner in waiting:
            _end(inner)


def run_at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 the coroutine's own result
    """The result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("the client library suspended where it must not")


def _end(inner: NatsSubscription) -> None:
    try:
        run_at_once(inner.unsubscribe())
    except nats.errors.Error as error:
        log.debug("unsubscribe: %s", error)
