"""The result of every job that has ended, and its answer wherever that lies."""

from __future__ import annotations

import io
import logging
from contextlib import suppress

import msgspec
from nats.errors import Error as ClientError
from nats.js.errors import NotFoundError
from nats.js.object_store import ObjectStore

from sollol_agents.dispatcher.jobs.persistence import ANSWER_S, persistently
from sollol_agents.dispatcher.jobs.records import as_told
from sollol_bus.errors import BusError, DecodeFailed, RequestTimedOut
from sollol_bus.jetstream.api import JetStreamRefused, publish_acked
from sollol_bus.jetstream.stored import purge_subject, stored_message
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import headers as h
from sollol_schemas import owners, stores
from sollol_schemas.jobs import JobResult

log = logging.getLogger(__name__)


class Expired(Exception):
    """A job's answer is not kept any more."""


class UnreadableResult(DecodeFailed):
    """What lies in a result's place is none; a result may be stored where `seq` is the latest."""

    def __init__(self, job_id: str, seq: int, why: DecodeFailed) -> None:
        super().__init__(f"the result of job {job_id} cannot be read: {why.message}")
        self.seq = seq


class Results:
    """The result of every job that has ended; bodies above a limit lie in the object store."""

    def __init__(self, bus: Bus, inline_bytes: int) -> None:
        self._bus = bus
        self._inline_bytes = min(inline_bytes, bus.max_payload // 2)
        self._blobs: ObjectStore | None = None

    async def read(self, job_id: str) -> tuple[JobResult | None, int]:
        """The stored result and its number; None and 0 when there is none.

        Raises:
            UnreadableResult: Something is stored there that is no result.
        """
        found = await stored_message(self._bus, stores.RESULTS_STREAM, subject=owners.result_subject(job_id))
        if found is None:
            return None, 0
        try:
            return msgspec.structs.replace(decode(found.data, JobResult), job_id=job_id), found.seq
        except DecodeFailed as error:
            raise UnreadableResult(job_id, found.seq, error) from error

    async def body(self, result: JobResult) -> bytes:
        """A result's answer, from wherever it lies.

        Raises:
            Expired: The object store does not keep it any more.
            BusError: It is in the object store, and cannot be had from there now.
        """
        if not result.object_name:
            return bytes(result.body)
        body = io.BytesIO()  # nats-py itself would copy all that came before for every part
        try:
            await (await self._store()).get(result.object_name, writeinto=body)
        except NotFoundError as error:
            raise Expired(result.job_id) from error
        except ClientError as error:
            raise BusError(f"the object store does not give the answer of job {result.job_id}: {error}") from error
        except TimeoutError as error:
            raise RequestTimedOut(f"the object store does not answer: {error}") from error
        return body.getvalue()

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
            The result that stands, and its number: another one of the same run, when somebody was first.
        """
        payload = encode(as_told(result))

        async def act() -> tuple[JobResult, int]:
            try:
                ack = await publish_acked(
                    self._bus,
                    owners.result_subject(result.job_id),
                    payload,
                    headers={h.EXPECTED_LAST_SUBJECT_SEQUENCE: str(last)},
                    timeout_s=ANSWER_S,
                )
            except JetStreamRefused as error:
                if not error.is_lost_race:
                    raise
                try:
                    standing, seq = await self.read(result.job_id)
                except UnreadableResult as stranger:
                    return await self.publish(result, stranger.seq)
                if standing is None or standing.run < result.run:  # the earlier one has expired, or may be replaced
                    return await self.publish(result, seq)
                return standing, seq
            return result, ack.seq

        return await persistently(act, f"result of job {result.job_id}")

    async def discard(self, job_id: str) -> None:
        """Removes a job's result, and its answer wherever it lies."""
        result: JobResult | None = None
        with suppress(UnreadableResult):
            result, _ = await self.read(job_id)
        if result is not None and result.object_name:
            try:
                await (await self._store()).delete(result.object_name)
            except NotFoundError:
                log.debug("job %s: its answer is gone already", job_id)
            except ClientError as error:
                raise BusError(f"the answer of job {job_id} cannot be removed: {error}") from error
        await purge_subject(self._bus, stores.RESULTS_STREAM, owners.result_subject(job_id))

    async def _store(self) -> ObjectStore:
        if self._blobs is None:
            self._blobs = await self._bus.nats.jetstream().object_store(stores.JOB_BLOBS)
        return self._blobs
