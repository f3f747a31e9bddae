"""A durable consumer of a stream that calls back for each message, with a fixed window in hand.

Pulls are raw and pipelined: several requests for more are outstanding while earlier messages are being handled,
which is about ten times as fast as fetching one at a time. Guarded against: a pull that was outstanding when the
server restarted is lost, so everything is asked for again after a reconnect and after a silence longer than the
heartbeats allow; messages carry the stream's subject and not the inbox's, so each generation of pulls has a
subscription of its own.

Safety: a message is acked only by the handler's `Delivery.ack`; until then, or after `ack_wait_s`, it comes again.
Handlers must therefore bear to see a message twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from sollol_bus.errors import BusError, NotConnected
from sollol_bus.jetstream.api import JetStreamRefused, api
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_bus.transport.subscription import Subscription
from sollol_bus.transport.topology import is_lone
from sollol_bus.waiting import happens
from sollol_schemas.headers import STATUS

log = logging.getLogger(__name__)

_NS = 1_000_000_000
_EXPIRES_S = 30.0
_HEARTBEAT_S = 2.0
_LONE_HEARTBEAT_S = 10.0
"""Of a server that alone serves everybody: it loses no pull but with the connection, or says so."""
_SILENT_BEATS = 2.5
_BESIDE_BYTES = 64 << 10
"""What the server counts of a message beside its payload, at most: its subjects."""
_EVERYTHING: dict[str, object] = {"deliver_policy": "all"}
_IS_DONE = ("Batch Completed", "MaxBytes")
"""In the server's word that a request brought all it was to bring, or that the next message does not fit into it."""
_FAILURES_MAX = 5
"""A message at which its taker fails so often comes no more, where nothing else ends that."""
_RETRY_S = 0.1
_PENDING_MESSAGES = "Nats-Pending-Messages"


class Delivery:
    """One message of a stream, to be settled once by `ack`, `nak` or `term`.

    Settling a second time does nothing. While the bus is down they do nothing but free the place: the
    server delivers the message again.
    """

    __slots__ = ("_consumer", "_is_settled", "_msg", "_tokens", "is_beyond")

    def __init__(self, consumer: PullConsumer, msg: Msg) -> None:
        self.is_beyond = False
        """Whether it takes no place in the window; for the consumer."""
        self._consumer = consumer
        self._msg = msg
        self._is_settled = False
        tokens = msg.reply.split(".")
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>; with a domain and
        # an account's hash in front of the stream, and a random token at the end, on newer servers.
        self._tokens = tokens[4:9] if len(tokens) < 11 else tokens[6:11]

    @property
    def subject(self) -> str:
        """The subject under which the message was stored."""
        return str(self._msg.subject)

    @property
    def data(self) -> bytes:
        """The message's body."""
        return bytes(self._msg.data)

    @property
    def size_bytes(self) -> int:
        """Of the message's body."""
        return len(self._msg.data)

    @property
    def headers(self) -> dict[str, str]:
        """The message's headers, empty when it has none."""
        return self._msg.headers or {}

    @property
    def is_settled(self) -> bool:
        """Whether it was acked, given back or forgotten."""
        return self._is_settled

    @property
    def deliveries(self) -> int:
        """How often the message was delivered, this time included."""
        return int(self._tokens[0])

    @property
    def stream_seq(self) -> int:
        """The message's number in its stream."""
        return int(self._tokens[1])

    @property
    def stored_at_ns(self) -> int:
        """When the server stored it, in nanoseconds of Unix time."""
        return int(self._tokens[3])

    @property
    def pending(self) -> int:
        """Messages that waited for this consumer after this one, when it was delivered."""
        return int(self._tokens[4])

    def ack(self) -> None:
        """It is done; it never comes again, once the server has read this."""
        self._settle(b"+ACK")

    def nak(self, delay_s: float = 0.0) -> None:
        """It was not done; it comes again after `delay_s`."""
        self._settle(b"-NAK" if delay_s <= 0 else b'-NAK {"delay": %d}' % round(delay_s * _NS))

    async def confirmed(self, timeout_s: float) -> None:
        """Returns when the server has read what it was told about this message, and about others before.

        Raises:
            BusError: It did not say so in time.
        """
        await self._consumer.bus.request(self._msg.reply, b"+WPI", timeout_s=timeout_s)

    def term(self, reason: str = "") -> None:
        """It can never be done; it does not come again, and the server publishes the reason."""
        self._settle(b"+TERM " + reason.encode() if reason else b"+TERM")

    def forget(self) -> None:
        """Somebody else has it by now: frees its place and tells the server nothing."""
        if not self._is_settled:
            self._is_settled = True
            self._consumer.on_settled(self)

    def in_progress(self) -> None:
        """It is being worked on: the time until it comes again begins anew."""
        if not self._is_settled:
            self._send(b"+WPI")

    def _settle(self, how: bytes) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._send(how)
            self._consumer.on_settled(self)

    def _send(self, what: bytes) -> None:
        try:
            self._consumer.bus.publish(self._msg.reply, what)
        except NotConnected:
            log.debug("an ack for message %d was not sent: the bus is down", self.stream_seq)


class ConsumerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A durable consumer as the server should keep it; NATS' own tools show what it is `about`."""

    stream: str
    durable: str
    filter_subjects: tuple[str, ...] = ()  # none: everything in the stream
    ack_wait_s: float = 30.0
    max_ack_pending: int = 1000  # messages delivered and not settled, over all who share the durable
    max_deliver: int = -1
    inactive_s: float = 0.0
    """The server forgets a durable that nobody pulls from for so long; 0: never."""
    about: str = ""
    since: str = ""  # when what a new durable begins with was stored; empty: it begins with everything

    def as_request(self) -> dict[str, object]:
        """The request that makes it, or brings it up to date."""
        config: dict[str, object] = {
            "durable_name": self.durable,
            "description": self.about,
            **({"deliver_policy": "by_start_time", "opt_start_time": self.since} if self.since else _EVERYTHING),
            "ack_policy": "explicit",
            "ack_wait": round(self.ack_wait_s * _NS),
            "max_deliver": self.max_deliver,
            "max_ack_pending": self.max_ack_pending,
            "replay_policy": "instant",
            "inactive_threshold": round(self.inactive_s * _NS),
        }
        if self.filter_subjects:
            config["filter_subjects"] = list(self.filter_subjects)
        return {"stream_name": self.stream, "config": config}


class PullConsumer:
    """Keeps up to `window` messages in hand and calls `handler` for each; spawn `run` as a task of the actor.

    Args:
        bus: The connection.
        spec: The durable; it is made when missing, also when it vanishes later.
        handler: Called in order of arrival; must settle each delivery, then or later.
        window: Messages asked for or delivered and not settled.
        beyond: Messages that were delivered before, to whomever, and may be in hand beside the window: the server
            delivers them first, and what fills the window is younger.
        window_bytes: As `window`, in bytes, which each request that is out may bring; 0: however many.
        heartbeat_s: How often the server says that it still has nothing; 0: as seldom as will do.
    """

    def __init__(
        self,
        bus: Bus,
        spec: ConsumerSpec,
        handler: Callable[[Delivery], None],
        *,
        window: int = 500,
        beyond: int = 0,
        window_bytes: int = 0,
        heartbeat_s: float = 0.0,
    ) -> None:
        self.bus = bus
        self.spec = spec
        self.in_hand = 0
        """Messages delivered and not settled."""
        self._in_hand_beyond = 0
        self._beyond = beyond
        self._handler = handler
        self._window = window
        self._lent = self._lent_bytes = self._in_hand_bytes = 0
        self._largest_bytes = bus.max_payload + _BESIDE_BYTES
        self._window_bytes = max(window_bytes, 2 * self._largest_bytes) if window_bytes else 0
        self._wanted_heartbeat_s = self._heartbeat_s = heartbeat_s
        self._loop = asyncio.get_running_loop()
        self._next = f"{bus.config.jetstream_api}.CONSUMER.MSG.NEXT.{spec.stream}.{spec.durable}"
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._outstanding = 0
        self._heard_at = 0.0
        self._is_stopped = False
        self._broken = asyncio.Event()
        """Set by a reconnect too."""
        bus.on_reconnect(self._broken.set)

    def __repr__(self) -> str:
        return f"<PullConsumer {self.spec.durable} in_hand={self.in_hand} outstanding={self._outstanding}>"

    @property
    def is_full(self) -> bool:
        """Whether no more messages are asked for until one is settled."""
        return self.in_hand - self._in_hand_beyond >= self._window + self._lent or not self._has_room_for_largest

    @property
    def _room_bytes(self) -> int:
        return self._window_bytes + self._lent_bytes - self._in_hand_bytes

    @property
    def _has_room_for_largest(self) -> bool:
        return not self._window_bytes or self._room_bytes >= self._largest_bytes

    def lend(self, places: int, size_bytes: int = 0) -> None:
        """Makes room for more messages than the window has (or, negative, takes that back): some are nearly done."""
        self._lent += places
        self._lent_bytes += size_bytes
        self._pull()

    def expect(self, messages: int) -> None:
        """Asks for so many messages beyond the window, two windows at most: others gave them back."""
        messages = min(messages, 2 * self._window - self._outstanding)
        if messages > 0 and self._subscription is not None:
            self._ask_for(messages)

    async def run(self) -> None:
        """Makes the durable and pulls from it until cancelled; outages are waited out."""
        try:
            while True:
                try:
                    await self._ensure_consumer()
                    self._begin_generation()
                    await self._until_broken()
                except BusError as error:
                    log.info("consumer %s: %s", self.spec.durable, error, extra={"action": "pull_retry"})
                await asyncio.sleep(_RETRY_S)
                if not self.bus.is_connected:
                    self._broken.clear()
                    await self._broken.wait()
        finally:
            self._end_generation()

    def stop(self) -> None:
        """Takes nothing more; what still arrives is given back at once. Deliveries in hand may be settled."""
        self._is_stopped = True

    async def drain(self) -> None:
        """Takes nothing more, and returns when whatever was on its way here has been given back."""
        self._is_stopped = True
        if self._subscription is not None:
            await self._subscription.drain()

    async def _ensure_consumer(self) -> None:
        what = f"CONSUMER.DURABLE.CREATE.{self.spec.stream}.{self.spec.durable}"
        try:
            await api(self.bus, what, self.spec.as_request())
        except JetStreamRefused as error:
            raise BusError(f"durable {self.spec.durable} on {self.spec.stream}: {error}") from error

    def _begin_generation(self) -> None:
        self._end_generation()
        self._broken.clear()
        self._heartbeat_s = self._wanted_heartbeat_s or (_LONE_HEARTBEAT_S if is_lone(self.bus) else _HEARTBEAT_S)
        self._inbox = self.bus.new_inbox()
        self._subscription = self.bus.subscribe(self._inbox, self._on_message)
        self._heard_at = self._loop.time()
        self._pull()

    def _end_generation(self) -> None:
        if self._subscription is not None:
            self._subscription.unsubscribe()
            self._subscription = None
        self._outstanding = 0

    async def _until_broken(self) -> None:
        """Returns when pulls were lost: a reconnect, a refusal, or silence."""
        while not await happens(self._broken, self._heartbeat_s):
            silence_s = self._loop.time() - self._heard_at
            if self._outstanding and silence_s > _SILENT_BEATS * self._heartbeat_s:
                extra = {"action": "pull_silent"}
                log.info("consumer %s heard nothing for %.1f s", self.spec.durable, silence_s, extra=extra)
                return

    def _pull(self) -> None:
        """Asks for as many messages as there is room for, when that is worth a request."""
        if self._is_stopped or self._subscription is None:
            return
        room = self._window + self._lent - (self.in_hand - self._in_hand_beyond) - self._outstanding
        if room <= 0 or (self._outstanding and room < self._window // 4):
            return
        self._ask_for(room)

    def _ask_for(self, messages: int) -> None:
        if self._is_stopped or not self._has_room_for_largest:
            return
        request = {
            "batch": messages,
            "expires": round(_EXPIRES_S * _NS),
            "idle_heartbeat": round(self._heartbeat_s * _NS),
        }
        if self._window_bytes:
            request["max_bytes"] = self._room_bytes
        try:
            self.bus.publish(self._next, encode(request), reply=self._inbox)
        except NotConnected:
            return  # everything is asked for again after the reconnect
        if not self._outstanding:
            self._heard_at = self._loop.time()
        self._outstanding += messages

    def _on_message(self, msg: Msg) -> None:
        self._heard_at = self._loop.time()
        headers = msg.headers
        if headers is not None and STATUS in headers and not msg.reply.startswith("$JS.ACK."):
            self._on_status(headers)
            return
        self._outstanding = max(0, self._outstanding - 1)
        self.in_hand += 1
        delivery = Delivery(self, msg)
        self._in_hand_bytes += delivery.size_bytes
        if self._is_stopped:
            delivery.nak()
            return
        if delivery.deliveries > 1 and self._in_hand_beyond < self._beyond:
            self._in_hand_beyond += 1
            delivery.is_beyond = True
            self._pull()  # there may be more
        try:
            self._handler(delivery)
        except Exception:
            if self.spec.max_deliver < 0 and delivery.deliveries >= _FAILURES_MAX:
                delivery.term("whoever takes it fails at it")
            else:
                delivery.nak(self.spec.ack_wait_s)
            raise

    def _on_status(self, headers: dict[str, str]) -> None:
        status = headers[STATUS]
        if status == "100":
            return
        left, description = headers.get(_PENDING_MESSAGES), headers.get("Description", "")
        if left is None and status not in ("404", "408"):
            extra = {"action": "pull_status"}
            log.info("consumer %s: status %s %s", self.spec.durable, status, description, extra=extra)
            self._broken.set()
            return
        self._outstanding = max(0, self._outstanding - int(left or self._outstanding))
        if status == "409" and not any(word in description for word in _IS_DONE):
            self._broken.set()  # leadership change, shutdown: pulling at once would only be refused again
        else:
            self._pull()

    def on_settled(self, delivery: Delivery) -> None:
        """Called by each delivery when it is settled."""
        self.in_hand -= 1
        self._in_hand_bytes -= delivery.size_bytes
        self._in_hand_beyond -= delivery.is_beyond
        self._pull()
