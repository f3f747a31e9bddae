"""States, results and dead letters of jobs in JetStream: written once, through any outage.

A write whose answer was lost may have happened. Every write here therefore says what must be there before, and when
it is refused looks at what is there: if it is what was to be written, it had happened.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from nats.errors import Error as ClientError
from nats.js.errors import NotFoundError
from nats.js.object_store import ObjectStore

from sollol_bus.errors import BusError, NotConnected, PayloadTooLarge, RequestTimedOut
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.streams import JetStreamRefused, api, publish_acked
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import headers as h
from sollol_schemas import stores, subjects
from sollol_schemas.jobs import TERMINAL, JobResult, JobStatus

log = logging.getLogger(__name__)

T = TypeVar("T")
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0
_ANSWER_S = 3.0


class Overtaken(Exception):
    """Somebody else wrote the job's state first."""


class Expired(Exception):
    """A job's answer is not kept any more."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A message as a stream keeps it."""

    seq: int
    subject: str
    data: bytes
    headers: dict[str, str]
    time: str


class _Raw(msgspec.Struct):
    seq: int
    subject: str
    time: str
    hdrs: str = ""
    data: str = ""


class _Found(msgspec.Struct):
    message: _Raw


async def persistently(act: Callable[[], Awaitable[T]], what: str) -> T:
    """The result of `act`, tried again until JetStream takes it.

    Raises:
        PayloadTooLarge: It can never be taken.
    """
    delay_s = _FIRST_RETRY_S
    while True:
        try:
            return await act()
        except PayloadTooLarge:
            raise
        except (BusError, ClientError, TimeoutError) as error:
            level = logging.WARNING if isinstance(error, JetStreamRefused) else logging.DEBUG
            log.log(level, "%s: again in %.1f s: %s", what, delay_s, error, extra={"action": "job_store_retry"})
        await asyncio.sleep(delay_s)
        delay_s = min(_LAST_RETRY_S, 2 * delay_s)


async def stored_message(bus: Bus, stream: str, *, subject: str = "", seq: int = 0) -> Stored | None:
    """The last message of a subject (wildcards permitted), or the one with a number; None when there is none."""
    question: dict[str, object] = {"last_by_subj": subject} if subject else {"seq": seq}
    try:
        raw = decode(await api(bus, f"STREAM.MSG.GET.{stream}", question), _Found).message
    except JetStreamRefused as error:
        if error.is_not_found:
            return None
        raise
    return Stored(
        seq=raw.seq,
        subject=raw.subject,
        data=base64.b64decode(raw.data),
        headers=_headers(base64.b64decode(raw.hdrs)),
        time=raw.time,
    )


async def delete_message(bus: Bus, stream: str, seq: int) -> None:
    """Removes a message; one that is gone already is no error."""
    try:
        await api(bus, f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
    except JetStreamRefused as error:
        log.debug("message %d of %s: %s", seq, stream, error)


async def purge_subject(bus: Bus, stream: str, subject: str) -> None:
    """Removes every message of one subject."""
    await api(bus, f"STREAM.PURGE.{stream}", {"filter": subject})


class States:
    """The state of every job, under `job.<id>`."""

    def __init__(self, bus: Bus, keep_s: float) -> None:
        self._bus = bus
        self._bucket = Bucket(bus, stores.JOBS_BUCKET, timeout_s=_ANSWER_S)
        self._keep_s = max(1, round(keep_s))

    async def read(self, job_id: str) -> tuple[JobStatus | None, int]:
        """What is known about a job, and the revision to be passed to `write`."""
        entry = await self._bucket.get(_key(job_id))
        return entry.decode(JobStatus), entry.revision

    async def write(self, status: JobStatus, last: int) -> int:
        """Writes a state over revision `last`; returns the new revision. Goes on through outages.

        Raises:
            Overtaken: The revision is not `last` any more.
        """
        value = encode(status)
        ttl_s = self._keep_s if status.state in TERMINAL else 0

        async def act() -> int:
            revision = await self._bucket.update(_key(status.job_id), value, last, ttl_s=ttl_s)
            if revision is not None:
                return revision
            entry = await self._bucket.get(_key(status.job_id))
            if entry.value == value:
                return entry.revision
            if entry.value is None and entry.revision != last:
                return await self._over_marker(status, value, entry.revision, ttl_s)
            raise Overtaken(status.job_id)

        return await persistently(act, f"state of job {status.job_id}")

    def send(self, status: JobStatus, last: int) -> None:
        """Writes a state over revision `last` without waiting for it; when it fails, or is lost, nothing is written."""
        headers = {h.EXPECTED_LAST_SUBJECT_SEQUENCE: str(last)}
        try:
            self._bus.publish(f"$KV.{stores.JOBS_BUCKET}.{_key(status.job_id)}", encode(status), headers=headers)
        except NotConnected:
            log.debug("job %s: its state could not be sent", status.job_id)

    async def _over_marker(self, status: JobStatus, value: bytes, marker: int, ttl_s: int) -> int:
        """The state expired or was purged: what is left is its marker, which may be written over."""
        revision = await self._bucket.update(_key(status.job_id), value, marker, ttl_s=ttl_s)
        if revision is None:
            raise Overtaken(status.job_id)
        return revision


class Results:
    """The result of every job that has ended; bodies above a limit lie in the object store."""

    def __init__(self, bus: Bus, inline_bytes: int) -> None:
        self._bus = bus
        self._inline_bytes = min(inline_bytes, bus.max_payload // 2)
        self._blobs: ObjectStore | None = None

    async def read(self, job_id: str) -> tuple[JobResult | None, int]:
        """The stored result and its number; None and 0 when there is none."""
        found = await stored_message(self._bus, stores.RESULTS_STREAM, subject=subjects.JOB_RESULT.of(job_id))
        return (None, 0) if found is None else (decode(found.data, JobResult), found.seq)

    async def body(self, result: JobResult) -> bytes:
        """A result's answer, from wherever it lies.

        Raises:
            Expired: The object store does not keep it any more.
            BusError: It is in the object store, and cannot be had from there now.
        """
        if not result.object_name:
            return bytes(result.body)
        try:
            found = await (await self._store()).get(result.object_name)
        except NotFoundError as error:
            raise Expired(result.job_id) from error
        except ClientError as error:
            raise BusError(f"the object store does not give the answer of job {result.job_id}: {error}") from error
        except TimeoutError as error:
            raise RequestTimedOut(f"the object store does not answer: {error}") from error
        return bytes(found.data or b"")

    async def place(self, result: JobResult, body: bytes) -> JobResult:
        """The result with its answer, or with the name under which the object store has it."""
        placed = msgspec.structs.replace(result, body_bytes=len(body))
        if len(body) <= self._inline_bytes:
            return msgspec.structs.replace(placed, body=msgspec.Raw(body))
        name = f"{result.job_id}.{result.run}"

        async def act() -> None:
            await (await self._store()).put(name, body)

        await persistently(act, f"answer of job {result.job_id}")
        return msgspec.structs.replace(placed, object_name=name)

    async def publish(self, result: JobResult, last: int) -> tuple[JobResult, int]:
        """Stores a result where number `last` (0: none) is the latest; goes on through outages.

        Returns:
            The result that stands, and its number: another one, when somebody was first.
        """
        payload = encode(result)
        headers = {h.EXPECTED_LAST_SUBJECT_SEQUENCE: str(last)}

        async def act() -> tuple[JobResult, int]:
            try:
                ack = await publish_acked(
                    self._bus,
                    subjects.JOB_RESULT.of(result.job_id),
                    payload,
                    headers=dict(headers),
                    timeout_s=_ANSWER_S,
                )
            except JetStreamRefused as error:
                if not error.is_lost_race:
                    raise
                standing, seq = await self.read(result.job_id)
                if standing is None:  # the earlier result has expired meanwhile
                    headers[h.EXPECTED_LAST_SUBJECT_SEQUENCE] = "0"
                    raise
                return standing, seq
            return result, ack.seq

        return await persistently(act, f"result of job {result.job_id}")

    async def discard(self, job_id: str) -> None:
        """Removes a job's result, and its answer wherever it lies."""
        result, _ = await self.read(job_id)
        if result is not None and result.object_name:
            try:
                await (await self._store()).delete(result.object_name)
            except NotFoundError:
                log.debug("job %s: its answer is gone already", job_id)
            except ClientError as error:
                raise BusError(f"the answer of job {job_id} cannot be removed: {error}") from error
        await purge_subject(self._bus, stores.RESULTS_STREAM, subjects.JOB_RESULT.of(job_id))

    async def _store(self) -> ObjectStore:
        if self._blobs is None:
            self._blobs = await self._bus.jetstream.object_store(stores.JOB_BLOBS)
        return self._blobs


def _key(job_id: str) -> str:
    return f"job.{job_id}"


def _headers(block: bytes) -> dict[str, str]:
    """The headers in a message's header block."""
    lines = block.decode(errors="replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}
