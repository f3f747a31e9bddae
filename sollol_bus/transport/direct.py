"""The client library's connection with a short way in and out for each message: plain functions, no queue, no task.

What is published in one turn of the loop leaves in one write at its end, or in a few when it is much. When the socket
takes no more, what is published waits here until it does, and `Bus.make_room` for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import nats.errors
from nats.aio.client import Client as NatsClient
from nats.protocol.command import sub_cmd, unsub_cmd

from sollol_bus.transport.messages import Msg
from sollol_bus.transport.sockets import SocketTransport
from sollol_bus.transport.subscription import Subscription
from sollol_bus.transport.wire import MessageParser, plain_headers

_WEB_SOCKETS: Final = ("ws", "wss")
_PART: Final = 16
"""When so many commands wait to leave, they do: whoever gets them can begin while the rest are being made."""
_LEAVE_WITHIN_S: Final = 0.05
"""How long `forget_soon` collects subscriptions to end."""


class DirectClient(NatsClient):
    """A connection that sends at the end of the turn, and hands over what comes at once."""

    def __init__(self) -> None:
        super().__init__()
        self._ps: MessageParser = MessageParser(self)
        self._loop = asyncio.get_running_loop()
        self._is_write_due = False
        self._is_full = False
        """Whether the socket takes no more."""
        self._is_drain_due = asyncio.Event()
        """Set while what was given to a web socket waits to be sent."""
        self._leaving: list[int] = []

    # -- out ----------------------------------------------------------------------------------------------

    def send(self, command: bytes) -> bool:
        """Sends a publication at the end of this turn of the loop or sooner; False when the connection is down."""
        if self._status != NatsClient.CONNECTED:
            return False
        self.stats["out_msgs"] += 1
        self._pending.append(command)
        self._pending_data_size += len(command)
        if not self._is_write_due:
            self._write_soon()
        elif len(self._pending) >= _PART:
            self._write_now()
        return True

    def _write_soon(self) -> None:
        self._is_write_due = True
        self._loop.call_soon(self._write)

    async def _flush_pending(self, force_flush: bool = False) -> None:  # noqa: ARG002 the library's own signature
        if not self._is_write_due:
            self._write_soon()

    def _command(self, command: bytes) -> None:
        self._pending.append(command)
        self._pending_data_size += len(command)
        if not self._is_write_due:
            self._write_soon()

    def hasten(self) -> None:
        """Sends what was published now, unless more has been read that may publish too: then behind that."""
        if not self._ps.has_more:
            self._write_now()

    def _write(self) -> None:
        self._is_write_due = False
        self._write_now()

    def _write_now(self) -> None:
        transport = self._transport
        if self._is_full or self._status != NatsClient.CONNECTED or transport is None:
            return
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        if not pending:
            return
        try:
            transport.write(b"".join(pending))
        except RuntimeError:  # uvloop: it is closed, which its reader notices
            return
        if not isinstance(transport, SocketTransport):  # a web socket sends only when it is waited for
            self._is_full = True
            self._is_drain_due.set()

    def _on_full(self, is_full: bool) -> None:
        self._is_full = is_full
        if not is_full:
            self._write()

    async def _flusher(self) -> None:
        """Waits for a web socket to send; without this task the library takes the connection for broken."""
        assert self._transport is not None
        while True:
            await self._is_drain_due.wait()
            self._is_drain_due.clear()
            try:
                await self._transport.drain()  # type: ignore[no-untyped-call]
            except OSError as error:
                await self._error_cb(error)
                await self._process_op_err(error)
                return
            self._on_full(False)

    async def _connect_to_server(self, s: Any) -> None:  # noqa: ANN401 the library's own entry of its list
        if not self._transport and s.uri.scheme not in _WEB_SOCKETS:
            self._transport = SocketTransport(self._on_full)
        await super()._connect_to_server(s)

    async def _process_connect_init(self) -> None:
        self._is_full = False
        self._is_drain_due.clear()
        self._pending.clear()  # publications of the last connection are lost with it; subscriptions are made anew
        self._pending_data_size = 0
        await super()._process_connect_init()

    # -- in -----------------------------------------------------------------------------------------------

    def take(self, data: bytes) -> bool:
        """Takes what came, and sends what was published about it; False: next is something for the library.

        Raises:
            ProtocolError: It is not NATS' protocol.
        """
        if self._status != NatsClient.CONNECTED:
            return True  # of a connection that is being left
        self._is_write_due = True
        try:
            return self._ps.feed(data)
        finally:
            self._write()

    def deliver(self, sid: int, subject: bytes, reply: bytes, data: bytes, block: bytes) -> bool:
        """Hands a message to its subscription; False when it is odd, and the library's to read."""
        subscription: Any = self._subs.get(sid)
        if subscription is None:
            return True
        headers = plain_headers(block) if block else None
        if (block and headers is None) or not isinstance(subscription, Subscription):
            return False
        try:
            msg = Msg(self, subject.decode(), reply.decode(), data, headers, None, False, sid)
        except UnicodeDecodeError:
            return False
        try:
            subscription.handler(msg)
        except Exception as error:  # noqa: BLE001 it is logged, and ends nothing
            subscription.failed(msg, error)
        return True

    def listen(self, subject: str, queue: str, handler: Callable[[Msg], None]) -> Subscription:
        """Subscribes.

        Raises:
            nats.errors.Error: The connection is closed.
        """
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        self._sid += 1
        subscription = Subscription(self, self._sid, subject, queue, handler)
        self._subs[self._sid] = subscription  # type: ignore[assignment]  # in place of the library's own kind
        self._command(sub_cmd(subject, queue, self._sid))
        return subscription

    def announce_leaving(self, sid: int) -> None:
        """Tells the server that a subscription ends; what it sent before that is still handed over."""
        if self.is_connected:
            self._command(unsub_cmd(sid, 0))

    def forget(self, sid: int) -> None:
        """Ends a subscription."""
        if self._subs.pop(sid, None) is not None:
            self.announce_leaving(sid)

    def forget_soon(self, sid: int) -> None:
        """Ends a subscription a moment later, together with others."""
        if not self._leaving:
            self._loop.call_later(_LEAVE_WITHIN_S, self._forget_leaving)
        self._leaving.append(sid)

    def _forget_leaving(self) -> None:
        leaving, self._leaving = self._leaving, []
        gone = [unsub_cmd(sid, 0) for sid in leaving if self._subs.pop(sid, None) is not None]
        if gone and self.is_connected:
            self._command(b"".join(gone))
