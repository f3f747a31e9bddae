"""An office that one actor holds at a time: an entry in a key-value bucket, written by compare-and-set.

Safety: `tenure` has the rules, and why no two are in office. What it needs is here: `is_held` reads the clock itself,
so that a process that was suspended does not act in the first instant after it wakes, and is false while the
connection is down.

Liveness: an office that was left is taken at once; where one server serves everybody, so is that of a holder whose
process died, within about 0.1 s; everywhere else an office is taken one tenure after its last renewal, 3 s on a lone
server and 12 s in a cluster. Whatever is written there that names no holder counts as nobody's.

Window: what a holder sent just before it lost the office may arrive after its successor began. Receivers therefore
compare `term`, the revision at acquisition: it rises with every change of office, also over restarts of the server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from sollol_bus.errors import BusError, DecodeFailed, NoResponders
from sollol_bus.jetstream.buckets import Bucket, Entry
from sollol_bus.jetstream.tenure import LEFT, Found, Look, Probe, Tenure, TryStore, Wait, Write
from sollol_bus.parts import Part
from sollol_bus.transport.connection import INBOX_ROOT, Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_bus.transport.topology import is_lone
from sollol_schemas import stores
from sollol_schemas.stores import Holder

log = logging.getLogger(__name__)

_ANSWER_S: Final = 1.0
_PROBE_S: Final = 0.5
_NEVER: Final = 1 << 62
"""A revision that no key will ever have."""


class Candidate(Part):
    """One candidate for an office, a part of its actor, which spawns `run`.

    Args:
        bus: The candidate's connection.
        key: The office, a key of the offices' bucket.
        instance: The candidate's name, new at each start of a process.
        ttl_s: Whole seconds after which an office that is not renewed is vacant, on a lone server.
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
        self._bus = bus
        self._bucket = Bucket(bus, stores.OFFICES_BUCKET, timeout_s=_ANSWER_S)
        self._tenure = Tenure(instance, tenure_s=ttl_s, has_probe=probe is not None)
        self._probe = probe
        self._answers_probe = answers_probe
        self._on_acquired = on_acquired
        self._on_lost = on_lost
        self._clock = clock
        self._told_term = 0
        self._expiry: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._is_leaving = False

    @property
    def owner(self) -> str:
        """Who was last seen in office, possibly this candidate."""
        return self._tenure.owner

    @property
    def is_held(self) -> bool:
        """Whether this candidate may act as the holder right now."""
        return self._tenure.is_held(self._clock()) and self._bus.is_connected

    @property
    def term(self) -> int:
        """The fencing token of the present office; 0 when not in office."""
        return self._tenure.term if self.is_held else 0

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
                await self._act()
        finally:
            for subscription in subscriptions:
                subscription.unsubscribe()
            self._tenure.leave()
            self._tell("stopped")

    async def close(self) -> None:
        """Gives up the office, so that another takes it at once; `run` returns. Safe when not in office."""
        self._is_leaving = True
        self._wake.set()
        left = self._tenure.leave()
        self._tell()
        if left is None:
            return
        try:
            if not await self._hand_over(*left):  # a renewal was under way: its revision is the one to write over
                entry = await self._bucket.get(self.key)
                holder = found_in(entry).holder
                if holder is not None and holder.instance == self.instance:
                    await self._hand_over(entry.revision, left[1])
        except BusError as error:
            log.info("office %s: not handed over: %s", self.key, error, extra={"action": "office_left"})

    async def _hand_over(self, last: int, nobody: Holder) -> bool:
        return await self._bucket.update(self.key, encode(nobody), last) is not None

    async def _act(self) -> None:
        """One step, and what follows from it."""
        action = self._tenure.next(self._clock(), is_lone=is_lone(self._bus))
        self._tell()
        match action:
            case Look():
                await self._look()
            case Probe():
                await self._ask_for(action.instance)
            case Write():
                await self._write(action)
            case TryStore():
                await self._try_store()
            case Wait():
                await self._pause(action.seconds)
        self._tell()

    async def _look(self) -> None:
        try:
            entry = await self._bucket.get(self.key)
        except BusError as error:
            log.debug("office %s: %s", self.key, error)
            self._tenure.looked_in_vain(self._clock())
        else:
            if entry.value is not None:
                try:
                    entry.decode(Holder)
                except DecodeFailed as error:
                    self._bucket.ignored(entry, error)
            self._tenure.looked(found_in(entry), self._clock(), is_lone=is_lone(self._bus))

    async def _ask_for(self, instance: str) -> None:
        assert self._probe is not None
        is_gone = is_slow = False
        try:
            await self._bus.request(self._probe(instance), timeout_s=_PROBE_S)
        except NoResponders:
            # after an outage the holder may only be slower to return
            is_gone = is_lone(self._bus) and not self._bus.is_settling
        except BusError:
            is_slow = True  # it hangs, or lost the question: its tenure decides
        self._tenure.probed(is_gone=is_gone, is_slow=is_slow, now=self._clock())

    async def _write(self, write: Write) -> None:
        sent_at = self._clock()
        try:
            revision = await self._bucket.update(self.key, encode(write.holder), write.last)
        except BusError as error:
            log.debug("office %s: %s", self.key, error)
            self._tenure.wrote_in_vain(self._clock(), is_lone=is_lone(self._bus))
            return
        if self._is_leaving:
            if revision is not None:
                await self._hand_over(revision, Holder(instance="", tenure_s=write.holder.tenure_s))
            return
        self._tenure.wrote(write, revision, sent_at, self._clock())

    async def _try_store(self) -> None:
        sent_at, is_off = self._clock(), False
        try:
            # a write that can only be refused, on a key that no candidate overhears: then nobody is there for it
            await self._bucket.update(f"{self.key}.store", b"", _NEVER)
        except NoResponders:
            is_off = True
        except BusError as error:
            log.debug("office %s: %s", self.key, error)
        self._tenure.tried_store(is_off=is_off, sent_at=sent_at, now=self._clock())

    def _tell(self, reason: str = "") -> None:
        """Says what has changed, and sets the alarm for the end of the tenure."""
        term = self._tenure.term
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self._told_term not in (0, term):
            self._told_term = 0
            reason = reason or self._tenure.lost_because
            self._wake.set()
            is_meant = reason == LEFT
            log.log(
                logging.INFO if is_meant else logging.WARNING,
                "out of office %s: %s",
                self.key,
                reason,
                extra={"action": "office_lost"},
            )
            self._on_lost(reason)
        if term and not self._told_term:
            self._told_term = term
            log.info("took office %s, term %d", self.key, term, extra={"action": "office_taken"})
            self._on_acquired(term)
        if term:
            left_s = max(0.0, self._tenure.valid_until - self._clock())
            self._expiry = asyncio.get_running_loop().call_later(left_s, self._on_lapse)

    def _on_lapse(self) -> None:
        self._tenure.lapse(self._clock())
        self._tell()

    def _on_disconnect(self) -> None:
        self._tenure.disconnected(self._clock())
        self._tell()

    def _on_overheard(self, msg: Msg) -> None:
        holder = _holder_in(msg.data)
        if holder is None or not holder.instance:
            self._tenure.hurry(self._clock())
            self._wake.set()

    def _answer_probe(self, msg: Msg) -> None:
        if msg.reply.startswith(INBOX_ROOT):
            self._bus.publish(msg.reply)

    async def _pause(self, seconds: float) -> None:
        """Waits, or until something happens."""
        timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
            self._wake.clear()


def found_in(entry: Entry) -> Found:
    """What an entry says of its office."""
    return Found(revision=entry.revision, holder=_holder_in(entry.value or b""))


def _holder_in(data: bytes) -> Holder | None:
    try:
        return decode(data, Holder)
    except DecodeFailed:
        return None
