"""Keeps what was learnt for successors, and finds what predecessors left.

Safety: the document is written by compare-and-set and carries the term of the scorer that wrote it; one that is out
of office finds a greater term there and writes no more. Liveness: a bucket that is not there (any more) is made
again, and whatever cannot be read or written only costs what was learnt. Nothing here delays a start by more than
`_READ_S` and `_FIRST_ASK_S` together.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.knowledge.learned import bytes_of
from sollol_agents.scorer.office.takeover import everything_learned, learn_from_record, overhear, take_up
from sollol_bus.errors import BusError, DecodeFailed, NoResponders, PayloadTooLarge
from sollol_bus.jetstream.api import JetStreamRefused
from sollol_bus.jetstream.buckets import Bucket, Entry
from sollol_bus.jetstream.streams import provision
from sollol_bus.parts import Part
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, decoded, encode, error_of
from sollol_bus.waiting import happens
from sollol_schemas import stores, subjects
from sollol_schemas.instants import seconds_of
from sollol_schemas.learned import Learned
from sollol_schemas.queries import RecentReply, RecentRequest

log = logging.getLogger(__name__)

_BYTES_MAX = 512 * 1024
_READ_S = 0.5
_FIRST_ASK_S = 0.5
_ASK_S = 3.0
_ASK_AGAIN_S = 2.0
_ASK_FOR_S = 60.0
_SAVE_S = 1.0
_RECORD = RecentRequest(limit=800, per_model=20)


class SavedKnowledge(Part):
    """Saves what the scorer in office learnt; a part of the scorer, which spawns `run` and `consult_recorder`.

    Args:
        bus: The scorer's connection.
        core: Whose knowledge is kept.
        every_s: Seconds between two writes, at least; 0 writes nothing.
        is_leader: Whether this scorer is in office.
    """

    def __init__(self, bus: Bus, core: SchedulerCore, *, every_s: float, is_leader: Callable[[], bool]) -> None:
        self._bus = bus
        self._core = core
        self._every_s = every_s
        self._is_leader = is_leader
        self._bucket = Bucket(bus, stores.LEARNED_BUCKET)
        self._revision = 0
        self._saved = Learned()
        self._is_due = asyncio.Event()
        self._has_record = False

    async def start(self) -> None:
        """Takes up what a predecessor left; to be called before the first decision."""
        found = await self._read()
        if not found:
            await self._ask_recorder(_FIRST_ASK_S)
        self._bus.subscribe(self._bucket.subject(stores.LEARNED), self._on_overheard)

    async def close(self) -> None:
        """Saves for the last time, while the office is still held."""
        try:
            async with asyncio.timeout(_SAVE_S):
                await self.save()
        except TimeoutError:
            log.warning("what was learnt is not saved: no answer", extra={"action": "learned_save"})

    async def run(self) -> None:
        """Saves now and then while in office."""
        while self._every_s > 0:
            await happens(self._is_due, self._every_s)
            self._is_due.clear()
            await self.save()

    def save_soon(self) -> None:
        """Saves at once: an operator had something forgotten, and it must stay so."""
        self._is_due.set()

    async def save(self) -> None:
        """Writes what was learnt, when this scorer is in office and there is news."""
        if not self._is_leader() or self._every_s <= 0:
            return
        learned = everything_learned(self._core, time.monotonic(), self._bus.clock.now_unix())
        content = msgspec.structs.replace(learned, saved_at="", term=0)
        if content == self._saved:
            return
        try:
            if await self._write(learned):
                self._saved = content
        except (NoResponders, JetStreamRefused) as error:
            log.warning(
                "what was learnt is not saved, the bucket is made again: %s", error, extra={"action": "learned_save"}
            )
            await self._make_bucket()
        except (BusError, PayloadTooLarge) as error:
            log.warning("what was learnt is not saved: %s", error, extra={"action": "learned_save"})

    async def _write(self, learned: Learned) -> bool:
        data = bytes_of(learned, min(_BYTES_MAX, self._bus.max_payload))
        revision = await self._bucket.update(stores.LEARNED, data, self._revision)
        if revision is None:
            entry = await self._bucket.get(stores.LEARNED)
            written = self._learned_in(entry)
            if written is not None and written.term > learned.term:
                log.info("a scorer of term %d saves now", written.term, extra={"action": "learned_save"})
                return False
            revision = await self._bucket.update(stores.LEARNED, data, entry.revision) if self._is_leader() else None
        if revision is None:
            return False
        self._revision = revision
        return True

    async def _make_bucket(self) -> None:
        self._revision = 0
        try:
            await provision(self._bus)
        except BusError as error:
            log.warning("the bucket was not made: %s", error, extra={"action": "learned_save"})

    async def _read(self) -> bool:
        """Takes up the document; False when there is none that can be used."""
        try:
            entry = await self._bucket.get(stores.LEARNED, timeout_s=_READ_S)
        except BusError as error:
            log.warning("what was learnt is not known: %s", error, extra={"action": "learned_restore"})
            return False
        learned = self._learned_in(entry)
        if learned is None:
            return False
        self._revision = entry.revision
        age_s = max(0.0, self._bus.clock.now_unix() - seconds_of(learned.saved_at))
        take_up(self._core, learned, time.monotonic(), age_s)
        log.info(
            "took up what was learnt of %d nodes %.0f s ago",
            len(learned.nodes),
            age_s,
            extra={"action": "learned_restore"},
        )
        return True

    async def consult_recorder(self) -> None:
        """Learns from recorded outcomes what nobody left; a recorder that still starts is asked again for a while."""
        gives_up_at = time.monotonic() + _ASK_FOR_S
        while not self._has_record and time.monotonic() < gives_up_at:
            await self._ask_recorder(_ASK_S)
            if not self._has_record:
                await asyncio.sleep(_ASK_AGAIN_S)  # nothing tells when a recorder begins to answer

    async def _ask_recorder(self, timeout_s: float) -> None:
        try:
            msg = await self._bus.request(subjects.RECENT, encode(_RECORD), timeout_s=timeout_s)
            refusal = error_of(msg)
            if refusal is not None:
                log.info("the recorder does not tell yet: %s", refusal.message, extra={"action": "learned_record"})
                return
            reply = decode(msg.data, RecentReply)
        except (BusError, DecodeFailed) as error:
            log.info("the recorder does not tell yet: %s", error, extra={"action": "learned_record"})
            return
        self._has_record = True
        count = learn_from_record(self._core, reversed(reply.outcomes))
        log.info("learnt from %d recorded outcomes", count, extra={"action": "learned_record"})

    def _on_overheard(self, msg: Msg) -> None:
        if self._is_leader() or not msg.data:
            return
        learned = decoded(msg, Learned)
        if learned is not None:
            overhear(self._core, learned, time.monotonic())

    def _learned_in(self, entry: Entry) -> Learned | None:
        """The document, or None when there is none or it cannot be used."""
        try:
            return entry.decode(Learned)
        except DecodeFailed as error:
            self._bucket.ignored(entry, error)
            return None
