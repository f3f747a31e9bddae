"""One batch at work: its requests become durable jobs, its jobs' answers become files.

The worker's id stands in the batch's record, which it writes once a second. Whoever writes over it, because the
worker fell silent or a client cancelled, makes the next write fail: a worker that was replaced stops then. Jobs have
the batch's id and the line's number as their id, so that a worker that begins anew finds what is done already; the
files of the one before are left to expire.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import msgspec

from sollol_agents.gateway.batches.lines import Checked, Line, Splitter, Unusable, answer_line, read_line
from sollol_agents.gateway.batches.records import OUTPUT_PURPOSE
from sollol_agents.gateway.batches.store import Contents, Records, Writer
from sollol_bus.errors import Conflict, RequestError, error_from
from sollol_bus.sdk.batch import Batch
from sollol_bus.sdk.jobs import JobAnswer, Jobs
from sollol_bus.waiting import happens
from sollol_schemas.batches import ENDED, BatchProblem, BatchRecord, BatchState, FileRecord
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.jobs import Job

log = logging.getLogger(__name__)

BEAT_S: Final = 1.0
_AHEAD: Final = 512


class Replaced(Exception):
    """Another gateway works on the batch."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch may be at most."""

    requests: int
    line_bytes: int
    keep_s: float


class Desk:
    """What every batch needs: the stores, the jobs and the clock.

    Args:
        contents: Contents of files.
        files: Records of files.
        batches: Records of batches.
        jobs: Durable jobs.
        limits: What a batch may be.
        now_s: Seconds since 1970.
        new_id: A new id with a prefix.
    """

    def __init__(
        self,
        contents: Contents,
        files: Records[FileRecord],
        batches: Records[BatchRecord],
        jobs: Jobs,
        limits: Limits,
        *,
        now_s: Callable[[], int],
        new_id: Callable[[str], str],
    ) -> None:
        self.contents = contents
        self.files = files
        self.batches = batches
        self.jobs = jobs
        self.limits = limits
        self.now_s = now_s
        self.new_id = new_id

    async def keep(self, writer: Writer, owner: str, purpose: str, filename: str) -> FileRecord:
        """The record of a file whose content is written.

        Raises:
            SollolError: It could not be stored.
        """
        await writer.finish()
        now_s = self.now_s()
        record = FileRecord(
            file_id=writer.file_id,
            owner=owner,
            purpose=purpose,
            filename=filename,
            size_bytes=writer.size_bytes,
            created_at_s=now_s,
            expires_at_s=now_s + int(self.limits.keep_s),
        )
        if await self.files.write(record, record.file_id, 0, ttl_s=int(self.limits.keep_s)) is None:
            raise Conflict(f"file {record.file_id} exists")
        return record


class BatchRun:
    """The work on one batch.

    Args:
        desk: Stores, jobs and clock.
        record: The batch, with this gateway as its worker.
        revision: The record's.
    """

    def __init__(self, desk: Desk, record: BatchRecord, revision: int) -> None:
        self._desk = desk
        self._record = record
        self._revision = revision
        self._writing = asyncio.Lock()
        self._jobs = Batch(desk.jobs, record.batch_id, priority=record.priority, ahead=_AHEAD)
        self._is_poked = asyncio.Event()
        self._is_cancelled = record.state is BatchState.CANCELLING
        if self._is_cancelled:
            self._jobs.stop()
        self._output = desk.contents.writer(desk.new_id("file"))
        self._errors = desk.contents.writer(desk.new_id("file"))
        self._completed = self._failed = 0

    async def run(self) -> None:
        """Returns when the batch has ended.

        Raises:
            Replaced: Another gateway works on it now.
            SollolError: The stores cannot be reached; somebody may go on with it later.
        """
        try:
            await self._run()
        except RequestError as error:
            problem = BatchProblem(code="job_refused", message=error.message)
            if error.body.code is ErrorCode.UNKNOWN_REQUEST:
                problem = BatchProblem(code="file_not_found", message="the input file does not exist any more")
            await self._into(BatchState.FAILED, problems=(problem,))

    async def _run(self) -> None:
        source, _ = await self._desk.files.find(self._record.input_file_id, self._record.owner)
        if source is None:
            raise error_from(ErrorBody(code=ErrorCode.UNKNOWN_REQUEST, message="no such file"))
        if self._record.state is BatchState.VALIDATING:
            total, problems = await self._validated(source)
            if problems:
                await self._into(BatchState.FAILED, problems=tuple(problems))
                return
            await self._into(BatchState.IN_PROGRESS, total=total)
        if self._record.total:
            await self._answer(source)
        await self._finish()

    async def watch(self) -> None:
        """Writes the record once a second, and sees that somebody cancelled or the time is over."""
        while True:
            await happens(self._is_poked, BEAT_S)
            self._is_poked.clear()
            if self._desk.now_s() >= self._record.expires_at_s:
                self._jobs.stop()
            await self._write(lambda record: record)

    def poke(self) -> None:
        """Somebody seems to have cancelled."""
        self._is_poked.set()

    async def release(self) -> None:
        """Lets another gateway go on at once, when this one stops."""
        if self._record.state not in ENDED:
            await self._write(lambda record: msgspec.structs.replace(record, worker=""))

    async def give_up(self) -> None:
        """Ends the batch because work on it fails whoever does it."""
        bug = BatchProblem(code="internal", message="the gateway failed at this batch; its log says why")
        await self._into(BatchState.FAILED, problems=(bug,))

    # -- the file -------------------------------------------------------------------------------------------

    async def _validated(self, source: FileRecord) -> tuple[int, list[BatchProblem]]:
        checked = Checked(self._record.endpoint, self._desk.limits.requests)
        try:
            async with aclosing(self._texts(source)) as texts:
                async for text, number in texts:
                    if not checked.takes(text, number):
                        break
        except Unusable as error:
            checked.problems.append(error.problem)
        if not checked.total and not checked.problems:
            checked.problems.append(BatchProblem(code="empty_file", message="the file has no requests in it"))
        return checked.total, checked.problems

    async def _lines(self, source: FileRecord) -> AsyncGenerator[Line, None]:
        async with aclosing(self._texts(source)) as texts:
            async for text, number in texts:
                yield read_line(text, number, self._record.endpoint)

    async def _texts(self, source: FileRecord) -> AsyncGenerator[tuple[bytes, int], None]:
        splitter = Splitter(self._desk.limits.line_bytes)
        async for piece in self._desk.contents.read(source):
            for text in splitter.feed(piece):
                if text:
                    yield text, splitter.number
        for text in splitter.end():
            if text:
                yield text, splitter.number

    # -- the jobs -------------------------------------------------------------------------------------------

    async def _answer(self, source: FileRecord) -> None:
        """Runs the requests as jobs, and writes down how each ended, in order."""
        lines: deque[Line] = deque()

        async def jobs() -> AsyncGenerator[tuple[int, Job], None]:
            async with aclosing(self._lines(source)) as read:
                async for line in read:
                    lines.append(line)
                    yield line.index, line.job()

        async with aclosing(self._jobs.answers(jobs())) as answers:
            async for _, answer in answers:
                self._count(answer)
                ended_as = "cancelled" if self._is_cancelled else "expired"
                told = answer_line(self._record.batch_id, lines.popleft(), answer, ended_as=ended_as)
                if told is not None:
                    await (self._output if told[1] else self._errors).write(told[0])

    def _count(self, answer: JobAnswer) -> None:
        if answer.error is None and answer.result is not None:
            self._completed += 1
        elif answer.error is None or answer.error.body.code is not ErrorCode.CANCELLED:
            self._failed += 1

    # -- the end --------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        last = BatchState.EXPIRED if self._jobs.is_stopped else BatchState.COMPLETED
        if self._record.state is BatchState.IN_PROGRESS:
            await self._into(BatchState.FINALIZING)
        output = await self._kept(self._output, "output")
        errors = await self._kept(self._errors, "error")
        if self._is_cancelled:
            last = BatchState.CANCELLED
        await self._into(last, output_file_id=output, error_file_id=errors)

    async def _kept(self, writer: Writer, what: str) -> str:
        """The id of a file with answers; empty when there are none."""
        if not writer.size_bytes:
            return ""
        name = f"{self._record.batch_id}_{what}.jsonl"
        return (await self._desk.keep(writer, self._record.owner, OUTPUT_PURPOSE, name)).file_id

    async def _into(self, state: BatchState, **changes: object) -> None:
        def change(record: BatchRecord) -> BatchRecord:
            if record.state is BatchState.CANCELLING and state not in ENDED:
                return msgspec.structs.replace(record, **changes)
            return record.into(state, self._desk.now_s(), **changes)

        await self._write(change)

    async def _write(self, change: Callable[[BatchRecord], BatchRecord]) -> None:
        """Writes the record with a change; takes over that somebody cancelled meanwhile.

        What is changed is the record as it is when its turn to be written has come: one that was read before would
        undo what was written in the meantime.

        Raises:
            Replaced: Somebody else works on it.
        """
        async with self._writing:
            record = msgspec.structs.replace(change(self._record), completed=self._completed, failed=self._failed)
            ttl_s = int(self._desk.limits.keep_s) if record.state in ENDED else 0
            while True:
                revision = await self._desk.batches.write(record, record.batch_id, self._revision, ttl_s=ttl_s)
                if revision is not None:
                    self._record, self._revision = record, revision
                    return
                standing, self._revision = await self._desk.batches.find(record.batch_id, record.owner)
                if standing is None or standing.worker != self._record.worker:
                    raise Replaced(record.batch_id)
                record = self._merged(record, standing)

    def _merged(self, record: BatchRecord, standing: BatchRecord) -> BatchRecord:
        """What is to be written over what somebody else wrote: our own earlier write, or a cancellation."""
        if standing.state is not BatchState.CANCELLING or record.state is BatchState.CANCELLING:
            return record
        self._is_cancelled = True
        self._jobs.stop()
        changes = {"at_s": {**record.at_s, **standing.at_s}}
        if record.state in ENDED:
            return msgspec.structs.replace(record, **changes)
        return msgspec.structs.replace(record, state=BatchState.CANCELLING, **changes)
