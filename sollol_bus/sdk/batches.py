"""Batches of jobs from the caller's side: find them, see how far they are, cancel them.

    batches = Batches(client.jobs)
    for batch in (await batches.latest()).batches:
        print(batch.batch_id, batch.stage, batch.ended, batch.total)

Any machine may ask: how far a batch is follows from its jobs, whoever handed it over, and whether that still runs.
"""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

from sollol_bus.errors import BadRequest, Conflict, SollolError
from sollol_bus.sdk.jobs import Jobs
from sollol_schemas import subjects
from sollol_schemas.batch_progress import BatchListReply, BatchListRequest, BatchRef, BatchTell, BatchView
from sollol_schemas.errors import ErrorCode
from sollol_schemas.ids import is_request_id

T = TypeVar("T")

_AT_ONCE: Final = 32
_LIST_MAX: Final = 1000


class Batches:
    """What a client can ask about batches.

    Args:
        jobs: The client's `jobs`.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def tell(self, told: BatchTell) -> BatchView:
        """How far a batch is, after telling how far it is handed over."""
        return await self._jobs.asked(subjects.BATCH_TELL, told, BatchView)

    async def get(self, batch_id: str) -> BatchView:
        """How far one batch is.

        Raises:
            BadRequest: No batch is known under this id.
        """
        return await self._jobs.asked(subjects.BATCH_GET, BatchRef(batch_id=_checked(batch_id)), BatchView)

    async def latest(self, limit: int = 100) -> BatchListReply:
        """How far the batches are that were begun last."""
        if not 1 <= limit <= _LIST_MAX:
            raise BadRequest(f"limit {limit} is not allowed: 1 to {_LIST_MAX}")
        return await self._jobs.asked(subjects.BATCH_LIST, BatchListRequest(limit=limit), BatchListReply)

    async def cancel(self, batch_id: str) -> BatchView:
        """Cancels a batch: no more of it is handed over, and its jobs that have not ended are cancelled.

        Cancelled itself it stops in between; asking again goes on.

        Raises:
            Conflict: It has ended already.
            BadRequest: No batch is known under this id.
        """
        view = await self._jobs.asked(subjects.BATCH_CANCEL, BatchRef(batch_id=_checked(batch_id)), BatchView)
        if view.is_of_gateway:
            return view
        numbers = iter(range(view.submitted))

        async def some() -> None:
            for number in numbers:
                await self._cancel_job(f"{batch_id}-{number}")

        await asyncio.gather(*(some() for _ in range(_AT_ONCE)))
        return await self.get(batch_id)

    async def _cancel_job(self, job_id: str) -> None:
        try:
            await self._jobs.cancel(job_id)
        except Conflict:
            return  # it has ended
        except SollolError as error:
            if error.body.code is not ErrorCode.UNKNOWN_JOB:
                raise


def _checked(batch_id: str) -> str:
    name = batch_id.rpartition("=")[2]
    if not is_request_id(name):
        raise BadRequest(f"not a batch id: {batch_id[:80]!r}")
    return batch_id
