"""An office that one actor holds at a time: an entry with a time to live in a key-value bucket.

Safety: the holder's name lies under one key with a time to live, and every write is a compare-and-set on the key's
revision, so of several that reach for it one wins. The holder counts from the moment it *sent* its last good write
and steps down after 0.8 of the time to live, before the server can let the entry expire; a lost connection or a
lost compare-and-set ends the office at once. `is_held` reads the clock itself, so that a process that was
suspended does not act in the first instant after it wakes.

Liveness: the server reachable, a vacant office is taken within 0.5 s of its expiry. A holder that dies is succeeded
within the time to live, or within about 0.1 s where holders answer a probe: nobody on the probe's subject means that
the holder has no connection, and a holder without connection is out of office. Leaving hands over at once.

A store that takes no writes (its disk is full, or it is switched off) takes them from nobody: then the holder stays,
as long as it finds nobody else's name there, so that requests go on without the store. On a cluster that fell apart
each part may so have a holder; `term` orders them once it is whole.

Window: what a holder sent just before it lost the office may arrive after its successor began. Receivers therefore
compare `term`, the revision at acquisition: it rises with every change of office, also over restarts of the server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from sollol_bus.errors import BusError, NoResponders, RequestTimedOut
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.parts import Part
from sollol_bus.transport.connection import INBOX_ROOT, Bus
from sollol_bus.transport.messages import Msg
from sollol_schemas import stores
from sollol_schemas.ids import is_bus_id

log = logging.getLogger(__name__)

_SHARE_IN_OFFICE = 0.8
_PROBE_EVERY_S = 0.1
_PROBES_PER_LOOK = 5
_LOOK_EVERY_S = 0.5
_RETRY_S = 0.05
_ANSWER_S = 1.0
_NEVER = 1 << 62
"""A revision that no key will ever have."""


class Candidate(Part):
    """One candidate for an office, a part of its actor, which spawns `run`.

    Args:
        bus: The candidate's connection.
        key: The office, a key of the offices' bucket.
        instance: The candidate's name, new at each start of a process.
        ttl_s: Whole seconds after which an office that is not renewed is vacant.
        probe: Builds the subject on which an instance answers while it lives.
        answers_probe: whether the candidate itself answers there; False when something else of the instance does.
        on_acquired: Called with the term when this candidate takes office.
        on_lost: Called with the reason when it is out of office, before anybody else can be in.
        clock: Seconds, monotonic; not the loop's, which may be a cached one.
    """

    def __init__(
        self,
        bus: Bus,
        key: str,
        instance: str,
        *,
        ttl_s: int = 3,
        probe: Callable[[str], str] | None = None,
        answers_probe: bool = True,
        on_acquired: Callable[[int], None] = lambda _term: None,
        on_lost: Callable[[str], None] = lambda _reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = key
        self.instance = instance
        self.owner = ""
        """Who was last seen in office, possibly this candidate."""
        self._bus = bus
        self._bucket = Bucket(bus, stores.OFFICES_BUCKET, timeout_s=_ANSWER_S)
        self._ttl_s = ttl_s
        self._probe = probe
        self._answers_probe = answers_probe
        self._on_acquired = on_acquired
        self._on_lost = on_lost
        self._clock = clock
        self._term = 0
        self._held_term = 0
        """The term of the last office, until somebody else may have had one."""
        self._is_store_off = False
        """Whether the store was found to take no writes from anybody."""
        self._revision = 0
        self._valid_until = 0.0
        self._renew_at = 0.0
        self._expiry: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._is_leaving = False

    @property
    def is_held(self) -> bool:
        """Whether this candidate may act as the holder right now."""
        return self._term > 0 and self._clock() < self._valid_until and self._bus.is_connected

    @property
    def term(self) -> int:
        """The fencing token of the present office; 0 when not in office."""
        return self._term if self.is_held else 0

    def __repr__(self) -> str:
        return f"<Candidate {self.key} {self.instance} term={self.term} owner={self.owner!r}>"

    async def run(self) -> None:
        """Stands by and holds office, in turns, until it is closed."""
        subscriptions = [self._bus.subscribe(self._bucket.subject(self.key), self._on_overheard)]
        if self._probe is not None and self._answers_probe:
            subscriptions.append(self._bus.subscribe(self._probe(self.instance), self._answer_probe))
        self._bus.on_disconnect(self._on_disconnect)
        try:
            while not self._is_leaving:
                try:
                    await (self._hold() if self._term else self._stand_by())
                except BusError as error:
                    log.debug("office %s: %s", self.key, error)
                    await self._pause(_RETRY_S)
        finally:
            for subscription in subscriptions:
                subscription.unsubscribe()
            self._lose("stopped")

    async def close(self) -> None:
        """Gives up the office, so that another takes it at once; `run` returns. Safe when not in office."""
        self._is_leaving = True
        self._wake.set()
        if not self._term:
            return
        revision = self._revision
        self._lose("left")
        try:
            if not await self._bucket.delete(self.key, revision):
                await self._release_renewed()
        except BusError as error:
            log.info("office %s: not handed over: %s", self.key, error, extra={"action": "office_left"})

    async def _release_renewed(self) -> None:
        """A renewal was under way when we left: its revision is the one to delete."""
        entry = await self._bucket.get(self.key)
        if entry.value == self.instance.encode():
            await self._bucket.delete(self.key, entry.revision)

    async def _stand_by(self) -> None:
        """One look at the office, and a few probes of its holder."""
        try:
            entry = await self._bucket.get(self.key)
        except (NoResponders, RequestTimedOut):
            if self._held_term and await self._takes_no_writes():
                self._resume()
                return
            raise
        self.owner = entry.value.decode(errors="replace") if entry.value else ""
        if entry.value is None or self.owner == self.instance:  # our own from before a disconnect is a new term
            await self._acquire(entry.revision)
        elif self._probe is None or not is_bus_id(self.owner):
            await self._pause(_LOOK_EVERY_S)
        else:
            await self._watch_owner(self._probe(self.owner), entry.revision)

    def _resume(self) -> None:
        """Takes office again, under its term: it was ours when the store went, and nobody can have taken it since."""
        if self._extend(self._clock(), self._revision):
            self._term = self._held_term
            log.info("in office %s again, term %d", self.key, self._term, extra={"action": "office_resumed"})
            self._on_acquired(self._term)

    async def _watch_owner(self, probe_subject: str, revision: int) -> None:
        for _ in range(_PROBES_PER_LOOK):
            if await self._is_gone(probe_subject):
                await self._acquire(revision)
                return
            if await self._pause(_PROBE_EVERY_S):
                return

    async def _is_gone(self, probe_subject: str) -> bool:
        try:
            await self._bus.request(probe_subject, timeout_s=_ANSWER_S)
        except NoResponders:
            return not self._bus.is_settling  # after an outage the holder may only be slower to return
        except RequestTimedOut:
            return False  # it hangs, or lost the question: the time to live decides
        return False

    async def _acquire(self, last: int) -> None:
        sent_at = self._clock()
        revision = await self._bucket.update(self.key, self.instance.encode(), last, ttl_s=self._ttl_s)
        if revision is None:
            await self._pause(_RETRY_S)
        elif self._is_leaving:
            await self._bucket.delete(self.key, revision)
        elif self._extend(sent_at, revision):
            self._term = self._held_term = revision
            self.owner = self.instance
            log.info("took office %s, term %d", self.key, revision, extra={"action": "office_taken"})
            self._on_acquired(revision)

    async def _hold(self) -> None:
        """Waits until the next renewal is due, and renews."""
        await self._pause(self._renew_at - self._clock())
        if not self._term or self._is_leaving:
            return
        if not self.is_held:
            self._lose("was not running when it had to renew")
            return
        term, sent_at = self._term, self._clock()
        if self._is_store_off and await self._takes_no_writes():
            if self._term == term:
                self._extend(sent_at, self._revision)
            return
        try:
            revision = await self._bucket.update(
                self.key, self.instance.encode(), self._revision, ttl_s=self._ttl_s, timeout_s=self._ttl_s / 3
            )
        except (NoResponders, RequestTimedOut):
            failed_at = self._clock()
            if self._term == term and await self._is_nobody_elses() and self._term == term:
                self._extend(failed_at, self._revision)
                return
            raise
        if self._term != term:
            return
        if revision is None:
            await self._on_beaten(term)
        elif not self._extend(sent_at, revision):
            self._lose("the renewal took too long")

    async def _is_nobody_elses(self) -> bool:
        """Whether the office stays ours although it was not renewed: nobody else's name is there, or can get there."""
        if await self._takes_no_writes():
            return True
        entry = await self._bucket.get(self.key)
        return entry.value in (None, self.instance.encode())

    async def _takes_no_writes(self) -> bool:
        """Whether the store is away for everybody."""
        try:
            # a write that can only be refused, on a key that no candidate overhears: then nobody is there for it
            await self._bucket.update(f"{self.key}.store", b"", _NEVER)
        except NoResponders:
            self._is_store_off = True
        else:
            self._is_store_off = False
        return self._is_store_off

    async def _on_beaten(self, term: int) -> None:
        """The revision is not ours: somebody took the office, or a renewal was stored whose ack was lost."""
        entry = await self._bucket.get(self.key)
        if self._term != term:
            return
        if entry.value == self.instance.encode():
            self._revision = entry.revision
            self._renew_at = self._clock()
        else:
            self.owner = entry.value.decode(errors="replace") if entry.value else ""
            self._held_term = 0
            self._lose(f"taken by {self.owner or 'nobody'}")

    def _extend(self, sent_at: float, revision: int) -> bool:
        """Counts the office from `sent_at`; False when that is over already."""
        valid_until = sent_at + _SHARE_IN_OFFICE * self._ttl_s
        left_s = valid_until - self._clock()
        if left_s <= 0:
            return False
        self._revision, self._valid_until, self._renew_at = revision, valid_until, sent_at + self._ttl_s / 3
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(left_s, self._lose, "not renewed in time")
        return True

    def _lose(self, reason: str) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if not self._term:
            return
        self._term = 0
        self._wake.set()
        log.warning("out of office %s: %s", self.key, reason, extra={"action": "office_lost"})
        self._on_lost(reason)

    def _on_disconnect(self) -> None:
        self._held_term = 0
        self._lose("disconnected")

    def _on_overheard(self, msg: Msg) -> None:
        if msg.headers and "KV-Operation" in msg.headers:
            self._wake.set()

    def _answer_probe(self, msg: Msg) -> None:
        if msg.reply.startswith(INBOX_ROOT):
            self._bus.publish(msg.reply)

    async def _pause(self, seconds: float) -> bool:
        """Waits; True when something happened meanwhile."""
        if seconds <= 0:
            return False
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + seconds
        timer = loop.call_at(ends_at, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
            self._wake.clear()
        return loop.time() < ends_at
