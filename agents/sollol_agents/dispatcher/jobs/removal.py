"""Jobs ended by request: cancelled wherever they are in their life, and forgotten once they are over."""

from __future__ import annotations

import msgspec

from sollol_agents.dispatcher.jobs import life
from sollol_agents.dispatcher.jobs.batches import Batches
from sollol_agents.dispatcher.jobs.listing import Listing
from sollol_agents.dispatcher.jobs.lookup import Lookup, Refused, meant_by
from sollol_agents.dispatcher.jobs.records import result_of, told
from sollol_agents.dispatcher.jobs.states import Overtaken
from sollol_agents.dispatcher.jobs.tools import JobTools
from sollol_bus.jetstream.stored import delete_message, purge_subject
from sollol_bus.transport.acting import tell_act
from sollol_bus.transport.messages import Msg, decode
from sollol_schemas import owners, stores
from sollol_schemas.errors import ErrorCode
from sollol_schemas.jobs import (
    TERMINAL,
    JobNews,
    JobPurgeReply,
    JobPurgeRequest,
    JobRef,
    JobReply,
    JobResult,
    JobState,
    JobStatus,
)


class Removal:
    """Cancels and forgets jobs.

    Args:
        tools: The jobs' states, results and letters.
        lookup: Finds them.
        listing: Lists them.
        batches: Those that they are of.
    """

    def __init__(self, tools: JobTools, lookup: Lookup, listing: Listing, batches: Batches) -> None:
        self._tools = tools
        self._bus = tools.bus
        self._lookup = lookup
        self._listing = listing
        self._batches = batches

    async def cancel(self, msg: Msg) -> None:
        """Answers a request to cancel a job: its state first, then its message, then what runs."""
        said = decode(msg.data or b"{}", JobRef).job_id
        job_id = meant_by(msg, said)
        stored = await self._lookup.find(job_id)
        while True:
            status, revision = await self._tools.states.read(job_id)
            if status is None:
                status = await self._lookup.status(job_id, called=said)
            if status.state in TERMINAL:
                raise Refused(ErrorCode.CONFLICT, f"job {said} is {status.state} already", state=status.state.value)
            ended = msgspec.structs.replace(life.cancelled(status), finished_at=self._bus.clock.instant())
            try:
                revision = await self._tools.states.write(ended, revision)
            except Overtaken:
                continue
            break
        try:
            while (found := await self._lookup.find(job_id)) is not None:
                await delete_message(self._bus, found[0], found[1].seq)
        finally:
            self._tools.events.tell(ended, JobNews.CANCELLED)  # its dispatcher stops the attempt
        standing, seq = await self._tools.results.publish(result_of(ended), ended.result_seq)
        if standing.state is not JobState.CANCELLED:
            await self._let_stand(ended, revision, standing, seq)
            raise Refused(ErrorCode.CONFLICT, f"job {said} is {standing.state} already", state=standing.state.value)
        if stored is not None:
            await self._tools.callbacks.order_for(stored[1].data, standing)
        self._bus.respond(msg, JobReply(status=told(owners.caller_of(msg.headers), ended)))

    async def _let_stand(self, ended: JobStatus, revision: int, standing: JobResult, seq: int) -> None:
        """A result came just before: it has been seen, so that the state follows it."""
        final = life.concluded(ended, standing, seq)
        try:
            await self._tools.states.write(final, revision)
        except Overtaken:
            return  # its own dispatcher was quicker
        self._tools.events.tell(final, JobNews(final.state.value))

    async def purge(self, msg: Msg) -> None:
        """Answers a request to forget jobs that have ended."""
        asked = decode(msg.data or b"{}", JobPurgeRequest)
        states = frozenset(asked.states) or TERMINAL
        if not states <= TERMINAL:
            raise Refused(ErrorCode.BAD_REQUEST, "only jobs that have ended can be purged; cancel the others")
        if asked.job_id is not None:
            job_id = meant_by(msg, asked.job_id)
            status = await self._lookup.status(job_id, called=asked.job_id)
            if status.state not in states:
                message = f"job {asked.job_id} is {status.state}; only jobs that have ended can be purged"
                raise Refused(ErrorCode.CONFLICT, message, state=status.state.value)
            doomed = [job_id]
        else:
            caller, every = owners.caller_of(msg.headers), self._listing.every()
            await self._batches.forget_ended(caller)
            doomed = [one.job_id async for one in every if one.state in states and owners.is_mine(caller, one.job_id)]
        for job_id in doomed:
            await self._tools.results.discard(job_id)
            await self._tools.letters.discard(job_id)
            await purge_subject(self._bus, f"KV_{stores.JOBS_BUCKET}", f"$KV.{stores.JOBS_BUCKET}.job.{job_id}")
        which = {"jobs": len(doomed), "states": ", ".join(sorted(states)) if asked.job_id is None else ""}
        tell_act(self._bus, "jobs.purge", asked.job_id or "", which, asked=msg.headers or {})
        self._bus.respond(msg, JobPurgeReply(purged=len(doomed)))
