"""One batch at work, over stores and jobs that answer when the test says so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, cast

import msgspec
import pytest
from nats.aio.client import Client

from sollol_agents.gateway.batches.resources import BatchResources, Limits
from sollol_agents.gateway.batches.run import BatchRun
from sollol_agents.gateway.batches.store import Contents, Records
from sollol_agents.gateway.batches.workers import BatchWorkers
from sollol_bus.errors import Conflict, RequestTimedOut, error_from
from sollol_bus.sdk.batch import Batch
from sollol_bus.sdk.job_making import make_job
from sollol_bus.sdk.jobs import JobAnswer, Jobs
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg
from sollol_schemas import subjects
from sollol_schemas.batches import BatchRecord, BatchState, FileRecord
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.instants import instant
from sollol_schemas.jobs import JobResult, JobState, JobStatus

LINE = b'{"custom_id":"a","url":"/v1/embeddings","body":{"model":"m","input":"x"}}\n'


class _Writer:
    def __init__(self, file_id: str) -> None:
        self.file_id = file_id
        self.size_bytes = 0

    async def write(self, piece: bytes) -> None:
        self.size_bytes += len(piece)

    async def finish(self) -> None:
        return


class _Contents:
    def __init__(self, bug: Exception | None = None) -> None:
        self._bug = bug

    def writer(self, file_id: str) -> _Writer:
        return _Writer(file_id)

    async def read(self, _record: FileRecord) -> AsyncGenerator[bytes, None]:
        yield LINE
        if self._bug is not None:
            raise self._bug


class _Files:
    async def find(self, file_id: str, owner: str) -> tuple[FileRecord, int]:
        described: dict[str, Any] = {"purpose": "batch", "filename": "f", "size_bytes": len(LINE)}
        return FileRecord(file_id=file_id, owner=owner, created_at=instant(1), expires_at=instant(2), **described), 1

    async def write(self, *_record: object, ttl_s: int = 0) -> int:
        del ttl_s
        return 1


class _Batches:
    """Records of batches; the write of one state waits until it is let through."""

    def __init__(self, standing: BatchRecord, held: BatchState) -> None:
        self.written: list[BatchRecord] = []
        self.standing = standing
        self.revision = 1
        self.is_let_through = asyncio.Event()
        self.is_held = asyncio.Event()
        self.is_rewritten = asyncio.Event()
        self._held = held

    async def write(self, record: BatchRecord, _record_id: str, last: int, *, ttl_s: int = 0) -> int | None:
        del ttl_s
        if record.state is self._held and not self.is_let_through.is_set():
            self.is_held.set()
            await self.is_let_through.wait()
        if last != self.revision:
            return None
        self.revision += 1
        self.standing = record
        self.written.append(record)
        if len(self.written) > 1:
            self.is_rewritten.set()
        return self.revision

    async def find(self, _record_id: str, _owner: str) -> tuple[BatchRecord, int]:
        return self.standing, self.revision

    async def every(self, _owner: str) -> list[tuple[BatchRecord, int]]:
        return [(self.standing, self.revision)]


class _Bus:
    """Passes on what is said to whoever listens."""

    def __init__(self) -> None:
        self.handlers: list[Callable[[Msg], None]] = []

    def subscribe(self, _subject: str, handler: Callable[[Msg], None]) -> _Bus:
        self.handlers.append(handler)
        return self

    def unsubscribe(self) -> None:
        self.handlers.clear()


class _Jobs:
    """Jobs that end when the test says so."""

    def __init__(self) -> None:
        self.bus = _Bus()
        self.owner = ""
        self.state = JobState.RUNNING

    def of(self, owner: str) -> _Jobs:
        self.owner = owner
        return self

    def events(self) -> str:
        return subjects.JOB_EVENTS

    def end(self, state: JobState = JobState.DONE) -> None:
        self.state = state
        for handler in self.bus.handlers:
            handler(Msg(cast("Client", None), subject=subjects.JOB_EVENT.of("batch_1-0", state.value)))

    async def submit_many(self, *_jobs: object, priority: int) -> None:
        del priority

    async def answer(self, job_id: str) -> JobAnswer:
        body = msgspec.Raw(b"{}")
        result = JobResult(job_id=job_id, state=JobState.DONE, body=body) if self.state is JobState.DONE else None
        status = JobStatus(job_id=job_id, state=self.state)
        return JobAnswer(status=status, result=result)

    async def cancel(self, _job_id: str) -> None:
        if self.state is not JobState.RUNNING:
            raise Conflict("it has ended")


def batch() -> BatchRecord:
    described: dict[str, Any] = {"endpoint": "/v1/embeddings", "input_file_id": "file-1", "worker": "w"}
    return BatchRecord(batch_id="batch_1", owner="me", created_at=instant(1), expires_at=instant(10_000), **described)


def resources_with(batches: _Batches, jobs: _Jobs, contents: _Contents) -> BatchResources:
    return BatchResources(
        cast("Bus", None),
        contents=cast("Contents", contents),
        files=cast("Records[FileRecord]", _Files()),
        batches=cast("Records[BatchRecord]", batches),
        jobs=cast("Jobs", jobs),
        limits=Limits(requests=10, line_bytes=1000, keep_s=100.0),
        now_s=lambda: 100,
        new_id=lambda prefix: f"{prefix}-x",
        most_jobs=lambda _: 0,
    )


@pytest.mark.parametrize(("most", "ahead"), [(0, 512), (3, 3), (10_000, 512)])
def test_a_batch_keeps_no_more_jobs_ahead_than_its_owner_may_have(most: int, ahead: int) -> None:
    batches = _Batches(batch(), BatchState.IN_PROGRESS)
    resources = resources_with(batches, _Jobs(), _Contents())
    resources.most_jobs = lambda _: most
    assert BatchRun(resources, batches.standing, batches.revision)._jobs._ahead == ahead


def at_work(batches: _Batches, jobs: _Jobs) -> BatchRun:
    return BatchRun(resources_with(batches, jobs, _Contents()), batches.standing, batches.revision)


async def test_a_sign_of_life_never_takes_a_batch_back_to_an_earlier_state() -> None:
    batches, jobs = _Batches(batch(), BatchState.IN_PROGRESS), _Jobs()
    run = at_work(batches, jobs)
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(run.watch())
        work = group.create_task(run.run())
        await batches.is_held.wait()
        run.poke()  # the watch wants to write while the next state is being written
        for _ in range(5):
            await asyncio.sleep(0)
        batches.is_let_through.set()
        await batches.is_rewritten.wait()
        jobs.end()
        await work
        watch.cancel()
    assert {record.state for record in batches.written} == {
        BatchState.IN_PROGRESS,
        BatchState.FINALIZING,
        BatchState.COMPLETED,
    }
    assert (batches.standing.total, batches.standing.completed) == (1, 1)


async def test_a_batch_that_is_cancelled_stays_cancelling_until_it_is_cancelled() -> None:
    batches, jobs = _Batches(batch(), BatchState.IN_PROGRESS), _Jobs()
    run = at_work(batches, jobs)
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(run.watch())
        work = group.create_task(run.run())
        await batches.is_held.wait()
        batches.standing = batches.standing.into(BatchState.CANCELLING, 50)
        batches.revision += 1
        batches.is_let_through.set()
        jobs.end()
        await work
        watch.cancel()
    assert {record.state for record in batches.written} == {BatchState.CANCELLING, BatchState.CANCELLED}
    assert batches.standing.entered_at[BatchState.CANCELLING] == instant(50)


async def test_a_batch_that_nobody_can_work_on_fails_and_stops_no_gateway() -> None:
    batches = _Batches(msgspec.structs.replace(batch(), worker=""), BatchState.IN_PROGRESS)
    resources = resources_with(batches, _Jobs(), _Contents(RuntimeError("a bug")))
    tasks: list[asyncio.Task[None]] = []

    def spawn(coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        tasks.append(asyncio.get_running_loop().create_task(coroutine, name=name))
        return tasks[-1]

    workers = BatchWorkers(cast("Bus", None), resources, instance="w", at_once=1, spawn=spawn)
    await workers.look()
    await tasks[0]
    assert batches.standing.state is BatchState.FAILED
    assert [problem.code for problem in batches.standing.problems] == ["internal"]


class _LostJob(_Jobs):
    """One job that is lost, and submitted again just when the batch is cancelled."""

    def __init__(self, batches: _Batches) -> None:
        super().__init__()
        self.run: BatchRun | None = None
        self._batches = batches
        self._submissions = 0

    async def submit_many(self, *_jobs: object, priority: int) -> None:
        del priority
        self._submissions += 1
        if self._submissions == 2 and self.run is not None:
            self._batches.standing = self._batches.standing.into(BatchState.CANCELLING, 50)
            self._batches.revision += 1
            self.run.poke()
            await self._batches.is_rewritten.wait()

    async def answer(self, job_id: str) -> JobAnswer:
        if self._submissions < 2:
            raise error_from(ErrorBody(code=ErrorCode.UNKNOWN_JOB, message="lost"))
        return await super().answer(job_id)

    async def cancel(self, _job_id: str) -> None:
        self.end(JobState.CANCELLED)


async def test_a_job_that_was_submitted_again_while_its_batch_was_cancelled_is_cancelled_too() -> None:
    batches = _Batches(batch(), BatchState.FAILED)
    jobs = _LostJob(batches)
    run = jobs.run = at_work(batches, jobs)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        watch = group.create_task(run.watch())
        await run.run()
        watch.cancel()
    assert (batches.standing.state, jobs.state) == (BatchState.CANCELLED, JobState.CANCELLED)


class _OtherJob(_Jobs):
    """Another job is known under the batch's id."""

    async def submit_many(self, *_jobs: object, priority: int) -> None:
        del priority
        raise Conflict("job batch_1-0 exists with another body")


async def test_a_batch_whose_jobs_are_refused_says_so_at_once() -> None:
    batches = _Batches(batch(), BatchState.FINALIZING)
    await at_work(batches, _OtherJob()).run()
    assert batches.standing.state is BatchState.FAILED
    assert [(problem.code, problem.message) for problem in batches.standing.problems] == [
        ("job_refused", "job batch_1-0 exists with another body")
    ]


class _Unreachable(_Jobs):
    def __init__(self) -> None:
        super().__init__()
        self.tried = 0

    async def submit_many(self, *_jobs: object, priority: int) -> None:
        del priority
        self.tried += 1
        raise RequestTimedOut("the queue does not answer")


class _NoDelay(random.Random):
    """Spreads every wait to nothing."""

    def uniform(self, a: float, b: float) -> float:
        del a, b
        return 0.0


async def test_a_queue_that_does_not_answer_is_tried_a_bounded_number_of_times() -> None:
    jobs = _Unreachable()
    work = Batch(cast("Jobs", jobs), "batch_1", rng=_NoDelay())
    with pytest.raises(RequestTimedOut):
        await anext(work.answers([(0, make_job({"model": "m", "prompt": "x"}))]))
    assert jobs.tried == 11
