"""Outcomes of attempts, stored by JetStream even when it is away for a while.

Every outcome stays in a bounded buffer until JetStream acked it and is sent again after an outage. Sending twice is
harmless: the stream drops what it has seen within two minutes, and the recorder keeps one outcome per attempt.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import msgspec

from sollol_bus.errors import BusError, PayloadTooLarge
from sollol_bus.jetstream.api import ack_of
from sollol_bus.observe.request_log import log_outcome
from sollol_bus.parts import Part
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_bus.waiting import delays, happens
from sollol_schemas import subjects
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.headers import MSG_ID
from sollol_schemas.subjects import Subject

log = logging.getLogger(__name__)

LAST_FLUSH_S = 3.0
"""How long a publisher that is closed goes on trying: a restart of the server takes no longer."""
_ACK_WAIT_S = 5.0
_RELAYED_ACK_WAIT_S = 1.5
"""Where another one publishes what we hand it, and no stream is there, the server tells neither."""
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0
_AFTER_RECONNECT_S = 0.5
_MESSAGE_TEXT_MAX = 2000


class _Pending:
    """One outcome on its way."""

    __slots__ = ("message_id", "payload", "subject")

    def __init__(self, subject: str, message_id: str, payload: bytes) -> None:
        self.subject = subject
        self.message_id = message_id
        self.payload = payload


def message_id(outcome: Outcome) -> str:
    """The id under which the stream recognises a repeated outcome.

    The node's own report has the attempt's id. Others have ids of their own, because a presumed loss must never
    make the stream drop the node's later, better report.
    """
    if outcome.reported_by is ReportedBy.NODE:
        return outcome.attempt_id
    if outcome.status is OutcomeStatus.PRESUMED_LOST:
        return f"{outcome.attempt_id}.presumed"
    return f"{outcome.attempt_id}.{outcome.reported_by}"


class OutcomePublisher(Part):
    """Publishes outcomes, pipelined and without a task per message; a part of whoever reports.

    Args:
        bus: The connection of whoever reports.
        capacity: Outcomes kept while JetStream is away; beyond it the oldest are dropped, counted and logged.
        window: Outcomes sent and not yet acked at one time.
        to: Where: a node may not publish events itself.
    """

    def __init__(
        self, bus: Bus, *, capacity: int = 10_000, window: int = 256, to: Subject = subjects.OUTCOME_EVENT
    ) -> None:
        self._bus = bus
        self._to = to
        self._ack_wait_s = _ACK_WAIT_S if to is subjects.OUTCOME_EVENT else _RELAYED_ACK_WAIT_S
        self._capacity = capacity
        self._window = window
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Pending] = deque()
        self._in_flight = 0
        self._retry: asyncio.TimerHandle | None = None
        self._delays = delays(_FIRST_RETRY_S, _LAST_RETRY_S)
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self.stored = 0
        """Outcomes that JetStream acked, repeated ones included."""
        self.dropped = 0
        """Outcomes that were given up."""
        self._is_over = False

    async def start(self) -> None:
        """Begins again after outages."""
        self._bus.on_reconnect(self._on_reconnect)

    async def close(self) -> None:
        """Waits until everything is stored, `LAST_FLUSH_S` at most, and gives up what is not."""
        await self.flush(LAST_FLUSH_S)
        self._bus.forget_callbacks(self._on_reconnect)
        self._give_up()

    @property
    def pending(self) -> int:
        """Outcomes that JetStream has not acked yet."""
        return len(self._waiting) + self._in_flight

    def publish(self, outcome: Outcome) -> None:
        """Hands an outcome over; never waits and never fails."""
        self.note(outcome)
        self.store(outcome)

    def note(self, outcome: Outcome) -> None:
        """Writes the outcome's line, and counts it."""
        log_outcome(outcome)
        if self._bus.meter is not None:
            self._bus.meter.ended(outcome)

    def store(self, outcome: Outcome) -> None:
        """Hands an outcome over that was noted."""
        if len(outcome.message) > _MESSAGE_TEXT_MAX:
            outcome = msgspec.structs.replace(outcome, message=outcome.message[:_MESSAGE_TEXT_MAX])
        subject, payload = self._to.of(outcome.node_id), encode(outcome.as_event())
        self._waiting.append(_Pending(subject, message_id(outcome), payload))
        self._is_empty.clear()
        self._drop_surplus()
        if self._retry is None:
            self._send()

    async def flush(self, timeout_s: float = 5.0) -> int:
        """Waits until nothing is pending, at most `timeout_s`; returns how many outcomes still are."""
        self._retry_now()
        if not await happens(self._is_empty, timeout_s):
            log.warning("%d outcomes were not stored in time", self.pending, extra={"action": "outcomes_flush"})
        return self.pending

    def _drop_surplus(self) -> None:
        surplus = self.pending - self._capacity
        if surplus <= 0 or not self._waiting:
            return
        self._waiting.popleft()
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:  # at 1, 2, 4, 8, ...: one line for each doubling
            log.warning(
                "JetStream does not take outcomes; %d were dropped since the start",
                self.dropped,
                extra={"action": "outcomes_dropped"},
            )

    def _send(self) -> None:
        """Sends what waits, as far as the window permits."""
        while self._waiting and self._in_flight < self._window:
            item = self._waiting.popleft()
            self._in_flight += 1
            try:
                self._ask(item)
            except PayloadTooLarge as error:
                self._settle(item, error)
            except BusError as error:
                self._settle(item, error)
                return

    def _ask(self, item: _Pending) -> None:
        self._bus.ask(
            item.subject,
            item.payload,
            lambda reply: self._settle(item, reply),
            timeout_s=self._ack_wait_s,
            headers={MSG_ID: item.message_id},
        )

    def _settle(self, item: _Pending, reply: Msg | BusError) -> None:
        self._in_flight -= 1
        error = _error_in(reply)
        if error is None:
            self.stored += 1
            self._delays = delays(_FIRST_RETRY_S, _LAST_RETRY_S)
            self._send()
        elif isinstance(error, PayloadTooLarge):
            self.dropped += 1
            log.error("an outcome cannot be stored: %s", error, extra={"action": "outcomes_dropped"})
        else:
            self._waiting.appendleft(item)
            self._retry_later(error)
        if not self.pending:
            self._is_empty.set()

    def _retry_later(self, error: BusError) -> None:
        if self._is_over or self._bus.closed.is_set():
            self._give_up()
        if self._is_over or self._retry is not None:
            return
        delay_s = next(self._delays)
        log.debug("storing outcomes again in %.1f s: %s", delay_s, error)
        self._retry = self._loop.call_later(delay_s, self._retry_now)

    def _give_up(self) -> None:
        """Drops what is pending; what is handed over from now on gets one try."""
        self._is_over = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._waiting:
            self.dropped += len(self._waiting)
            log.warning("%d outcomes are given up", len(self._waiting), extra={"action": "outcomes_dropped"})
            self._waiting.clear()
        if not self.pending:
            self._is_empty.set()

    def _retry_now(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._send()

    def _on_reconnect(self) -> None:
        """Begins again a moment later: the scorer, which listens without JetStream, is coming back too."""
        if self._retry is not None:
            self._retry.cancel()
        self._delays = delays(_FIRST_RETRY_S, _LAST_RETRY_S)
        self._retry = self._loop.call_later(_AFTER_RECONNECT_S, self._retry_now)


def _error_in(reply: Msg | BusError) -> BusError | None:
    try:
        ack_of(reply)
    except BusError as error:
        return error
    return None
