"""One batch at work: its requests become durable jobs, its jobs' answers become files.

Jobs have the batch's id and the line's number as their id, so that a worker that begins anew finds what is done
already; the files of the one before are left to expire.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import msgspec

from sollol_agents.gateway.batches.held_record import HeldRecord
from sollol_agents.gateway.batches.lines import Checked, Line, Splitter, Unusable, answer_line, read_line
from sollol_agents.gateway.batches.records import OUTPUT_PURPOSE
from sollol_agents.gateway.batches.resources import BatchResources
from sollol_agents.gateway.batches.store import Writer
from sollol_bus.errors import RequestError, error_from
from sollol_bus.sdk.batch import Batch
from sollol_bus.waiting import happens
from sollol_schemas.batches import ENDED, BatchProblem, BatchRecord, BatchState, FileRecord
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.instants import seconds_of
from sollol_schemas.jobs import Job

BEAT_S: Final = 1.0
_AHEAD: Final = 512


class BatchRun:
    """The work on one batch.

    Args:
        resources: Stores, jobs and clock.
        record: The batch, with this gateway as its worker.
        revision: The record's.
    """

    def __init__(self, resources: BatchResources, record: BatchRecord, revision: int) -> None:
        self._resources = resources
        jobs = resources.jobs.of(record.jobs_owner)
        ahead = min(_AHEAD, resources.most_jobs(record.jobs_owner) or _AHEAD)
        self._jobs = Batch(jobs, record.batch_id, priority=record.priority, ahead=ahead)
        self._held = HeldRecord(resources, record, revision, self._jobs.stop)
        if self._held.is_cancelled:
            self._jobs.stop()
        self._is_poked = asyncio.Event()
        self._output = resources.contents.writer(resources.new_id("file"))
        self._errors = resources.contents.writer(resources.new_id("file"))

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
            await self._fail(problem)

    async def _run(self) -> None:
        record = self._held.now
        source, _ = await self._resources.files.find(record.input_file_id, record.owner)
        if source is None:
            raise error_from(ErrorBody(code=ErrorCode.UNKNOWN_REQUEST, message="no such file"))
        if record.state is BatchState.VALIDATING:
            checked = await self._checked(source)
            if checked.problems:
                await self._fail(*checked.problems)
                return
            await self._held.into(BatchState.IN_PROGRESS, total=checked.total)
        if self._held.now.total:
            await self._answer(source)
        await self._finish()

    async def watch(self) -> None:
        """Writes the record once a second, and sees that somebody cancelled or the time is over."""
        while True:
            await happens(self._is_poked, BEAT_S)
            self._is_poked.clear()
            if self._resources.now_s() >= seconds_of(self._held.now.expires_at):
                self._jobs.stop()
            await self._held.write()

    def poke(self) -> None:
        """Somebody seems to have cancelled."""
        self._is_poked.set()

    async def release(self) -> None:
        """Lets another gateway go on at once, when this one stops."""
        if self._held.now.state not in ENDED:
            await self._held.write(lambda record: msgspec.structs.replace(record, worker=""))

    async def give_up(self) -> None:
        """Ends the batch because work on it fails whoever does it."""
        await self._fail(BatchProblem(code="internal", message="the gateway failed at this batch; its log says why"))

    async def _fail(self, *problems: BatchProblem) -> None:
        await self._held.into(BatchState.FAILED, problems=problems)

    # -- the file -------------------------------------------------------------------------------------------

    async def _checked(self, source: FileRecord) -> Checked:
        checked = Checked(self._held.now.endpoint, self._resources.limits.requests)
        try:
            async with aclosing(self._texts(source)) as texts:
                async for text, number in texts:
                    if not checked.takes(text, number):
                        break
        except Unusable as error:
            checked.problems.append(error.problem)
        if not checked.total and not checked.problems:
            checked.problems.append(BatchProblem(code="empty_file", message="the file has no requests in it"))
        return checked

    async def _texts(self, source: FileRecord) -> AsyncGenerator[tuple[bytes, int], None]:
        """The lines that are not empty, and their numbers."""
        splitter = Splitter(self._resources.limits.line_bytes)
        async for piece in self._resources.contents.read(source):
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
            async with aclosing(self._texts(source)) as texts:
                async for text, number in texts:
                    line = read_line(text, number, self._held.now.endpoint)
                    lines.append(line)
                    yield line.index, line.job()

        async with aclosing(self._jobs.answers(jobs())) as answers:
            async for _, answer in answers:
                ended_as = "cancelled" if self._held.is_cancelled else "expired"
                told = answer_line(self._held.now.batch_id, lines.popleft(), answer, ended_as=ended_as)
                if told is not None:
                    text, is_answer = told
                    self._held.count(is_answer=is_answer)
                    await (self._output if is_answer else self._errors).write(text)

    # -- the end --------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        last = BatchState.EXPIRED if self._jobs.is_stopped else BatchState.COMPLETED
        if self._held.now.state is BatchState.IN_PROGRESS:
            await self._held.into(BatchState.FINALIZING)
        output = await self._kept(self._output, "output")
        errors = await self._kept(self._errors, "error")
        if self._held.is_cancelled:
            last = BatchState.CANCELLED
        await self._held.into(last, output_file_id=output, error_file_id=errors)

    async def _kept(self, writer: Writer, what: str) -> str:
        """The id of a file with answers; empty when there are none."""
        if not writer.size_bytes:
            return ""
        record = self._held.now
        name = f"{record.batch_id}_{what}.jsonl"
        return (await self._resources.keep(writer, record.owner, OUTPUT_PURPOSE, name)).file_id
