"""Requests about batches of jobs, answered by whichever dispatcher gets them.

A batch is as far as its jobs are: their states are read for every answer. What is kept beside them are the sums over
those at its beginning that have ended, so that however large it is, only what is on its way is read again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from sollol_agents.dispatcher.jobs import batch_sums
from sollol_agents.dispatcher.jobs.lookup import Refused
from sollol_agents.dispatcher.jobs.tools import JobTools
from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.stored import stored_last
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import owners, stores, subjects
from sollol_schemas.batch_progress import (
    BatchListReply,
    BatchListRequest,
    BatchPlan,
    BatchRef,
    BatchTell,
    BatchView,
)
from sollol_schemas.batches import ENDED, BatchRecord, BatchState
from sollol_schemas.errors import ErrorCode
from sollol_schemas.jobs import JobStatus

log = logging.getLogger(__name__)

_BLOCK: Final = 500
_STATES_MAX: Final = 20_000
"""States read for one answer; a batch with more on its way is counted further by the next one."""
_KEPT_MAX: Final = 1000
"""Batches of one owner; the oldest makes room."""
_UNENDED_KEEP_S: Final = 30 * 86_400
_WRITES: Final = 20

Change = Callable[[BatchPlan | None, int], BatchPlan]


class Batches:
    """What is known about batches.

    Args:
        tools: The jobs' stores, and the connection.
    """

    def __init__(self, tools: JobTools) -> None:
        self._bus = tools.bus
        self._keep_s = max(1, round(tools.config.job_keep_s))
        self._bucket = Bucket(tools.bus, stores.JOBS_BUCKET)
        self._records = Bucket(tools.bus, stores.BATCHES_BUCKET)

    @property
    def handlers(self) -> dict[str, Callable[[Msg], Coroutine[Any, Any, None]]]:
        """What it answers, and how."""
        return {
            subjects.BATCH_TELL: self._tell,
            subjects.BATCH_GET: self._get,
            subjects.BATCH_LIST: self._list,
            subjects.BATCH_CANCEL: self._cancel,
        }

    async def recount(self, job_ref: str) -> None:
        """One of a batch's jobs, if it is one, is run again: what was counted does not stand."""
        ref = job_ref.rpartition("-")[0]
        if not ref:
            return
        for _ in range(_WRITES):
            plan, revision = await self._plan(ref)
            if plan is None or await self._write(batch_sums.recounted(plan), revision):
                return

    async def forget_ended(self, caller: str) -> None:
        """Forgets a caller's batches that are over; what has ended of the others is counted first."""
        for plan, revision in await self._every_plan():
            if owners.is_mine(caller, plan.batch_id):
                view = await self._view(plan, revision)
                if view.ended_at:
                    await self._bucket.forget(f"batch.{plan.batch_id}")

    async def _tell(self, msg: Msg) -> None:
        asked = decode(msg.data or b"{}", BatchTell)
        ref, now_s = _meant(msg, asked.batch_id), self._bus.clock.now_unix()
        for _ in range(_WRITES):
            plan, revision = await self._plan(ref)
            if plan is None:
                await self._make_room(owners.owner_of(ref))
            told = batch_sums.reached(plan, asked, ref)
            states = {} if batch_sums.is_settled(told) else await self._states(told)
            if asked.begins or plan is None:
                ended = batch_sums.view_of(told, states, now_s).ended
                told = batch_sums.begun(told, asked, ended, now_s)
            told = batch_sums.counted(told, states, now_s)
            if told == plan or await self._write(told, revision):
                self._respond(msg, batch_sums.view_of(told, states, now_s))
                return
        raise Refused(ErrorCode.CONFLICT, "others change the batch all the time; try again")

    async def _get(self, msg: Msg) -> None:
        asked = decode(msg.data or b"{}", BatchRef)
        ref = _meant(msg, asked.batch_id)
        plan, revision = await self._plan(ref)
        if plan is not None:
            self._respond(msg, await self._view(plan, revision))
            return
        record, _ = await self._record(ref, asked.batch_id)
        self._respond(msg, batch_sums.view_of_record(record))

    async def _list(self, msg: Msg) -> None:
        asked = decode(msg.data or b"{}", BatchListRequest)
        caller = owners.caller_of(msg.headers)
        plans = [one for one in await self._every_plan() if owners.is_mine(caller, one[0].batch_id)]
        views = [batch_sums.view_of_record(record) for record in await self._every_record()]
        views = [view for view in views if owners.is_mine(caller, view.batch_id)]
        plans.sort(key=lambda one: one[0].began_at, reverse=True)
        views += [await self._view(plan, revision) for plan, revision in plans[: asked.limit]]
        views.sort(key=lambda view: view.began_at, reverse=True)
        told = (_told(caller, view) for view in views[: asked.limit])
        self._bus.respond(msg, BatchListReply(batches=tuple(told)))

    async def _cancel(self, msg: Msg) -> None:
        asked = decode(msg.data or b"{}", BatchRef)
        ref = _meant(msg, asked.batch_id)
        for _ in range(_WRITES):
            plan, revision = await self._plan(ref)
            if plan is None:
                await self._cancel_record(msg, ref, asked.batch_id)
                return
            view = await self._view(plan, revision)
            if view.ended >= view.total and not plan.is_cancelled:
                raise Refused(ErrorCode.CONFLICT, f"batch {asked.batch_id} has ended already")
            plan, revision = await self._plan(ref)
            cancelled = None if plan is None else msgspec.structs.replace(plan, is_cancelled=True)
            if cancelled is not None and (cancelled == plan or await self._write(cancelled, revision)):
                self._respond(msg, await self._view(cancelled, 0))
                return
        raise Refused(ErrorCode.CONFLICT, "others change the batch all the time; try again")

    async def _cancel_record(self, msg: Msg, ref: str, said: str) -> None:
        """Tells the gateway that works on a batch to stop it."""
        for _ in range(_WRITES):
            record, revision = await self._record(ref, said)
            if record.state in ENDED:
                raise Refused(ErrorCode.CONFLICT, f"batch {said} is {record.state} already")
            if record.state is not BatchState.CANCELLING:
                record = record.into(BatchState.CANCELLING, int(self._bus.clock.now_unix()))
                key = f"batch.{record.owner}.{record.batch_id}"
                if await self._records.update(key, encode(record), revision) is None:
                    continue
            self._respond(msg, batch_sums.view_of_record(record))
            return
        raise Refused(ErrorCode.CONFLICT, "others change the batch all the time; try again")

    # -- inside -------------------------------------------------------------------------------------------

    async def _view(self, plan: BatchPlan, revision: int) -> BatchView:
        """How far a batch is; what has ended meanwhile at its beginning is counted, whoever asks."""
        states: dict[int, JobStatus] = {}
        now_s = self._bus.clock.now_unix()
        if not batch_sums.is_settled(plan):
            states = await self._states(plan)
            further = batch_sums.counted(plan, states, now_s)
            if further != plan and revision:
                await self._write(further, revision)
            plan = further
        return batch_sums.view_of(plan, states, now_s)

    async def _states(self, plan: BatchPlan) -> dict[int, JobStatus]:
        """The states of the jobs that are not in the tally."""
        states: dict[int, JobStatus] = {}
        last = min(plan.submitted, plan.counted + _STATES_MAX)
        for start in range(plan.counted, last, _BLOCK):
            names = [self._bucket.subject(f"job.{plan.batch_id}-{n}") for n in range(start, min(last, start + _BLOCK))]
            for stored in await stored_last(self._bus, f"KV_{stores.JOBS_BUCKET}", names):
                try:
                    status = decode(stored.data, JobStatus) if stored.data else None
                except DecodeFailed:
                    continue  # `sollol doctor` tells of it
                if status is not None:
                    states[int(stored.subject.rpartition("-")[2])] = status
        return states

    async def _plan(self, ref: str) -> tuple[BatchPlan | None, int]:
        entry = await self._bucket.get(f"batch.{ref}")
        try:
            return entry.decode(BatchPlan), entry.revision
        except DecodeFailed as error:
            self._bucket.ignored(entry, error)
            return None, entry.revision

    async def _write(self, plan: BatchPlan, revision: int) -> bool:
        """Whether it is written over this revision."""
        ttl_s = self._keep_s if batch_sums.is_settled(plan) else max(self._keep_s, _UNENDED_KEEP_S)
        return await self._bucket.update(f"batch.{plan.batch_id}", encode(plan), revision, ttl_s=ttl_s) is not None

    async def _every_plan(self) -> list[tuple[BatchPlan, int]]:
        found: list[tuple[BatchPlan, int]] = []
        for entry in await self._bucket.every("batch.*"):
            try:
                plan = entry.decode(BatchPlan)
            except DecodeFailed as error:
                self._bucket.ignored(entry, error)
                continue
            if plan is not None:
                found.append((plan, entry.revision))
        return found

    async def _make_room(self, owner: str) -> None:
        """Forgets the oldest of an owner's batches where there are too many."""
        mine = [plan for plan, _ in await self._every_plan() if owners.owner_of(plan.batch_id) == owner]
        for plan in sorted(mine, key=lambda one: one.began_at)[: max(0, len(mine) - _KEPT_MAX + 1)]:
            await self._bucket.forget(f"batch.{plan.batch_id}")

    async def _record(self, ref: str, said: str) -> tuple[BatchRecord, int]:
        """A gateway's batch.

        Raises:
            Refused: There is none.
        """
        for record, revision in await self._read_records(f"batch.*.{owners.id_of(ref)}"):
            if owners.reference(record.jobs_owner, record.batch_id) == ref:
                return record, revision
        text = f"no batch is known under {said[:80]}; `sollol batch list` shows the latest"
        raise Refused(ErrorCode.UNKNOWN_JOB, text)

    async def _every_record(self) -> list[BatchRecord]:
        return [record for record, _ in await self._read_records("batch.*.*")]

    async def _read_records(self, keys: str) -> list[tuple[BatchRecord, int]]:
        found: list[tuple[BatchRecord, int]] = []
        try:
            entries = await self._records.every(keys)
        except BusError as error:
            log.debug("batches of gateways: %s", error)  # no gateway has made the bucket
            return []
        for entry in entries:
            try:
                record = entry.decode(BatchRecord)
            except DecodeFailed as error:
                self._records.ignored(entry, error)
                continue
            if record is not None:
                found.append((record, entry.revision))
        return found

    def _respond(self, msg: Msg, view: BatchView) -> None:
        self._bus.respond(msg, _told(owners.caller_of(msg.headers), view))


def _meant(msg: Msg, said: str) -> str:
    """The batch that whoever asks means.

    Raises:
        Refused: It is another's, of which nothing is said.
    """
    ref = owners.meant(owners.caller_of(msg.headers), said)
    if ref is None:
        text = f"no batch is known under {said[:80]}; `sollol batch list` shows the latest"
        raise Refused(ErrorCode.UNKNOWN_JOB, text)
    return ref


def _told(caller: str, view: BatchView) -> BatchView:
    """The batch as it is told to a caller: of its own with the id alone."""
    return msgspec.structs.replace(view, batch_id=owners.told(caller, view.batch_id))
