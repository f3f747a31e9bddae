"""Key-value buckets: compare-and-set on revisions, right about the markers that stand for "no value".

A key that was deleted, purged or has expired still has a last message, the marker, whose revision counts for the
next compare-and-set. The client library reads some of these markers as values and cannot create over others.

Reads go to the stream's leader and come wrapped in JSON. The server's direct get would be a little faster, but it
sends a stored message, headers and all, to whatever reply subject it is asked to: whoever may write one key could
then speak on every subject of the bus.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import msgspec

from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.jetstream.api import JetStreamRefused, publish_acked
from sollol_bus.jetstream.stored import Stored, purge_subject, stored_block, stored_message
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode
from sollol_bus.transport.topology import is_lone
from sollol_bus.waiting import happens
from sollol_schemas.headers import EXPECTED_LAST_SUBJECT_SEQUENCE, TTL
from sollol_schemas.stores import KEPT

log = logging.getLogger(__name__)

T = TypeVar("T")

_ROWS = {row.value: row for row in KEPT}
_OPERATION = "KV-Operation"
_MARKERS = (_OPERATION, "Nats-Marker-Reason")
_IGNORED_MAX = 1024
_KEY_SHOWN = 120
_LOOKS_AGAIN_S = (0.02, 0.1, 0.5)
"""A write is overheard before it is stored, or before every server has it: pauses before looks that may find it."""
_LOOK_ANYWAY_S = 10.0  # a write at another site is not overheard while the link to it is cut
_LOOK_SELDOM_S = 60.0  # where one server serves everybody, and nothing was overheard that may be stored late


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The last thing written under a key."""

    key: str
    value: bytes | None
    """None: the key has no value (deleted, expired, or never written)."""
    revision: int
    """To be passed to `update` or `delete`; 0 for a key without a trace."""

    def decode(self, kind: type[T]) -> T | None:
        """The value as a Struct, or None when there is no value.

        Raises:
            DecodeFailed: It is no such Struct, or one that belongs under another key.
        """
        if self.value is None:
            return None
        value = decode(self.value, kind)
        row = _ROWS.get(kind.__name__)
        if row is not None and not row.is_about(self.key, value):
            raise DecodeFailed(f"a {row.value} of another key")
        return value


class Bucket:
    """A key-value bucket. Writes return None (or False) when somebody else wrote first.

    Every method raises `NoResponders` or `JetStreamRefused` when the bucket is not there (now), and
    `RequestTimedOut` or `NotConnected` when the server did not answer; a write may have happened in the latter
    cases.
    """

    def __init__(self, bus: Bus, name: str, *, timeout_s: float = 5.0) -> None:
        self.name = name
        self._bus = bus
        self._timeout_s = timeout_s
        self._stream = f"KV_{name}"
        self._ignored: OrderedDict[str, int] = OrderedDict()

    def subject(self, key: str) -> str:
        """The subject on which writes to `key` can be overheard, refused ones included."""
        return f"$KV.{self.name}.{key}"

    def writes(self, key: str) -> str:
        """The subject to which a write to `key` is published."""
        return self._bus.config.kept_under(self.subject(key))

    async def get(self, key: str, *, timeout_s: float | None = None) -> Entry:
        """The last entry of a key."""
        limit_s = timeout_s or self._timeout_s
        stored = await stored_message(self._bus, self._stream, subject=self.subject(key), timeout_s=limit_s)
        return Entry(key=key, value=None, revision=0) if stored is None else self._entry(stored)

    async def every(self, keys: str) -> list[Entry]:
        """The entries that have a value, in the order of their last writing; `keys` may have wildcards."""
        return [entry async for entry in self.each(keys)]

    async def each(self, keys: str) -> AsyncIterator[Entry]:
        """The same one by one, however many there are."""
        start = 1
        while block := await stored_block(self._bus, self._stream, self.subject(keys), start):
            for entry in map(self._entry, block):
                if entry.value is not None:
                    yield entry
            start = block[-1].seq + 1

    async def follow(self, key: str, kind: type[T]) -> AsyncIterator[T | None]:
        """What lies under a key, now and whenever that has changed; outages are waited out, for ever.

        None stands for no value. A value that is not of the kind is logged and passed over.
        """
        pauses: Sequence[float] = _LOOKS_AGAIN_S[-1:]
        changed, seen, is_quiet = asyncio.Event(), -1, False
        subscription = self._bus.subscribe(self.subject(key), lambda _: changed.set())
        self._bus.on_reconnect(changed.set)
        try:
            while True:
                try:
                    entry = await self.get(key)
                    if entry.revision != seen:
                        seen, pauses = entry.revision, ()
                        yield entry.decode(kind)
                except DecodeFailed as error:
                    self.ignored(entry, error)
                except BusError as error:
                    log.info("%s in %s cannot be read now: %s", key, self.name, error, extra={"action": "bucket_away"})
                    pauses = _LOOKS_AGAIN_S[-1:]
                if pauses:
                    pause_s, *pauses = pauses
                    await asyncio.sleep(pause_s)
                else:
                    rest_s = _LOOK_SELDOM_S if is_quiet and is_lone(self._bus) else _LOOK_ANYWAY_S
                    pauses = _LOOKS_AGAIN_S if await happens(changed, rest_s) else ()
                    is_quiet = not pauses
                    changed.clear()
        finally:
            subscription.unsubscribe()
            self._bus.forget_callbacks(changed.set)

    async def put(self, key: str, value: bytes, *, ttl_s: int = 0) -> int:
        """Writes whatever was there before; returns the new revision."""
        ack = await publish_acked(
            self._bus, self.writes(key), value, headers=_headers(None, ttl_s), timeout_s=self._timeout_s
        )
        return ack.seq

    async def create(self, key: str, value: bytes, *, ttl_s: int = 0) -> int | None:
        """Writes a key that has no value; None when it has one."""
        while True:
            entry = await self.get(key)
            if entry.value is not None:
                return None
            revision = await self.update(key, value, entry.revision, ttl_s=ttl_s)
            if revision is not None:
                return revision
            # Beaten, or the marker itself expired meanwhile: the next look tells which.

    async def update(
        self, key: str, value: bytes, last: int, *, ttl_s: int = 0, timeout_s: float | None = None
    ) -> int | None:
        """Writes when the key's revision still is `last`; None when it is not.

        Args:
            key: The key.
            value: The new value.
            last: The revision that must be the latest; 0 for a key without a trace.
            ttl_s: Whole seconds until the value expires; 0: never.
            timeout_s: How long to wait for the server, when not the bucket's own timeout.
        """
        return await self._write(key, value, _headers(last, ttl_s), timeout_s)

    async def delete(self, key: str, last: int) -> bool:
        """Removes the value when the key's revision still is `last`; False when it is not."""
        headers = {**_headers(last, 0), _OPERATION: "DEL"}
        return await self._write(key, b"", headers, None) is not None

    async def forget(self, key: str) -> None:
        """Removes a key and every trace of it, whatever its revision."""
        await purge_subject(self._bus, self._stream, self.subject(key))

    def ignored(self, entry: Entry, why: DecodeFailed) -> None:
        """Says in the log that an entry cannot be read, once for each that was written, however often it is read."""
        if self._ignored.get(entry.key) == entry.revision:
            return
        self._ignored[entry.key] = entry.revision
        self._ignored.move_to_end(entry.key)
        if len(self._ignored) > _IGNORED_MAX:
            self._ignored.popitem(last=False)
        extra = {"action": "bad_entry"}
        log.warning("%s in %s is ignored: %s; see `sollol doctor`", entry.key[:_KEY_SHOWN], self.name, why, extra=extra)

    def _entry(self, stored: Stored) -> Entry:
        key = stored.subject.removeprefix(self.subject(""))
        is_marker = any(marker in stored.headers for marker in _MARKERS)
        return Entry(key=key, value=None if is_marker else stored.data, revision=stored.seq)

    async def _write(self, key: str, value: bytes, headers: dict[str, str], timeout_s: float | None) -> int | None:
        try:
            ack = await publish_acked(
                self._bus, self.writes(key), value, headers=headers, timeout_s=timeout_s or self._timeout_s
            )
        except JetStreamRefused as error:
            if error.is_lost_race:
                return None
            raise
        return ack.seq


def _headers(last: int | None, ttl_s: int) -> dict[str, str]:
    headers = {} if last is None else {EXPECTED_LAST_SUBJECT_SEQUENCE: str(last)}
    if ttl_s:
        headers[TTL] = str(ttl_s)
    return headers
