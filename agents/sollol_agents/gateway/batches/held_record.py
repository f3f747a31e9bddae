"""The record of a batch that this gateway works on.

The worker's instance stands in the record, which it writes once a second. Whoever writes over it, because the worker
fell silent or a client cancelled, makes the next write fail: a worker that was replaced sees it then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from sollol_agents.gateway.batches.resources import BatchResources
from sollol_schemas.batches import ENDED, BatchRecord, BatchState


class Replaced(Exception):
    """Another gateway works on the batch."""


class HeldRecord:
    """One record, and what is to be written into it.

    Args:
        resources: Where records are kept.
        record: The record, with this gateway as its worker.
        revision: Its revision.
        on_cancelled: Called when it turns out that somebody cancelled.
    """

    def __init__(
        self, resources: BatchResources, record: BatchRecord, revision: int, on_cancelled: Callable[[], None]
    ) -> None:
        self.now = record
        """The record as it stands."""
        self.is_cancelled = record.state is BatchState.CANCELLING
        self._completed = self._failed = 0
        self._resources = resources
        self._revision = revision
        self._on_cancelled = on_cancelled
        self._writing = asyncio.Lock()

    def count(self, *, is_answer: bool) -> None:
        """One more request has ended, with an answer or without; the next write says so."""
        self._completed += is_answer
        self._failed += not is_answer

    async def into(self, state: BatchState, **changes: object) -> None:
        """Writes the record in another state; one that is being cancelled stays so until it has ended.

        Raises:
            Replaced: Somebody else works on it.
            SollolError: It cannot be written now.
        """

        def change(record: BatchRecord) -> BatchRecord:
            if record.state is BatchState.CANCELLING and state not in ENDED:
                return msgspec.structs.replace(record, **changes)
            return record.into(state, self._resources.now_s(), **changes)

        await self.write(change)

    async def write(self, change: Callable[[BatchRecord], BatchRecord] = lambda record: record) -> None:
        """Writes the record with a change; takes over that somebody cancelled meanwhile.

        What is changed is the record as it is when its turn to be written has come: one that was read before would
        undo what was written in the meantime.

        Raises:
            Replaced: Somebody else works on it.
            SollolError: It cannot be written now.
        """
        batches = self._resources.batches
        async with self._writing:
            record = msgspec.structs.replace(change(self.now), completed=self._completed, failed=self._failed)
            ttl_s = int(self._resources.limits.keep_s) if record.state in ENDED else 0
            while True:
                revision = await batches.write(record, record.batch_id, self._revision, ttl_s=ttl_s)
                if revision is not None:
                    self.now, self._revision = record, revision
                    return
                standing, self._revision = await batches.find(record.batch_id, record.owner)
                if standing is None or standing.worker != self.now.worker:
                    raise Replaced(record.batch_id)
                record = self._merged(record, standing)

    def _merged(self, record: BatchRecord, standing: BatchRecord) -> BatchRecord:
        """What is to be written over what somebody else wrote: our own earlier write, or a cancellation."""
        if standing.state is not BatchState.CANCELLING or record.state is BatchState.CANCELLING:
            return record
        self.is_cancelled = True
        self._on_cancelled()
        changes = {"entered_at": {**record.entered_at, **standing.entered_at}}
        if record.state in ENDED:
            return msgspec.structs.replace(record, **changes)
        return msgspec.structs.replace(record, state=BatchState.CANCELLING, **changes)
