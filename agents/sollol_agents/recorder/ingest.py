"""From the stream into the database: batches, written before they are acked.

Safety: an event is acked only after the transaction that holds it is on disk; what was written and not acked comes
again and changes nothing. Liveness: a database that is locked or full is tried again for as long as it takes, while
the stream keeps what is not written (24 hours of it, as far as its size permits).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from typing import Final

from sollol_agents.recorder.rows import Row, rows_of
from sollol_agents.recorder.store import Store
from sollol_bus.jetstream.pull import Delivery
from sollol_bus.waiting import delays, happens

log = logging.getLogger(__name__)

BATCH_MAX: Final = 1000
"""Events in one transaction, but for what the last message brings beyond it."""
_BATCH_WAIT_S: Final = 0.2  # for a transaction to fill: one takes a millisecond, however little it holds
_HALF_FULL: Final = BATCH_MAX // 2
_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 2.0
_REMIND_EVERY_S = 30.0


class Ingest:
    """Writes what `take` is given; spawn `run`.

    Args:
        store: Where to.
    """

    def __init__(self, store: Store) -> None:
        self.written = 0
        """Events written since the start."""
        self._store = store
        self._waiting: deque[tuple[Delivery, list[Row]]] = deque()
        self._rows = 0
        self._arrived = asyncio.Event()
        self._is_full = asyncio.Event()
        self._is_closing = False

    def take(self, delivery: Delivery) -> None:
        """Queues the events of one message; what cannot be read is taken out of the stream's way for good."""
        rows, faults = rows_of(
            delivery.subject, delivery.data, stored_at_ns=delivery.stored_at_ns, stream_seq=delivery.stream_seq
        )
        for error in faults:
            log.warning(
                "an event on %s is not what its contract says: %s",
                delivery.subject,
                error,
                extra={"action": "recorder_undecodable"},
            )
        if rows:
            self._queue(delivery, rows)
        elif faults:
            delivery.term("not what its contract says")
        else:
            delivery.ack()

    def _queue(self, delivery: Delivery, rows: list[Row]) -> None:
        self._waiting.append((delivery, rows))
        self._rows += len(rows)
        self._arrived.set()
        if self._rows >= BATCH_MAX:
            self._is_full.set()

    async def run(self) -> None:
        """Writes batch after batch until `close`.

        Raises:
            StoreReplaced, StoreBroken: The database is gone; nothing more can be written to this one.
        """
        while True:
            await self._arrived.wait()
            if not self._waiting:
                return
            await self._fill()
            rows: list[Row] = []
            messages = 0
            for _, some in self._waiting:
                rows += some
                messages += 1
                if len(rows) >= BATCH_MAX:
                    break
            await self._write(rows)
            self.written += len(rows)
            self._rows -= len(rows)
            for _ in range(messages):
                self._waiting.popleft()[0].ack()
            self._mark()

    @property
    def waiting(self) -> int:
        """Events that are not written yet."""
        return self._rows

    def close(self) -> None:
        """Makes `run` return once everything taken so far is written."""
        self._is_closing = True
        self._arrived.set()
        self._is_full.set()

    async def _fill(self) -> None:
        if self._rows >= BATCH_MAX or self._is_closing:
            return
        await happens(self._is_full, _BATCH_WAIT_S)  # a batch need not be full
        if self._rows >= _HALF_FULL:
            await happens(self._is_full, _BATCH_WAIT_S)  # so much is on its way that it soon is

    def _mark(self) -> None:
        if self._is_closing:
            return
        if self._rows < BATCH_MAX:
            self._is_full.clear()
        if not self._waiting:
            self._arrived.clear()

    async def _write(self, rows: list[Row]) -> None:
        """Returns when the rows are on disk, however long the database cannot be written."""
        loop = asyncio.get_running_loop()
        began_at, remind_at = loop.time(), 0.0
        for delay_s in delays(_FIRST_RETRY_S, _LAST_RETRY_S):
            try:
                await self._store.write(rows)
            except sqlite3.OperationalError as error:
                if loop.time() >= remind_at:
                    remind_at = loop.time() + _REMIND_EVERY_S
                    log.error(  # noqa: TRY400 the text says it all, every half minute
                        "cannot write to %s since %.0f s: %s; the events stay in the stream until it works again",
                        self._store.path,
                        loop.time() - began_at,
                        error,
                        extra={"action": "recorder_write_failed"},
                    )
            else:
                if remind_at:
                    log.warning("writing to %s works again", self._store.path, extra={"action": "recorder_write_works"})
                return
            await asyncio.sleep(delay_s)
