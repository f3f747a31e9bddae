"""The state of every job, written over the one that was read and no other."""

from __future__ import annotations

import logging

from sollol_agents.dispatcher.jobs.persistence import ANSWER_S, persistently
from sollol_bus.errors import DecodeFailed, NotConnected
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_schemas import headers as h
from sollol_schemas import stores
from sollol_schemas.jobs import TERMINAL, JobStatus

log = logging.getLogger(__name__)


class Overtaken(Exception):
    """Somebody else wrote the job's state first."""


class Unreadable(DecodeFailed):
    """What lies under the job's key is no state; whoever ends the job may write over `revision`."""

    def __init__(self, job_id: str, revision: int, why: DecodeFailed) -> None:
        super().__init__(f"the state of job {job_id} cannot be read: {why.message}")
        self.revision = revision


class States:
    """The state of every job, under `job.<id>`."""

    def __init__(self, bus: Bus, keep_s: float) -> None:
        self._bus = bus
        self._bucket = Bucket(bus, stores.JOBS_BUCKET, timeout_s=ANSWER_S)
        self._keep_s = max(1, round(keep_s))

    async def read(self, job_id: str) -> tuple[JobStatus | None, int]:
        """What is known about a job, and the revision to be passed to `write`.

        Raises:
            Unreadable: Something is written there that is no state.
        """
        entry = await self._bucket.get(_key(job_id))
        try:
            return entry.decode(JobStatus), entry.revision
        except DecodeFailed as error:
            raise Unreadable(job_id, entry.revision, error) from error

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
            self._bus.publish(self._bucket.writes(_key(status.job_id)), encode(status), headers=headers)
        except NotConnected:
            log.debug("job %s: its state could not be sent", status.job_id)

    async def _over_marker(self, status: JobStatus, value: bytes, marker: int, ttl_s: int) -> int:
        """The state expired or was purged: what is left is its marker, which may be written over."""
        revision = await self._bucket.update(_key(status.job_id), value, marker, ttl_s=ttl_s)
        if revision is None:
            raise Overtaken(status.job_id)
        return revision


def _key(job_id: str) -> str:
    return f"job.{job_id}"
