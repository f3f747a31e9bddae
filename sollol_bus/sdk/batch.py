"""A batch of jobs: submitted ahead of need, answered in order, and resumed where it was left.

The id of a batch and the number of an item make the job's id. A batch that is started again under its id therefore
finds what is done already, and nothing is done twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from sollol_bus.errors import BadRequest
from sollol_bus.sdk.jobs import JobAnswer, JobCalls
from sollol_bus.transport.messages import Msg
from sollol_schemas import subjects
from sollol_schemas.ids import is_request_id
from sollol_schemas.jobs import TERMINAL, Job, JobState
from sollol_schemas.routing import PRIORITY_NAMES

_POLL_S = 2.0
_DIGITS = 8
_ENDS = frozenset(state.value for state in TERMINAL)


class BatchProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch is."""

    total: int
    submitted: int
    ended: int
    """Jobs that are over, whether well or not."""
    failed: int
    """Of those, jobs that have no answer."""


class Batch:
    """Many jobs with one id; iterate over `answers`.

    Args:
        client: The client.
        batch_id: 1 to 40 characters of a job's id; the same for a batch that is resumed.
        jobs: The jobs, in order; their order must not change when the batch is resumed.
        priority: Of every job; `batch` by default.
        ahead: Jobs submitted beyond the last answer that was taken.
    """

    def __init__(
        self,
        client: JobCalls,
        batch_id: str,
        jobs: Sequence[Job],
        *,
        priority: int = PRIORITY_NAMES["batch"],
        ahead: int = 2000,
    ) -> None:
        if not is_request_id(f"{batch_id}-{'0' * _DIGITS}"):
            raise BadRequest(f"not a batch id: {batch_id[:80]!r}")
        self.batch_id = batch_id
        self._client = client
        self._jobs = jobs
        self._priority = priority
        self._ahead = ahead
        self._submitted = 0
        self._ended: dict[int, bool] = {}
        self._news = asyncio.Event()

    def job_id(self, index: int) -> str:
        """The id of one of its jobs."""
        return f"{self.batch_id}-{index}"

    @property
    def progress(self) -> BatchProgress:
        """How far it is."""
        failed = sum(not is_done for is_done in self._ended.values())
        return BatchProgress(total=len(self._jobs), submitted=self._submitted, ended=len(self._ended), failed=failed)

    async def answers(self, first: int = 0) -> AsyncIterator[tuple[int, JobAnswer]]:
        """Every job's number and how it ended, in order, from number `first` on.

        Raises:
            SollolError: The queue refuses jobs, or is not there.
        """
        self._submitted = first
        self._ended = dict.fromkeys(range(first), True)
        subscription = self._client.bus.subscribe(subjects.JOB_EVENT.all, self._on_event)
        try:
            for index in range(first, len(self._jobs)):
                await self._submit_up_to(index)
                answer = await self._end_of(index)
                self._ended[index] = answer.state is JobState.DONE
                yield index, answer
        finally:
            subscription.unsubscribe()

    async def _submit_up_to(self, index: int) -> None:
        """Keeps at least half of `ahead` jobs submitted."""
        if self._submitted >= len(self._jobs) or self._submitted - index > self._ahead // 2:
            return
        upper = min(len(self._jobs), index + self._ahead)
        numbers = range(self._submitted, upper)
        await self._client.submit_many(((self.job_id(n), self._jobs[n]) for n in numbers), priority=self._priority)
        self._submitted = upper

    async def _end_of(self, index: int) -> JobAnswer:
        while True:
            self._news.clear()
            answer = await self._client.answer_if_ended(self.job_id(index))
            if answer is not None:
                return answer
            await self._until_ended(index)

    async def _until_ended(self, index: int) -> None:
        """Returns when the job is said to be over, or after a while: its event may have been lost in an outage."""
        try:
            async with asyncio.timeout(_POLL_S):
                while index not in self._ended:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return

    def _on_event(self, msg: Msg) -> None:
        *_, job_id, news = msg.subject.split(".")
        batch_id, _, number = job_id.rpartition("-")
        if batch_id == self.batch_id and news in _ENDS and number.isdigit():
            self._ended[int(number)] = news == JobState.DONE.value
            self._news.set()
