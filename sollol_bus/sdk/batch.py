"""A batch of jobs: submitted ahead of need, answered in order, stopped early, and resumed where it was left.

The id of a batch and the number of an item make the job's id. A batch that is started again under its id therefore
finds what is done already, and nothing is done twice. An outage is waited out, longer after each failure, and not for
ever: whoever owns the batch decides whether to begin anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from itertools import islice

import msgspec

from sollol_bus.errors import BadRequest, Conflict, SollolError
from sollol_bus.sdk.jobs import JobAnswer, Jobs, priority_of
from sollol_bus.transport.messages import Msg
from sollol_bus.waiting import delays, happens
from sollol_schemas import owners, subjects
from sollol_schemas.errors import ErrorCode
from sollol_schemas.ids import is_request_id
from sollol_schemas.jobs import TERMINAL, Job, JobState, JobStatus
from sollol_schemas.routing import PRIORITY_NAMES

log = logging.getLogger(__name__)

_POLL_S = 2.0
_FIRST_RETRY_S = 0.5
_LAST_RETRY_S = 30.0
_RETRIES = 10
_BLOCK = 256
_DIGITS = 8
_ENDS = frozenset(state.value for state in TERMINAL)
_RNG = random.Random()

Announce = Callable[[int], Awaitable[None]]


class BatchProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch is."""

    submitted: int
    ended: int
    """Jobs that are over, whether well or not."""
    failed: int
    """Of those, jobs that have no answer."""


class Batch:
    """Many jobs with one id; iterate over `answers`.

    Args:
        jobs: The client's `jobs`.
        batch_id: 1 to 40 characters of a job's id; the same for a batch that is resumed.
        priority: Of every job, 0 to 10 or a name; `batch` by default.
        ahead: Jobs submitted beyond the last answer that was taken.
        rng: Spreads the tries of many batches.
        announce: Awaited before jobs are handed over, with how many from the first on there will be then.
    """

    def __init__(
        self,
        jobs: Jobs,
        batch_id: str,
        *,
        priority: int | str = PRIORITY_NAMES["batch"],
        ahead: int = 2000,
        rng: random.Random = _RNG,
        announce: Announce | None = None,
    ) -> None:
        if not is_request_id(f"{batch_id}-{'0' * _DIGITS}"):
            raise BadRequest(f"not a batch id: {batch_id[:80]!r}")
        self.batch_id = batch_id
        self._jobs = jobs
        self._priority = priority_of(priority)
        self._ahead = ahead
        self._block = max(1, min(_BLOCK, ahead // 2))
        self._rng = rng
        self._announce = announce
        self._submitted = 0
        self._ended: dict[int, bool] = {}
        self._fresh: set[int] = set()
        self._news = asyncio.Event()
        self._stop_asked = asyncio.Event()

    def job_id(self, index: int) -> str:
        """The id of one of its jobs."""
        return f"{self.batch_id}-{index}"

    @property
    def progress(self) -> BatchProgress:
        """How far it is."""
        failed = sum(not is_done for is_done in self._ended.values())
        return BatchProgress(submitted=self._submitted, ended=len(self._ended), failed=failed)

    @property
    def is_stopped(self) -> bool:
        """Whether no more jobs are submitted."""
        return self._stop_asked.is_set()

    def stop(self) -> None:
        """Submits no more jobs and cancels those that have not ended; the answers go on to the last job."""
        self._stop_asked.set()
        self._news.set()

    async def answers(
        self, jobs: Iterable[tuple[int, Job]] | AsyncIterator[tuple[int, Job]]
    ) -> AsyncGenerator[tuple[int, JobAnswer], None]:
        """Every job's number and how it ended, in order; after a stop, jobs that never were count as cancelled.

        Args:
            jobs: The jobs with their numbers; these must not change when the batch is resumed.

        Raises:
            SollolError: A job is refused, or what is needed has been away for minutes.
        """
        waiting: deque[tuple[int, Job]] = deque()
        subscription = self._jobs.bus.subscribe(self._jobs.events(), self._on_event)
        try:
            async for block in _blocks(jobs, self._block):
                if self._announce is not None:
                    await self._announce(block[-1][0] + 1)
                await self._submit(block)
                waiting += block
                while len(waiting) > self._ahead - self._block:
                    yield await self._end_of(*waiting.popleft())
            while waiting:
                yield await self._end_of(*waiting.popleft())
        finally:
            subscription.unsubscribe()

    async def _submit(self, block: list[tuple[int, Job]]) -> None:
        jobs = [(self.job_id(index), job) for index, job in block]
        waits = self._delays()
        while not self.is_stopped:
            try:
                await self._jobs.submit_many(jobs, priority=self._priority)
            except SollolError as error:
                await self._hold(error, waits)
            else:
                self._submitted += len(jobs)
                return

    async def _end_of(self, index: int, job: Job) -> tuple[int, JobAnswer]:
        """The job's number and how it ended; one that is lost is submitted again, unless the batch is stopped."""
        waits, was_lost = self._delays(), False
        while True:
            self._fresh.discard(index)
            try:
                answer = await self._now(index)
            except SollolError as error:
                if error.body.code is not ErrorCode.UNKNOWN_JOB:
                    await self._hold(error, waits)
                    continue
                if self.is_stopped:
                    return index, self._never_run(index)
                if was_lost:
                    await self._hold(error, waits)
                was_lost = True
                await self._submit([(index, job)])
                continue
            if answer.state in TERMINAL:
                self._ended[index] = answer.state is JobState.DONE
                return index, answer
            waits = self._delays()
            await self._until_ended(index)

    def _never_run(self, index: int) -> JobAnswer:
        status = JobStatus(job_id=self.job_id(index), state=JobState.CANCELLED, priority=self._priority)
        return JobAnswer(status=status, result=None)

    async def _now(self, index: int) -> JobAnswer:
        """What is known about a job, which is cancelled first when the batch is stopped."""
        if self.is_stopped:
            try:
                await self._jobs.cancel(self.job_id(index))
            except Conflict as error:
                log.debug("job %s has ended: %s", self.job_id(index), error)
        return await self._jobs.answer(self.job_id(index))

    def _delays(self) -> Iterator[float]:
        return islice(delays(_FIRST_RETRY_S, _LAST_RETRY_S, rng=self._rng), _RETRIES)

    async def _hold(self, error: SollolError, waits: Iterator[float]) -> None:
        """Waits before the next try, less when the batch is stopped; raises the error that none would help."""
        may_pass = error.is_retryable or error.body.code is ErrorCode.UNKNOWN_JOB
        delay_s = next(waits, None) if may_pass else None
        if delay_s is None:
            raise error
        log.info("%s: trying again: %s", self.batch_id, error, extra={"action": "batch_retry"})
        if self.is_stopped:
            await asyncio.sleep(delay_s)
        else:
            await happens(self._stop_asked, delay_s)

    async def _until_ended(self, index: int) -> None:
        """Returns when the job is said to be over, or after a while: its event may have been lost in an outage."""
        try:
            async with asyncio.timeout(_POLL_S):
                while index not in self._fresh:
                    self._news.clear()
                    await self._news.wait()
                    if self.is_stopped:
                        return
        except TimeoutError:
            return

    def _on_event(self, msg: Msg) -> None:
        ref, news = owners.job_of_event(msg.subject), subjects.last_token(msg.subject)
        batch_id, _, number = owners.id_of(ref).rpartition("-")
        if (
            batch_id == self.batch_id
            and owners.owner_of(ref) == self._jobs.owner
            and news in _ENDS
            and number.isdigit()
        ):
            self._ended[int(number)] = news == JobState.DONE.value
            self._fresh.add(int(number))
            self._news.set()


async def _blocks(
    jobs: Iterable[tuple[int, Job]] | AsyncIterator[tuple[int, Job]], size: int
) -> AsyncIterator[list[tuple[int, Job]]]:
    block: list[tuple[int, Job]] = []
    async for item in jobs if isinstance(jobs, AsyncIterator) else _each(jobs):
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


async def _each(jobs: Iterable[tuple[int, Job]]) -> AsyncIterator[tuple[int, Job]]:
    for job in jobs:
        yield job
