"""Lists of jobs, read from the streams in batches: the newest states first, the oldest waiting jobs first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec

from sollol_agents.dispatcher.jobs.letters import status_of
from sollol_agents.dispatcher.jobs.records import is_job, stored_status
from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.jetstream.api import api
from sollol_bus.jetstream.stored import Stored, StreamState, stored_block, stream_info
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode
from sollol_schemas import owners, stores, subjects
from sollol_schemas.jobs import JobListReply, JobListRequest, JobState, JobStatus

log = logging.getLogger(__name__)

_STATES_STREAM = f"KV_{stores.JOBS_BUCKET}"
_STATE_SUBJECTS = f"$KV.{stores.JOBS_BUCKET}.job.*"
_BATCH = 256
_LOOKED_AT_MAX = 50_000
"""States read for one list: about a second's work."""
_BODIES_LOOKED_AT_MAX = 4096
"""Jobs read with their bodies for the list of one owner, in the queue and among the letters."""


class _ConsumerInfo(msgspec.Struct):
    num_pending: int = 0
    num_ack_pending: int = 0


class Listing:
    """Reads what exists from the streams of jobs."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._unreadable: list[str] = []
        """The jobs whose states could not be read at the last look."""

    async def latest(self, asked: JobListRequest, caller: str) -> JobListReply:
        """A caller's jobs whose state changed last, then those that nobody has worked on, and how many wait in all."""
        wanted = frozenset(asked.states)
        jobs: list[JobStatus] = []
        seen = 0
        async for status in self.every():
            seen += 1
            if owners.is_mine(caller, status.job_id) and (not wanted or status.state in wanted):
                jobs.append(status)
            if len(jobs) >= asked.limit or seen >= _LOOKED_AT_MAX:
                break
        if len(jobs) < asked.limit and (not wanted or JobState.QUEUED in wanted):
            jobs += await self._untouched(asked.limit - len(jobs), {job.job_id for job in jobs}, caller)
        return await self._with_counts(jobs)

    async def dead(self, asked: JobListRequest, caller: str) -> JobListReply:
        """A caller's jobs of which a letter is kept, the latest first."""
        wanted = frozenset(asked.states)
        found: list[JobStatus] = []
        looked_at = 0
        last = (await stream_info(self._bus, stores.LETTERS_STREAM)).state
        async for batch in self._backwards(stores.LETTERS_STREAM, subjects.JOB_LETTER.all, last):
            mine = [msg for msg in reversed(batch) if owners.is_mine(caller, subjects.last_token(msg.subject))]
            statuses = [status_of(msg.headers) for msg in mine]
            found += [s for s in statuses if s is not None and (not wanted or s.state in wanted)]
            looked_at += len(batch)
            if len(found) >= asked.limit or (caller and looked_at >= _BODIES_LOOKED_AT_MAX):
                break
        return await self._with_counts(found[: asked.limit])

    async def every(self) -> AsyncIterator[JobStatus]:
        """Every job that somebody has worked on, the newest first; how many states cannot be read is logged."""
        state = (await stream_info(self._bus, _STATES_STREAM)).state
        unreadable: list[str] = []
        try:
            async for batch in self._backwards(_STATES_STREAM, _STATE_SUBJECTS, state):
                for msg in reversed(batch):
                    status = _state_in(msg)
                    if msg.data and status is None:
                        unreadable.append(subjects.last_token(msg.subject))
                    if status is not None:
                        yield status
        finally:
            if unreadable and unreadable != self._unreadable:
                extra = {"action": "bad_job_states", "job_id": unreadable[0]}
                log.warning("states of jobs cannot be read, %d; see `sollol doctor`", len(unreadable), extra=extra)
            self._unreadable = unreadable

    async def _backwards(self, stream: str, subject: str, state: StreamState) -> AsyncIterator[list[Stored]]:
        """A stream's messages from its end to its beginning, in batches that are each in order."""
        upper = state.last_seq
        step = _BATCH
        while upper >= max(1, state.first_seq) and state.messages:
            lower = max(state.first_seq, upper - step + 1)
            batch: list[Stored] = []
            start = lower
            while start <= upper:
                part = await stored_block(self._bus, stream, subject, start)
                inside = [m for m in part if m.seq <= upper]
                batch += inside
                if not part or len(inside) < len(part):
                    break
                start = part[-1].seq + 1
            if batch:
                yield batch
            upper = lower - 1
            step = _BATCH if batch else step * 8  # over gaps in long strides

    async def _untouched(self, limit: int, known: set[str], caller: str) -> list[JobStatus]:
        """A caller's jobs that wait in the queue or for their time, the oldest first."""
        jobs: list[JobStatus] = []
        for stream in (stores.JOBS_STREAM, stores.DELAYED_STREAM):
            state = (await stream_info(self._bus, stream)).state
            start = state.first_seq
            looked_at = 0
            while state.messages and start <= state.last_seq and len(jobs) < limit:
                part = await stored_block(self._bus, stream, f"{subjects.V1}.jobs.*.*.*", start)
                looked_at += len(part)
                if not part or (caller and looked_at > _BODIES_LOOKED_AT_MAX):
                    break
                mine = [msg for msg in part if owners.is_mine(caller, subjects.last_token(msg.subject))]
                jobs += [s for s in map(_waiting, filter(_is_job, mine)) if s.job_id not in known]
                start = part[-1].seq + 1
        return jobs[:limit]

    async def _with_counts(self, jobs: list[JobStatus]) -> JobListReply:
        counts = await asyncio.gather(*(self._waiting_at(p) for p in subjects.JOB_PRIORITIES))
        delayed = (await stream_info(self._bus, stores.DELAYED_STREAM)).state.messages
        dead = (await stream_info(self._bus, stores.LETTERS_STREAM)).state.messages
        waiting = {str(p): n for p, n in zip(subjects.JOB_PRIORITIES, counts, strict=True) if n}
        return JobListReply(jobs=tuple(jobs), waiting=waiting, delayed=delayed, dead=dead)

    async def _waiting_at(self, priority: int) -> int:
        try:
            info = decode(await api(self._bus, f"CONSUMER.INFO.{stores.JOBS_STREAM}.p{priority}"), _ConsumerInfo)
        except BusError:
            return 0
        return info.num_pending + info.num_ack_pending


def _state_in(msg: Stored) -> JobStatus | None:
    """The state in a message of the bucket; None of a marker, and of what cannot be read."""
    try:
        status = decode(msg.data, JobStatus) if msg.data else None
    except DecodeFailed:
        return None
    return status if status is not None and status.job_id == subjects.last_token(msg.subject) else None


def _is_job(stored: Stored) -> bool:
    return is_job(stored.subject)


def _waiting(stored: Stored) -> JobStatus:
    return stored_status(stored.subject, stored.data, stored.headers, submitted_at=stored.time)
