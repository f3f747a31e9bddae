"""What the recorder does while it is in office, with one open database."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sollol_agents.recorder.archive import open_archive
from sollol_agents.recorder.config import RecorderConfig
from sollol_agents.recorder.feedback import FeedbackDesk
from sollol_agents.recorder.ingest import BATCH_MAX, Ingest
from sollol_agents.recorder.queries import Queries
from sollol_agents.recorder.retention import Line
from sollol_agents.recorder.store import Store, StoreBroken, StoreReplaced, open_store, set_aside
from sollol_bus.jetstream.pull import ConsumerSpec, PullConsumer
from sollol_bus.parts import Spawn
from sollol_bus.steady import steady_s
from sollol_bus.transport.connection import Bus
from sollol_bus.trust.callers import Roster
from sollol_bus.waiting import happens
from sollol_schemas import stores, subjects

log = logging.getLogger(__name__)

_RECORDED = (
    subjects.OUTCOME_EVENT.all,
    subjects.DECISIONS_EVENT,
    subjects.CUT_EVENT.all,
    subjects.NODE_EVENT.all,
    subjects.BREAKER_EVENT.all,
    subjects.OFFICE_EVENT.all,
    subjects.AUDIT_EVENT,
    subjects.FEEDBACK_EVENT,
    subjects.RESET_EVENT,
)
_REOPEN_S: Final = 0.5
_ACK_WAIT_S: Final = 5.0
"""After a lost connection, what was in hand comes again so late; written twice it counts once."""
_IN_HAND_BYTES: Final = 16 << 20
_INACTIVE_S: Final = 7 * 24 * 3600.0
_DAY_S: Final = 24 * 3600.0
_PRUNE_EVERY_S: Final = 600.0
_MAX_DECISIONS: Final = 100_000  # of up to 4 KiB each
_MAX_EVENTS: Final = 50_000


class Office:
    """Records and answers until cancelled, over databases that may vanish and are begun anew.

    Each database has its own durable consumer, named after it: a new or restored database therefore receives what
    it misses, as far back as the stream reaches, and a standby on another machine catches up by itself.
    """

    def __init__(self, bus: Bus, config: RecorderConfig, spawn: Spawn, *, roster: Callable[[], Roster]) -> None:
        self.is_open = asyncio.Event()
        """Set while questions are answered."""
        self._bus = bus
        self._config = config
        self._path: Path = config.database_path()
        self._feedback = FeedbackDesk(bus, config.feedback_per_minute)
        self._queries = Queries(bus, spawn, roster=roster, feedback=self._feedback)
        self._consumer: PullConsumer | None = None
        self._ingest: Ingest | None = None
        self._ingest_ended = asyncio.Event()
        self._is_closing = False

    @property
    def waiting(self) -> int:
        """Events that were received and are not written yet."""
        return self._ingest.waiting if self._ingest is not None else 0

    @property
    def written(self) -> int:
        """Events written to the database that is open."""
        return self._ingest.written if self._ingest is not None else 0

    async def run(self) -> None:
        """Holds the office until cancelled, or until `finish`.

        Raises:
            ConfigError: The database cannot be used.
        """
        try:
            while not self._is_closing:
                await self._serve_one_database()
        finally:
            self._queries.close()

    async def _serve_one_database(self) -> None:
        store = await self._open_patiently()
        try:
            await self._serve(store)
        except* StoreReplaced as errors:
            _tell_lost(errors)
        except* StoreBroken as errors:
            _tell_lost(errors)
            await store.close()
            await asyncio.to_thread(set_aside, self._path)
        finally:
            await store.close()

    async def finish(self, timeout_s: float) -> None:
        """Takes no more, writes what was taken, and lets `run` end."""
        self._is_closing = True
        if self._consumer is None or self._ingest is None:
            return
        self._consumer.stop()
        self._ingest.close()
        if not await happens(self._ingest_ended, timeout_s):
            extra = {"action": "recorder_left_over"}
            log.warning("%d events were not written in time; they come again", self.waiting, extra=extra)

    async def _open_patiently(self) -> Store:
        """The database, once it is not locked."""
        is_told = False
        while True:
            try:
                return await open_store(self._path)
            except sqlite3.OperationalError as error:
                if not is_told:
                    log.error(  # noqa: TRY400 the text says it all
                        "cannot open %s: %s; trying again", self._path, error, extra={"action": "recorder_open_failed"}
                    )
                is_told = True
            await asyncio.sleep(_REOPEN_S)

    async def _serve(self, store: Store) -> None:
        self._ingest_ended.clear()
        self._ingest = ingest = Ingest(store)
        spec = ConsumerSpec(
            stream=stores.EVENTS_STREAM,
            durable=f"recorder-{store.name}",
            about="The recorder writes events to its database; each database has its own.",
            filter_subjects=_RECORDED,
            ack_wait_s=_ACK_WAIT_S,
            max_ack_pending=4 * BATCH_MAX,
            inactive_s=_INACTIVE_S,
        )
        self._consumer = PullConsumer(self._bus, spec, ingest.take, window=2 * BATCH_MAX, window_bytes=_IN_HAND_BYTES)
        archive = await open_archive(store.path)
        try:
            async with asyncio.TaskGroup() as tasks:
                helpers = [
                    tasks.create_task(self._consumer.run(), name="recorder.consumer"),
                    tasks.create_task(self._prune(store), name="recorder.prune"),
                    tasks.create_task(self._feedback.keep_up(archive, store), name="recorder.feedback"),
                ]
                self._queries.use(archive, store)
                self._queries.open()
                self.is_open.set()
                try:
                    await ingest.run()
                finally:
                    for helper in helpers:
                        helper.cancel()
        finally:
            self.is_open.clear()
            self._ingest_ended.set()
            await self._queries.let_go()
            await archive.close()

    async def _prune(self, store: Store) -> None:
        """Deletes old records, now and then."""
        line: Line | None = None
        looked_at = 0.0
        while True:
            steady_at, now = steady_s(), self._bus.clock.now_unix()
            try:
                newest = await store.newest()
                if line is None:
                    line, looked_at = Line(await store.line() or newest or now), steady_at
                was_behind, line = line.is_behind, line.moved(now, steady_at - looked_at)
                looked_at = steady_at
                _tell_behind(line, was_behind=was_behind)
                await self._prune_once(store, line.oldest_kept(newest, self._config.retention_days * _DAY_S))
                await store.keep_line(line.at_unix_s)
            except sqlite3.OperationalError as error:
                log.warning("old records were not deleted: %s", error, extra={"action": "recorder_prune_failed"})
            await asyncio.sleep(_PRUNE_EVERY_S)

    async def _prune_once(self, store: Store, before: float) -> None:
        deleted = await store.prune(
            before=before,
            max_outcomes=self._config.max_outcomes,
            max_decisions=_MAX_DECISIONS,
            max_events=_MAX_EVENTS,
        )
        log.info("deleted %d old records", deleted, extra={"action": "recorder_prune"})


def _tell_behind(line: Line, *, was_behind: bool) -> None:
    """Says that records are kept longer than set, and when that is over."""
    if line.is_behind and not was_behind:
        log.warning(
            "the clock went on by %.1f h more than time passed here: it was set, or no recorder ran; old records are "
            "deleted later by up to so much, until that has passed too",
            line.lag_s / 3600,
            extra={"action": "recorder_clock_ahead", "ahead_s": round(line.lag_s)},
        )
    elif was_behind and not line.is_behind:
        log.info("old records are deleted when they are due again", extra={"action": "recorder_clock_right"})


def _tell_lost(errors: BaseExceptionGroup[Exception]) -> None:
    what = "; ".join(str(error) for error in errors.exceptions)
    log.error("the database is begun anew: %s", what, extra={"action": "recorder_database_lost"})
