"""The client library's connection, made so that nothing that arrives ends its reading or strips it of TLS.

nats-py 2.16 parses the headers of a message inside its read loop, and leaves the loop without a word when that raises:
a block `NATS/1.0` and nothing more (IndexError), or a status line with bytes above 0x7f (UnicodeDecodeError), which the
server forwards from anybody. The connection is then deaf until its pings fail, and a stored message of this kind comes
again and again. Here such a message is dropped with a line in the log, ended for good where it was stored, and a read
loop that ends for whatever reason begins anew at once.

The library speaks TLS when the server's first line asks for it, and sends credentials in clear when it does not: a
line that anybody on the way may change. Where TLS was asked for here, nothing is sent without it.

A server that stops without a word is noticed seconds later, and what was published meanwhile is lost. Each answer to a
ping proves that the server had everything published before that ping: the library sends a ping before what waits to
leave, here it goes behind it. Leaving such a server, the library waits until all that waits is sent, which is never;
here it is dropped. The server's news of which servers its cluster has is passed on.

A process that did not run for a while finds its connection closed, and what came before that in its socket: requests
that nobody else has. Its first write fails, and with that asyncio drops what is unread. A second descriptor of the
socket keeps that until it has been read. What comes over TLS only the library's transport can read: it is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import nats.errors
from nats.aio.client import Client as NatsClient

from sollol_bus.transport.direct import DirectClient
from sollol_bus.transport.sockets import SocketTransport

log = logging.getLogger(__name__)

NO_TLS: Final = "the server offers no TLS, which the settings ask for"
_ACK_ROOT: Final = b"$JS.ACK."
_TERMINATE: Final = b"+TERM"
_SUBJECT_MAX: Final = 200
_READ_BYTES: Final = 1 << 18


class _Greeting:
    """A transport that sends the first two things it is given as one.

    A server that refuses credentials says so and closes: what comes after them would make it a reset, which may take
    the reason along.
    """

    def __init__(self, transport: Any) -> None:  # noqa: ANN401 any of the library's transports
        self.transport = transport
        self._first = b""

    def write(self, data: bytes) -> None:
        if not self._first:
            self._first = data
        else:
            self.transport.write(self._first + data)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 whatever the transport has
        return getattr(self.transport, name)


class SturdyClient(DirectClient):
    """A connection of the client library that survives whatever it reads.

    Args:
        needs_tls: Whether nothing may be sent but over TLS.
        on_cluster_change: Called when servers joined or left the cluster of the one it is connected to.
    """

    def __init__(self, *, needs_tls: bool = False, on_cluster_change: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._needs_tls = needs_tls
        self._on_cluster_change = on_cluster_change
        self._cluster: frozenset[str] = frozenset()
        self._pings_sent_at: deque[float] = deque()
        self._unread = -1
        """Another descriptor of the socket, where it can be read; else -1."""
        self.proven_mono_s = 0.0
        """What was published before this moment has reached the server."""

    def _connect_command(self) -> bytes:
        if self._needs_tls and not self._server_info.get("tls_required"):
            raise nats.errors.Error(NO_TLS)
        self._transport = _Greeting(self._transport)  # type: ignore[assignment]  # it does what a transport does
        return super()._connect_command()

    async def _process_connect_init(self) -> None:
        self._pings_sent_at.clear()
        try:
            await super()._process_connect_init()
        finally:
            if isinstance(self._transport, _Greeting):
                self._transport = self._transport.transport
        self._keep_unread()

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        if self._pending and self._transport is not None:
            self._transport.writelines(self._pending[:])
            self._pending = []
            self._pending_data_size = 0
        self._pings_sent_at.append(time.monotonic())
        await super()._send_ping(future)

    async def _process_pong(self) -> None:
        if self._pings_sent_at:
            self.proven_mono_s = self._pings_sent_at.popleft()
        await super()._process_pong()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        await super()._process_info(info, initial_connection)
        before, self._cluster = self._cluster, frozenset(info.get("connect_urls") or ())
        if not initial_connection and self._cluster != before:
            self._on_cluster_change()

    async def _attempt_reconnect(self) -> None:
        self._forget_unread()
        if isinstance(self._transport, SocketTransport):
            self._transport.abort()
        await super()._attempt_reconnect()

    async def _process_op_err(self, e: Exception) -> None:
        is_parsing = asyncio.current_task() is self._reading_task and not isinstance(e, OSError)
        if self.is_connected and not is_parsing:
            await self._read_rest()
        await super()._process_op_err(e)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        self._forget_unread()
        await super()._close(status, do_cbs)

    def _keep_unread(self) -> None:
        self._forget_unread()
        transport = self._transport
        if isinstance(transport, SocketTransport) and transport.told("sslcontext") is None:
            self._unread = os.dup(transport.told("socket").fileno())

    def _forget_unread(self) -> None:
        if self._unread >= 0:
            os.close(self._unread)
            self._unread = -1

    async def _read_rest(self) -> None:
        """Hands out what had come before the connection broke; whoever wants to publish finds it broken."""
        rest = self._transport.kept() if isinstance(self._transport, SocketTransport) else b""
        with contextlib.suppress(OSError):  # nothing more, or the connection was reset
            while self._unread >= 0 and (more := os.read(self._unread, _READ_BYTES)):
                rest += more
        self._forget_unread()
        if not rest:
            return
        log.info("read %d bytes that came before the connection broke", len(rest), extra={"action": "rest_read"})
        self._status = NatsClient.RECONNECTING
        try:
            await self._ps.parse(rest)
        finally:
            self._status = NatsClient.CONNECTED

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except Exception as error:  # noqa: BLE001 the library raises whatever a stranger's bytes make it
            log.warning(
                "dropped a message on %s that cannot be read: %s",
                subject[:_SUBJECT_MAX].decode("utf-8", "replace"),
                type(error).__name__,  # its text quotes the headers, whatever stands in them
                extra={"action": "unreadable_message"},
            )
            if reply.startswith(_ACK_ROOT):
                await self.publish(reply.decode("ascii", "replace"), _TERMINATE)

    async def _read_loop(self) -> None:
        if isinstance(self._transport, SocketTransport):
            await self._follow(self._transport)
        else:
            await super()._read_loop()
        task = asyncio.current_task()
        if self.is_connected and task is not None and not task.cancelling():
            log.warning("reading from the server ended; connecting anew", extra={"action": "reading_ended"})
            await self._process_op_err(nats.errors.UnexpectedEOF())

    async def _follow(self, transport: SocketTransport) -> None:
        """Has messages handed over as they come, and reads what only the library can, until the connection ends."""
        try:
            while not (self.is_closed or self.is_reconnecting):
                await transport.hand_to(self.take)
                await self._ps.parse()
        except nats.errors.UnexpectedEOF as error:
            await self._error_cb(error)
            await self._process_op_err(error)
        except (nats.errors.ProtocolError, OSError) as error:
            await self._process_op_err(error)
        except asyncio.CancelledError:
            pass
        except Exception:
            log.exception("reading from the server failed", extra={"action": "reading_failed"})
