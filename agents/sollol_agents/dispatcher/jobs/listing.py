"""Lists of jobs, read from the streams in batches: the newest states first, the oldest waiting jobs first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from sollol_agents.dispatcher.jobs.letters import status_of
from sollol_agents.dispatcher.jobs.records import stored_status
from sollol_bus.errors import BusError, DecodeFailed, RequestTimedOut
from sollol_bus.jetstream.api import api
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import stores, subjects
from sollol_schemas.headers import STATUS
from sollol_schemas.jobs import JobListReply, JobListRequest, JobState, JobStatus

_STATES_STREAM = f"KV_{stores.JOBS_BUCKET}"
_STATE_SUBJECTS = f"$KV.{stores.JOBS_BUCKET}.job.*"
_BATCH = 256
_BATCH_BYTES = 4 << 20
_TIMEOUT_S = 5.0
_LOOKED_AT_MAX = 50_000
"""States read for one list: about a second's work."""


class _State(msgspec.Struct):
    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0


class _Info(msgspec.Struct):
    state: _State


class _ConsumerInfo(msgspec.Struct):
    num_pending: int = 0
    num_ack_pending: int = 0


class Listing:
    """Reads what exists from the streams of jobs."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def latest(self, asked: JobListRequest) -> JobListReply:
        """The jobs whose state changed last, then those that nobody has worked on, and how many wait."""
        wanted = frozenset(asked.states)
        jobs: list[JobStatus] = []
        seen = 0
        async for status in self._newest():
            seen += 1
            if not wanted or status.state in wanted:
                jobs.append(status)
            if len(jobs) >= asked.limit or seen >= _LOOKED_AT_MAX:
                break
        if len(jobs) < asked.limit and (not wanted or JobState.QUEUED in wanted):
            jobs += await self._untouched(asked.limit - len(jobs), {job.job_id for job in jobs})
        return await self._with_counts(jobs)

    async def dead(self, asked: JobListRequest) -> JobListReply:
        """The jobs of which a letter is kept, the latest first."""
        wanted = frozenset(asked.states)
        found: list[JobStatus] = []
        last = (await self._info(stores.LETTERS_STREAM)).state
        async for batch in self._backwards(stores.LETTERS_STREAM, subjects.JOB_LETTER.all, last):
            statuses = [status_of(dict(msg.headers or {})) for msg in reversed(batch)]
            found += [s for s in statuses if s is not None and (not wanted or s.state in wanted)]
            if len(found) >= asked.limit:
                break
        return await self._with_counts(found[: asked.limit])

    async def every(self) -> AsyncIterator[JobStatus]:
        """Every job that somebody has worked on, the newest first."""
        async for status in self._newest():
            yield status

    async def _newest(self) -> AsyncIterator[JobStatus]:
        state = (await self._info(_STATES_STREAM)).state
        async for batch in self._backwards(_STATES_STREAM, _STATE_SUBJECTS, state):
            for msg in reversed(batch):
                try:
                    if msg.data:
                        yield decode(msg.data, JobStatus)
                except DecodeFailed:
                    continue

    async def _backwards(self, stream: str, subject: str, state: _State) -> AsyncIterator[list[Msg]]:
        """A stream's messages from its end to its beginning, in batches that are each in order."""
        upper = state.last_seq
        step = _BATCH
        while upper >= max(1, state.first_seq) and state.messages:
            lower = max(state.first_seq, upper - step + 1)
            batch: list[Msg] = []
            start = lower
            while start <= upper:
                part = await self._batch(stream, subject, start)
                inside = [m for m in part if _seq(m) <= upper]
                batch += inside
                if not part or len(inside) < len(part):
                    break
                start = _seq(part[-1]) + 1
            if batch:
                yield batch
            upper = lower - 1
            step = _BATCH if batch else step * 8  # over gaps in long strides

    async def _untouched(self, limit: int, known: set[str]) -> list[JobStatus]:
        """Jobs that wait in the queue or for their time, the oldest first."""
        jobs: list[JobStatus] = []
        for stream in (stores.JOBS_STREAM, stores.DELAYED_STREAM):
            state = (await self._info(stream)).state
            start = state.first_seq
            while state.messages and start <= state.last_seq and len(jobs) < limit:
                part = await self._batch(stream, f"{subjects.V1}.jobs.*.*.*", start)
                if not part:
                    break
                jobs += [s for s in map(_waiting, part) if s.job_id not in known]
                start = _seq(part[-1]) + 1
        return jobs[:limit]

    async def _with_counts(self, jobs: list[JobStatus]) -> JobListReply:
        counts = await asyncio.gather(*(self._waiting_at(p) for p in subjects.JOB_PRIORITIES))
        delayed = (await self._info(stores.DELAYED_STREAM)).state.messages
        dead = (await self._info(stores.LETTERS_STREAM)).state.messages
        waiting = {str(p): n for p, n in zip(subjects.JOB_PRIORITIES, counts, strict=True) if n}
        return JobListReply(jobs=tuple(jobs), waiting=waiting, delayed=delayed, dead=dead)

    async def _waiting_at(self, priority: int) -> int:
        try:
            info = decode(await api(self._bus, f"CONSUMER.INFO.{stores.JOBS_STREAM}.p{priority}"), _ConsumerInfo)
        except BusError:
            return 0
        return info.num_pending + info.num_ack_pending

    async def _info(self, stream: str) -> _Info:
        return decode(await api(self._bus, f"STREAM.INFO.{stream}"), _Info)

    async def _batch(self, stream: str, subject: str, start: int) -> list[Msg]:
        """Up to 256 messages from number `start` on.

        Raises:
            BusError: The connection broke in the middle, or the server did not answer.
        """
        found: list[Msg] = []
        broken: list[BusError] = []
        is_over = asyncio.Event()

        def on_message(msg: Msg | BusError) -> None:
            if isinstance(msg, BusError):
                broken.append(msg)
                is_over.set()
            elif not msg.data and STATUS in (msg.headers or {}):
                is_over.set()
            else:
                found.append(msg)

        inbox = self._bus.reply_inbox(on_message)
        question = {"seq": max(1, start), "next_by_subj": subject, "batch": _BATCH, "max_bytes": _BATCH_BYTES}
        try:
            self._bus.publish(f"$JS.API.DIRECT.GET.{stream}", encode(question), reply=inbox.subject)
            async with asyncio.timeout(_TIMEOUT_S):
                await is_over.wait()
        except TimeoutError as error:
            raise RequestTimedOut(f"stream {stream} does not answer") from error
        finally:
            inbox.close()
        if broken:
            raise broken[0]
        return found


def _seq(msg: Msg) -> int:
    return int((msg.headers or {}).get("Nats-Sequence", "0"))


def _waiting(msg: Msg) -> JobStatus:
    headers = msg.headers or {}
    subject, stored_at = headers.get("Nats-Subject", "..0."), headers.get("Nats-Time-Stamp", "")
    return stored_status(subject, msg.data, headers, submitted_at=stored_at)
