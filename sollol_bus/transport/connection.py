"""The connection of one actor to the bus.

Every nats-py call and exception passes through here. `Bus.publish` and `Bus.subscribe` are plain functions and may be
called from callbacks: they append to a buffer that leaves at the end of the loop's turn.

Guarded against (each seen in nats-py 2.16): a cancelled `flush` kills the read loop silently, so flushes are
shielded; output buffered during an outage is delivered long after, so nothing is buffered (`pending_size=-1`) and
publishing raises instead; an exception inside `error_cb` ends the read loop, so it never raises; a payload over the
limit closes the client for good, so sizes are checked here, those of headers too: they count to the message's size.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client as NatsClient

from sollol_bus.alarms import Alarms
from sollol_bus.errors import BusError, ConfigError, NotConnected, PayloadTooLarge
from sollol_bus.observe.meter import Meter
from sollol_bus.observe.tracing import Tracer
from sollol_bus.transport.callbacks import Callbacks, Change
from sollol_bus.transport.clock import Clock
from sollol_bus.transport.config import BusConfig
from sollol_bus.transport.connecting import advice, is_absence, within
from sollol_bus.transport.credentials import credentials_of
from sollol_bus.transport.endpoints import Endpoints
from sollol_bus.transport.messages import Msg, encode, error_headers, reply_too_large
from sollol_bus.transport.mux import Mux, OnReply, ReplyInbox, unguessable
from sollol_bus.transport.naming import named, of_members, own_subjects
from sollol_bus.transport.reading import SturdyClient
from sollol_bus.transport.subscription import Subscription
from sollol_bus.transport.wire import block_of, publication
from sollol_bus.waiting import forget_failure
from sollol_schemas.errors import ErrorBody
from sollol_schemas.headers import CHUNKS
from sollol_schemas.subjects import V1, by_members

__all__ = ["INBOX_ROOT", "PAYLOAD_MARGIN_BYTES", "SETTLING_S", "Bus", "BusConfig", "NoServer"]

log = logging.getLogger(__name__)

PAYLOAD_MARGIN_BYTES = 65_536
"""Kept free below the server's payload limit for headers."""
INBOX_ROOT = "_INBOX"
"""Every inbox begins so. Whoever asks chooses the reply subject: elsewhere nobody may make us speak."""
SETTLING_S = 3.0
"""After its own reconnect, or a change of the cluster, an actor believes no 503 for so long: others come back too."""
_HIGH_WATER_BYTES = 1 << 20
_PONG_WITHIN_S = 30
"""Longer than it takes to notice that a server is gone: a pong that came after it would end the reading."""
_PLAIN = f"{V1}."
_PUBLISH_REFUSED = "permissions violation for publish to "


class NoServer(ConfigError, NotConnected):
    """No NATS server answers at the address, as far as that is known: it may only not have started yet."""


class Bus(Callbacks):
    """A connection to the bus; make one with `Bus.connect`."""

    def __init__(self, config: BusConfig, caller: str = "") -> None:
        super().__init__()
        self.config = config
        self.clock = Clock()
        """What time it is by the server, once somebody asked it; see `ServerTime`."""
        self.closed: asyncio.Event = asyncio.Event()
        """Set when the connection is closed for good, on purpose or not."""
        self.close_reason: str = ""
        self.reconnects = 0
        self.meter: Meter | None = None
        """Who counts what this actor does; nobody, unless metrics are on."""
        self.tracer: Tracer | None = None
        """Who traces requests; nobody, unless tracing is on."""
        self.endpoints = Endpoints()
        needs_tls = config.tls_ca_file is not None or "tls://" in config.url
        self._nc = SturdyClient(needs_tls=needs_tls, on_cluster_change=self._on_cluster_changed)
        self._loop = asyncio.get_running_loop()
        self.alarms = Alarms(self._loop)
        """For whoever sets one for every request."""
        self._settled_at = 0.0
        self._mux: Mux | None = None
        self._is_closing = False
        self._refused = asyncio.Event()
        self._inboxes = unguessable()
        self.caller = caller
        """Under whose name this connection asks; empty: nobody's in particular."""
        self._own_subjects = own_subjects(caller)

    # -- life ---------------------------------------------------------------------------------------------

    @classmethod
    async def connect(cls, config: BusConfig, *, tls: ssl.SSLContext | None = None) -> Bus:
        """A connected bus; `tls` stands in place of what the settings say of encryption.

        Raises:
            NoServer: No server answers at the address within `connect_timeout_s`.
            ConfigError: It refuses us, or is not what it should be; or a file that the settings name cannot be read.
        """
        if not config.url:
            raise ConfigError("the address of the NATS server is empty; name one with --nats or SOLLOL_NATS")
        credentials = credentials_of(config) | ({} if tls is None else {"tls": tls})
        bus = cls(*await asyncio.to_thread(named, config))  # reads a file
        try:
            await within(config.connect_timeout_s, bus._connect(credentials), bus._refused)
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await bus._abandon()
            why = bus.close_reason or str(error) or "no answer"
            kind = NoServer if is_absence(why) else ConfigError
            raise kind(f"cannot connect to NATS at {config.url}: {why}. {advice(why, config.url)}") from error
        return bus

    async def _connect(self, credentials: dict[str, Any]) -> None:
        config = self.config
        await self._nc.connect(
            servers=config.url.split(","),
            name=config.name,
            inbox_prefix=config.inbox_prefix.encode(),
            pending_size=-1,
            flusher_queue_size=1_000_000,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05 + 0.1 * random.random(),  # type: ignore[arg-type]  # any number works
            connect_timeout=2,
            ping_interval=5,
            max_outstanding_pings=2,
            skip_subject_validation=True,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
            **credentials,
        )
        self._mux = Mux(self.new_inbox(), self.publish, self._loop, self.alarms)
        self.subscribe(self._mux.wildcard, self._mux.on_message)

    async def _abandon(self) -> None:
        self._is_closing = True
        try:
            await asyncio.wait_for(self._nc.close(), 2)
        except (TimeoutError, OSError, RuntimeError, nats.errors.Error) as error:  # uvloop: closed twice
            log.debug("closing a failed connection: %s", error)

    async def close(self) -> None:
        """Sends what is pending and closes; safe to call twice."""
        if self._is_closing:
            return
        if self.is_connected:
            try:
                await self.flush(timeout_s=2.0)
            except BusError as error:
                log.debug("last flush: %s", error)
        await self._abandon()

    # -- state --------------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether messages can be sent now."""
        return self._nc.is_connected and not self._is_closing

    @property
    def is_settling(self) -> bool:
        """Whether the connection came back, or servers came or went, less than 3 s ago: a 503 proves nothing yet."""
        return self._loop.time() < self._settled_at

    @property
    def proven_mono_s(self) -> float:
        """What was published before this moment has reached the server; what came later may have, or not."""
        return self._nc.proven_mono_s

    @property
    def max_payload(self) -> int:
        """Largest payload in bytes: the server's limit less a margin for headers."""
        return int(self._nc.max_payload) - PAYLOAD_MARGIN_BYTES

    @property
    def nats(self) -> NatsClient:
        """The client library's own connection, for what the bus does not wrap."""
        return self._nc

    # -- messages -----------------------------------------------------------------------------------------

    def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Sends a message at the next turn of the loop.

        Raises:
            NotConnected: The connection is down; nothing is buffered for later.
            PayloadTooLarge: The payload exceeds `max_payload`, or the headers what is kept free for them.
        """
        nc, block = self._nc, b""
        if subject in self.endpoints.open:
            self.endpoints.answered(subject, headers)
        if self._own_subjects and subject.startswith(_PLAIN):
            subject = self._own_subjects + subject[len(_PLAIN) :]
        if len(payload) + PAYLOAD_MARGIN_BYTES > nc._max_payload:  # noqa: SLF001 read for every message
            raise PayloadTooLarge(f"{len(payload)} bytes exceed the limit of {self.max_payload} bytes")
        if headers:
            block = block_of(headers)
            if len(block) > PAYLOAD_MARGIN_BYTES:
                raise PayloadTooLarge(f"{len(block)} bytes of headers exceed the limit of {PAYLOAD_MARGIN_BYTES} bytes")
        if not nc.send(publication(subject, reply, payload, block)):
            raise NotConnected(f"cannot publish to {subject}: the connection is {'closed' if nc.is_closed else 'down'}")

    def hasten(self) -> None:
        """Sends what was published now, not at the end of the turn; when more was read, behind what that publishes.

        For whoever has published what somebody waits for, and goes on with what nobody does: a write more, and sooner.
        """
        self._nc.hasten()

    @property
    def is_crowded(self) -> bool:
        """Whether more than 1 MiB is waiting to leave."""
        return self._nc._pending_data_size > _HIGH_WATER_BYTES  # noqa: SLF001 asked behind every piece of an answer

    async def make_room(self) -> None:
        """Waits until less than 1 MiB is waiting to leave; call it in loops that publish without a pause."""
        if self.is_crowded:
            await self.flush()

    def subscribe(self, subject: str, handler: Callable[[Msg], None], *, queue: str = "") -> Subscription:
        """Calls `handler` for each message, in order; what it raises is logged and ends nothing.

        Raises:
            NotConnected: The connection is closed.
        """
        try:
            return self._nc.listen(subject, queue, handler)
        except nats.errors.Error as error:
            raise NotConnected(f"cannot subscribe to {subject}: {error}") from error

    def serve(self, subject: str, handler: Callable[[Msg], None], *, queue: str = "") -> tuple[Subscription, ...]:
        """Like `subscribe`, for requests: they are counted, and what members ask is taken under their names too.

        Of those the handler gets the plain subject, and the header `Sollol-Caller`, which then is true.
        """
        endpoint, take = self.endpoints.counting(subject, queue, handler)
        endpoint.taken_by = (self.subscribe(subject, take, queue=queue),)
        if endpoint.is_for_members:
            endpoint.taken_by += (self.subscribe(by_members(subject), of_members(take), queue=queue),)
        return endpoint.taken_by

    def new_token(self) -> str:
        """128 random bits as 32 hexadecimal digits, to be a secret or an id."""
        return next(self._inboxes)

    def new_inbox(self) -> str:
        """A fresh inbox subject of this connection, to subscribe to; nobody can guess it."""
        return f"{self.config.inbox_prefix}.{next(self._inboxes)}"

    def reply_inbox(self, on_reply: OnReply) -> ReplyInbox:
        """An inbox whose replies all go to `on_reply` until it is closed."""
        return ReplyInbox(self._require_mux(), on_reply)

    def ask(
        self,
        subject: str,
        payload: bytes,
        on_reply: OnReply,
        *,
        timeout_s: float = 5.0,
        headers: dict[str, str] | None = None,
    ) -> Callable[[], None]:
        """Publishes a request; `on_reply` gets the reply or the `BusError`. Returns how to withdraw it."""
        return self._require_mux().ask(subject, payload, on_reply, timeout_s=timeout_s, headers=headers)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        timeout_s: float = 5.0,
        headers: dict[str, str] | None = None,
    ) -> Msg:
        """The reply to a request; see `Mux.request` for what it raises."""
        return await self._require_mux().request(subject, payload, timeout_s=timeout_s, headers=headers)

    def answer(self, msg: Msg, payload: bytes) -> None:
        """Answers a request with bytes; one whose reply subject is not an inbox gets no answer."""
        if msg.reply.startswith(INBOX_ROOT):
            self.publish(msg.reply, payload)

    def respond(self, msg: Msg, value: object) -> None:
        """Answers a request with a Struct, into an inbox only; one too long for a message is an error that says so."""
        payload = encode(value)
        if len(payload) <= self.max_payload:
            self.answer(msg, payload)
        else:
            self.respond_error(msg.reply, reply_too_large(len(payload), self.max_payload))

    def respond_error(self, reply: str, error: ErrorBody, *, is_stream: bool = False) -> None:
        """Answers with an error, into an inbox only; whoever waits for a stream gets its end behind it."""
        self.endpoints.over(reply, error.code.value)
        if reply.startswith(INBOX_ROOT):
            self.publish(reply, encode(error), headers=error_headers(error))
            if is_stream:
                self.publish(reply, headers={CHUNKS: "1"})

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Returns when the server has processed everything published so far.

        Raises:
            NotConnected: The connection is down or did not answer in time.
        """
        await self._pong(timeout_s)

    async def measure_rtt(self, timeout_s: float = 2.0) -> float:
        """Seconds that a message to the server and back takes."""
        began = time.perf_counter()  # the loop's own clock is cached and coarse
        await self._pong(timeout_s)
        return time.perf_counter() - began

    async def _pong(self, timeout_s: float) -> None:
        pong = self._loop.create_task(self._nc.flush(timeout=_PONG_WITHIN_S), name="bus pong")
        pong.add_done_callback(forget_failure)  # one that comes too late, or never, is nobody's any more
        try:
            await asyncio.wait_for(asyncio.shield(pong), timeout_s)
        except (TimeoutError, OSError, nats.errors.Error) as error:
            raise NotConnected(f"no answer of the server to a ping within {timeout_s:g} s {error}".rstrip()) from error

    def _require_mux(self) -> Mux:
        if self._mux is None:
            raise NotConnected("the bus is not connected yet")
        return self._mux

    # -- callbacks of the client library ------------------------------------------------------------------

    async def _on_error(self, error: Exception) -> None:
        try:
            self.close_reason = str(error) or type(error).__name__
            self._heed_refusal(self.close_reason)
            if not is_absence(self.close_reason) and "," not in self.config.url:  # another server may take us
                self._refused.set()
            log.log(
                logging.DEBUG if self._is_closing or not self._nc.is_connected else logging.WARNING,
                "bus: %s",
                self.close_reason,
                extra={"action": "bus_error"},
            )
        except Exception:  # noqa: BLE001, S110 an exception here would end the read loop silently
            pass

    def _heed_refusal(self, text: str) -> None:
        """The server refuses a publish some time after it; whoever waits for an answer to it is told."""
        _, is_refusal, subject = text.partition(_PUBLISH_REFUSED)
        if is_refusal:
            refused = subject.strip().strip('"')
            if self._own_subjects and refused.startswith(self._own_subjects.lower()):
                refused = _PLAIN + refused[len(self._own_subjects) :]
            if self._mux is not None:
                self._mux.refuse(refused)
            for callback in list(self._on_refused):
                callback(refused)

    async def _on_disconnected(self) -> None:
        if self._is_closing:
            return
        log.warning("disconnected from the bus", extra={"action": "bus_disconnected"})
        if self._mux is not None:
            self._mux.fail_all()
        self._tell(Change.LOST)

    async def _on_reconnected(self) -> None:
        self.reconnects += 1
        self._settled_at = self._loop.time() + SETTLING_S
        log.warning("reconnected to the bus", extra={"action": "bus_reconnected"})
        self._tell(Change.BACK)

    def _on_cluster_changed(self) -> None:
        log.info("servers of the cluster came or went", extra={"action": "bus_cluster_changed"})
        self._settled_at = self._loop.time() + SETTLING_S
        self._tell(Change.CLUSTER)

    async def _on_closed(self) -> None:
        if not self._is_closing:
            self.close_reason = str(self._nc.last_error or self.close_reason)  # the callback of errors is not told all
            log.error("the bus connection is closed for good: %s", self.close_reason, extra={"action": "bus_closed"})
        self.closed.set()
        self._tell(Change.CLOSED)
