"""Who works on which batch: every gateway looks for batches without a living worker and takes them.

Safety is the compare-and-set of the record's revision: of those who take a batch at once, one does. A worker counts
as gone when it has not written the record for `SILENCE_S` of the looker's own time, so that no clocks are compared.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, Final

import msgspec

from sollol_agents.gateway.batches.held_record import Replaced
from sollol_agents.gateway.batches.resources import BatchResources
from sollol_agents.gateway.batches.run import BatchRun
from sollol_agents.gateway.batches.store import ANYBODY
from sollol_bus.errors import DecodeFailed, SollolError
from sollol_bus.parts import Part, Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode
from sollol_bus.transport.subscription import Subscription
from sollol_bus.waiting import happens
from sollol_schemas.batches import ENDED, BatchRecord, BatchState

log = logging.getLogger(__name__)

SILENCE_S: Final = 6.0
_LOOK_EVERY_S: Final = 2.0
_LOOK_ALL_EVERY_S: Final = 30.0
_RELEASE_S: Final = 2.0


class BatchWorkers(Part):
    """Works on batches, some at a time.

    Args:
        bus: The gateway's connection.
        resources: Stores, jobs and clock.
        instance: This gateway's.
        at_once: How many batches it works on at a time.
        spawn: Runs a coroutine as a task of the gateway.
    """

    def __init__(self, bus: Bus, resources: BatchResources, *, instance: str, at_once: int, spawn: Spawn) -> None:
        self._bus = bus
        self._resources = resources
        self._instance = instance
        self._at_once = at_once
        self._spawn = spawn
        self._runs: dict[str, tuple[BatchRun, asyncio.Task[None]]] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        """Unfinished batches: revision, and when it was first seen."""
        self._news = asyncio.Event()
        self._subscription: Subscription | None = None
        self._is_closing = False

    async def start(self) -> None:
        """Looks for batches from now on."""
        self._spawn(self._run(), name="batches")

    async def _run(self) -> None:
        self._subscription = self._bus.subscribe(self._resources.batches.changes, self._on_change)
        looked_at, looks = -1e9, 0
        while True:
            try:
                await self._resources.prepare()
                is_due = time.monotonic() - looked_at >= _LOOK_ALL_EVERY_S
                if not self._is_closing and (self._seen or looks or is_due):
                    looked_at, looks = time.monotonic(), max(0, looks - 1)
                    await self.look()
            except SollolError as error:
                log.info("batches cannot be seen now: %s", error, extra={"action": "batches_unseen"})
                await asyncio.sleep(_LOOK_EVERY_S)
                looked_at = -1e9
            if await self._is_poked_soon():
                looks = 2  # a server that is not the stream's leader may be behind at the first

    def stop(self) -> None:
        """Takes no more batches, and lets others go on with those that are open."""
        self._is_closing = True
        for _, task in self._runs.values():
            task.cancel()

    async def close(self) -> None:
        """Stops, and returns when the open batches are handed back."""
        self.stop()
        if self._subscription is not None:
            self._subscription.unsubscribe()
        tasks = [task for _, task in self._runs.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self) -> None:
        """Takes batches without a living worker, as far as there is room.

        Raises:
            SollolError: The stores cannot be reached.
        """
        now = time.monotonic()
        open_ = {
            r.batch_id: (r, rev) for r, rev in await self._resources.batches.every(ANYBODY) if r.state not in ENDED
        }
        self._seen = {
            batch_id: self._seen[batch_id] if self._seen.get(batch_id, (0, 0.0))[0] == revision else (revision, now)
            for batch_id, (_, revision) in open_.items()
        }
        for batch_id, (record, revision) in open_.items():
            is_silent = now - self._seen[batch_id][1] >= SILENCE_S
            if batch_id not in self._runs and (not record.worker or is_silent) and len(self._runs) < self._at_once:
                await self._take(record, revision)

    async def _take(self, record: BatchRecord, revision: int) -> None:
        mine = msgspec.structs.replace(record, worker=self._instance)
        taken = await self._resources.batches.write(mine, mine.batch_id, revision)
        if taken is None or self._is_closing:
            return
        log.info("working on %s", mine.batch_id, extra={"action": "batch_taken"})
        run = BatchRun(self._resources, mine, taken)
        task = self._spawn(self._work(mine.batch_id, run), name=f"batch {mine.batch_id}")
        self._runs[mine.batch_id] = run, task

    async def _work(self, batch_id: str, run: BatchRun) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(run.watch(), name=f"watch {batch_id}")
                await run.run()
                watch.cancel()
        except* Replaced:
            log.info("%s: another gateway goes on", batch_id, extra={"action": "batch_replaced"})
        except* SollolError as failed:
            log.warning("%s: interrupted: %s", batch_id, failed.exceptions[0], extra={"action": "batch_interrupted"})
        except* Exception:  # a bug at one batch must stop neither the gateway nor, taken over, the next one
            log.exception("%s: given up", batch_id, extra={"action": "batch_given_up"})
            await self._leave(run.give_up())
        finally:
            self._runs.pop(batch_id, None)
            self._news.set()
            if self._is_closing:
                await self._leave(run.release())

    async def _leave(self, writing: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(_RELEASE_S):
                await writing
        except (SollolError, Replaced, TimeoutError) as error:
            log.info("a batch is left to others: %s", error, extra={"action": "batch_left"})

    def _on_change(self, msg: Msg) -> None:
        """Somebody tried to write a record; this says nothing about whether it succeeded."""
        try:
            record = decode(msg.data, BatchRecord)
        except DecodeFailed:
            return
        if record.state is BatchState.CANCELLING and record.batch_id in self._runs:
            self._runs[record.batch_id][0].poke()
        elif not record.worker or record.batch_id not in self._seen:
            self._news.set()

    async def _is_poked_soon(self) -> bool:
        is_poked = await happens(self._news, _LOOK_EVERY_S)
        self._news.clear()
        return is_poked
