"""Files and records in JetStream: contents in an object store's stream, records in a bucket.

A file's content is a row of messages on one subject, written with some of them unacked and read back in blocks, so
that neither needs the whole of it in memory. Its record is written last: a file without one was never finished, and
expires with the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Final, Generic, TypeVar

import msgspec

from sollol_bus.errors import BusError, DecodeFailed, SollolError, error_from
from sollol_bus.jetstream.api import JetStreamRefused, ack_of
from sollol_bus.jetstream.buckets import Bucket, Entry
from sollol_bus.jetstream.job_streams import blob_spec
from sollol_bus.jetstream.stored import purge_subject, stored_block
from sollol_bus.jetstream.streams import StreamSpec, bucket_spec
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_bus.waiting import Window
from sollol_schemas import stores
from sollol_schemas.batches import BatchRecord, FileRecord
from sollol_schemas.errors import ErrorBody, ErrorCode

log = logging.getLogger(__name__)

ANYBODY: Final = "*"
"""In place of an owner: whoever it is."""
CHUNK_BYTES: Final = 128 << 10
_UNACKED_MAX: Final = 8
_BLOCK: Final = 32
_LOOKS: Final = 5
_LOOK_AGAIN_S: Final = 0.3
_ANSWER_S: Final = 5.0
_CHUNKS_MAX: Final = 200_000
"""About 25 GB; the server sets a size in bytes aside at once, a number of messages not."""


def streams(keep_s: float) -> tuple[StreamSpec, ...]:
    """What files and batches need of JetStream."""
    contents = msgspec.structs.replace(blob_spec(stores.FILES_STORE, keep_s), max_msgs=_CHUNKS_MAX)
    return bucket_spec(stores.BATCHES_BUCKET), contents


class Contents:
    """The contents of files, by their id."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def writer(self, file_id: str) -> Writer:
        """Takes the content of a new file."""
        return Writer(self._bus, file_id)

    async def read(self, record: FileRecord) -> AsyncGenerator[bytes, None]:
        """A file's content, in pieces.

        Raises:
            SollolError: It is not there (any more), or the server does not answer.
        """
        size, start, looks = 0, 1, 0
        while size < record.size_bytes:
            found = await stored_block(self._bus, _stream(), _subject(record.file_id), start, count=_BLOCK)
            looks = 0 if found else looks + 1
            if not found and looks < _LOOKS:
                await asyncio.sleep(_LOOK_AGAIN_S)  # a server that is not the stream's leader may be behind
                continue
            if not found:
                message = f"the content of file {record.file_id} is not kept any more"
                raise error_from(ErrorBody(code=ErrorCode.UNKNOWN_REQUEST, message=message))
            for msg in found:
                size += len(msg.data)
                yield msg.data
            start = found[-1].seq + 1

    async def delete(self, file_id: str) -> None:
        """Forgets a content."""
        await purge_subject(self._bus, _stream(), _subject(file_id))


class Writer:
    """Writes one file's content; pieces of any size go in, messages of `CHUNK_BYTES` go out."""

    def __init__(self, bus: Bus, file_id: str) -> None:
        self.file_id = file_id
        self.size_bytes = 0
        self._bus = bus
        self._buffer = bytearray()
        self._window = Window(_UNACKED_MAX)

    async def write(self, piece: bytes) -> None:
        """Takes a piece; waits while too much is unacked.

        Raises:
            SollolError: It cannot be stored.
        """
        self.size_bytes += len(piece)
        self._buffer += piece
        while len(self._buffer) >= CHUNK_BYTES:
            await self._send(bytes(self._buffer[:CHUNK_BYTES]))
            del self._buffer[:CHUNK_BYTES]

    async def finish(self) -> None:
        """Returns when everything is stored.

        Raises:
            SollolError: It is not.
        """
        if self._buffer:
            await self._send(bytes(self._buffer))
            self._buffer.clear()
        await self._window.finish()

    async def abandon(self) -> None:
        """Removes what was written, as far as that can be done now; the rest expires."""
        try:
            await Contents(self._bus).delete(self.file_id)
        except SollolError as error:
            log.info("file %s is left to expire: %s", self.file_id, error, extra={"action": "file_abandoned"})

    async def _send(self, chunk: bytes) -> None:
        await self._window.enter()
        try:
            self._bus.ask(_subject(self.file_id), chunk, self._on_ack, timeout_s=2 * _ANSWER_S)
        except SollolError:
            self._window.leave()
            raise

    def _on_ack(self, reply: Msg | BusError) -> None:
        try:
            ack_of(reply)
        except JetStreamRefused as error:
            full = ErrorBody(code=ErrorCode.QUEUE_FULL, message="there is no room for files: delete some")
            self._window.leave(error_from(full) if error.is_full else error)
        except BusError as error:
            self._window.leave(error)
        else:
            self._window.leave()


R = TypeVar("R", FileRecord, BatchRecord)


class Records(Generic[R]):
    """Records of one kind, under `<kind>.<owner>.<id>`.

    Args:
        bus: The gateway's connection.
        kind: `file` or `batch`.
        type_: Their type.
    """

    def __init__(self, bus: Bus, kind: str, type_: type[R]) -> None:
        self._bus = bus
        self._kind = kind
        self._type: type[R] = type_
        self._bucket = Bucket(bus, stores.BATCHES_BUCKET)

    @property
    def changes(self) -> str:
        """Where changes can be overheard."""
        return self._bucket.subject(f"{self._kind}.>")

    async def find(self, record_id: str, owner: str) -> tuple[R | None, int]:
        """A record and its revision; `owner` may be `ANYBODY`."""
        entry: Entry = await self._bucket.get(f"{self._kind}.{owner}.{record_id}")
        return self._read(entry), entry.revision

    async def write(self, record: R, record_id: str, last: int, *, ttl_s: int = 0) -> int | None:
        """Writes over revision `last`; the new revision, or None when somebody else wrote first."""
        key = f"{self._kind}.{record.owner}.{record_id}"
        return await self._bucket.update(key, encode(record), last, ttl_s=ttl_s)

    async def delete(self, record: R, record_id: str) -> None:
        """Forgets a record, and that there was one."""
        await self._bucket.forget(f"{self._kind}.{record.owner}.{record_id}")

    async def every(self, owner: str) -> list[tuple[R, int]]:
        """All records of an owner with their revisions, in the order of their last writing."""
        entries = await self._bucket.every(f"{self._kind}.{owner}.*")
        found = ((self._read(entry), entry.revision) for entry in entries)
        return [(record, revision) for record, revision in found if record is not None]

    def _read(self, entry: Entry) -> R | None:
        """The record; what is none, or another's, is said in the log, and is not there for anybody."""
        try:
            return entry.decode(self._type)
        except DecodeFailed as error:
            self._bucket.ignored(entry, error)
            return None


def _stream() -> str:
    return f"OBJ_{stores.FILES_STORE}"


def _subject(file_id: str) -> str:
    return f"$O.{stores.FILES_STORE}.C.{file_id}"
