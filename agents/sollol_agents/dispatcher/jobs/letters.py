"""Dead letters: the jobs that ended without an answer, kept so that they can be run again."""

from __future__ import annotations

import logging

import msgspec

from sollol_agents.dispatcher.jobs.persistence import persistently
from sollol_bus.errors import DecodeFailed
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.jetstream.stored import Stored, purge_subject, stored_message
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import headers as h
from sollol_schemas import stores
from sollol_schemas.errors import ErrorBody
from sollol_schemas.jobs import JobStatus
from sollol_schemas.routing import routing_headers
from sollol_schemas.stores import LETTERS_STREAM
from sollol_schemas.subjects import JOB_LETTER

log = logging.getLogger(__name__)

_MESSAGE_MAX = 500


class Letters:
    """The dead letters of all jobs."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def keep(self, status: JobStatus, payload: bytes, headers: dict[str, str]) -> None:
        """Stores the job beside how it ended; goes on through outages."""
        kept = routing_headers(headers)
        kept[h.JOB_STATUS] = encode(shortened(status)).decode()

        async def act() -> None:
            await publish_acked(self._bus, JOB_LETTER.of(status.job_id), payload, headers=dict(kept))

        await persistently(act, f"letter of job {status.job_id}")

    async def find(self, job_id: str) -> tuple[Stored, JobStatus] | None:
        """A job's letter and how the job ended; None when there is none."""
        found = await stored_message(self._bus, LETTERS_STREAM, subject=JOB_LETTER.of(job_id))
        status = status_of(found.headers) if found is not None else None
        return None if found is None or status is None else (found, status)

    async def discard(self, job_id: str) -> None:
        """Throws a job's letter away: it runs again, or is forgotten."""
        await purge_subject(self._bus, stores.LETTERS_STREAM, JOB_LETTER.of(job_id))


def status_of(headers: dict[str, str]) -> JobStatus | None:
    """How the job of a letter ended."""
    try:
        return decode(headers.get(h.JOB_STATUS, "").encode(), JobStatus)
    except DecodeFailed as error:
        log.warning("a dead letter cannot be read: %s", error, extra={"action": "bad_letter"})
        return None


def shortened(status: JobStatus) -> JobStatus:
    """The status, small enough and plain enough for a header."""
    error = status.error
    if error is None:
        return status
    text = error.message.encode("ascii", "replace").decode()[:_MESSAGE_MAX]
    brief = ErrorBody(code=error.code, message=text, status=error.status)
    return msgspec.structs.replace(status, error=brief)
