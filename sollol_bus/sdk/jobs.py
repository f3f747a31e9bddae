"""Durable jobs from the caller's side: submit, follow, fetch, cancel, run again.

    job_id = await client.jobs.generate("llama3.2", "Write a long story")
    answer = await client.jobs.wait(job_id)

A job is durable once `submit` has returned. Its id may be chosen by the caller: submitting the same job under the
same id again, also days later, makes no second one, and another body under that id is a `Conflict`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from sollol_bus.errors import (
    ActorStopped,
    BadRequest,
    BusError,
    ConnectionLost,
    NoResponders,
    RequestTimedOut,
    SollolError,
)
from sollol_bus.sdk.engine_options import with_options
from sollol_bus.sdk.job_answer import JobAnswer
from sollol_bus.sdk.job_making import checked_id, delayed, make_job, priority_of
from sollol_bus.sdk.job_storing import Storing
from sollol_bus.sdk.questions import ask
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.many import request_many
from sollol_bus.transport.messages import decode, encode
from sollol_bus.transport.streaming import grown
from sollol_bus.transport.watching import watch
from sollol_bus.waiting import happens
from sollol_schemas import owners, subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.headers import CALLER
from sollol_schemas.ids import new_id
from sollol_schemas.jobs import (
    TERMINAL,
    EnqueueReply,
    EnqueueRequest,
    Job,
    JobEvent,
    JobGet,
    JobListReply,
    JobListRequest,
    JobPurgeReply,
    JobPurgeRequest,
    JobRef,
    JobReply,
    JobState,
    JobStatus,
)
from sollol_schemas.routing import DEFAULT_PRIORITY, Routing

__all__ = ["JobAnswer", "Jobs", "make_job", "priority_of"]

log = logging.getLogger(__name__)

T = TypeVar("T")
Enter = Callable[[], Awaitable[None]]

_ASK_S = 10.0
_POLL_S = 2.0
_RETRY_S = 0.2
_PURGE_S = 600.0


class Jobs:
    """What a client can do with jobs: its attribute `jobs`.

    Args:
        bus: The client's connection.
        owner: On whose behalf the control role asks; empty: on its own.
        enter: Awaited before it stores a job itself, for want of a dispatcher; raises when the owner may have no more.
    """

    def __init__(self, bus: Bus, owner: str = "", enter: Enter | None = None) -> None:
        self.bus = bus
        self._enter = enter
        self.owner = owner or bus.caller
        """Whose jobs these are; empty: nobody's in particular."""
        self._headers = {CALLER: owner} if owner else None
        self._behalf = owner
        self._followers: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ends what it follows for `on_done`."""
        for task in self._followers:
            task.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)

    def of(self, owner: str, enter: Enter | None = None) -> Jobs:
        """The jobs of somebody else, for whom the control role asks; of nobody in particular without a name."""
        return Jobs(self.bus, owner, enter)

    def events(self, job_id: str = "*") -> str:
        """Where news of one job are told, or of all that may be seen."""
        if self.owner:
            return owners.event_subject(owners.reference(self.owner, owners.id_of(job_id)), "*")
        return subjects.JOB_EVENTS if job_id == "*" else owners.event_subject(job_id, "*")

    # -- submitting ---------------------------------------------------------------------------------------

    async def submit(
        self,
        job: Job,
        *,
        job_id: str | None = None,
        priority: int | str | None = None,
        delay_s: float = 0.0,
        on_done: Callable[[JobAnswer], None] | None = None,
    ) -> str:
        """The id of a job that is stored from now on.

        Args:
            job: What to do; see `make_job`.
            job_id: An id of your choice, so that submitting it again is harmless; None: one is made.
            priority: 0 to 10 or a name; None: the body's own, else 5.
            delay_s: Seconds from now before which it does not start, up to 1e9; `not_before` counts if it is later.
            on_done: Called once with the answer, as long as this client stays connected.

        Raises:
            BadRequest: The job cannot be used as it is.
            Conflict: Another body is known under this id.
            QueueFull: The queue takes no more.
            NoResponders: Nobody serves jobs: neither a dispatcher nor the queue is there.
        """
        wanted = None if priority is None else priority_of(priority)
        job_id = new_id() if job_id is None else checked_id(job_id)
        asked = EnqueueRequest(job=job, job_id=job_id, priority=wanted, delay_s=delay_s)
        try:
            job_id = (await self.asked(subjects.JOB_ENQUEUE, asked, EnqueueReply)).job_id
        except NoResponders:  # no dispatcher now: the queue itself is durable, and whoever comes checks the job
            if self._enter is not None:
                await self._enter()
            number = DEFAULT_PRIORITY if wanted is None else wanted
            job = delayed(job, self.bus.clock.now_unix() + delay_s) if delay_s > 0 else job
            await self.submit_many([(job_id, job)], priority=number)
        if on_done is not None:
            self._follow(job_id, on_done)
        return job_id

    async def submit_many(
        self, jobs: Iterable[Job | tuple[str | None, Job]], *, priority: int | str = DEFAULT_PRIORITY
    ) -> list[str]:
        """The ids of many jobs, stored straight in the queue, some hundreds on their way at a time.

        They are checked only when a dispatcher takes them. A job that waits in the queue under its id already is
        not stored a second time.

        Raises:
            Conflict: A job with another body waits under one of the ids.
            QueueFull: The queue takes no more; those before may be stored.
            BusError: The queue does not answer; submitting the same ids again is harmless.
        """
        number = priority_of(priority)
        storing = Storing(self.bus, self._behalf)
        ids: list[str] = []
        for item in jobs:
            given, job = item if isinstance(item, tuple) else (None, item)
            ids.append(checked_id(given) if given is not None else new_id())
            await storing.store(number, ids[-1], job)
        await storing.finish()
        return ids

    async def generate(
        self,
        model: str,
        prompt: str,
        *,
        job_id: str | None = None,
        priority: int | str | None = None,
        on_done: Callable[[JobAnswer], None] | None = None,
        routing: Routing | None = None,
        **fields: object,
    ) -> str:
        """The id of a durable job that answers a prompt; `fields` are further fields of Ollama's body."""
        job = make_job(
            {"model": model, "prompt": prompt, **with_options(fields)}, kind=RequestKind.GENERATE, routing=routing
        )
        return await self.submit(job, job_id=job_id, priority=priority, on_done=on_done)

    # -- asking -------------------------------------------------------------------------------------------

    async def get(self, job_id: str) -> JobStatus:
        """What is known about a job.

        Raises:
            BadRequest: No job is known under this id.
        """
        return (await self.asked(subjects.JOB_GET, JobGet(job_id=checked_id(job_id)), JobReply)).status

    async def prompt(self, job_id: str) -> str:
        """The beginning of a job's prompt; empty when it is not kept any more, which it is until the job has ended.

        Raises:
            BadRequest: No job is known under this id.
        """
        asked = JobGet(job_id=checked_id(job_id), with_prompt=True)
        return (await self.asked(subjects.JOB_GET, asked, JobReply)).prompt

    async def answer(self, job_id: str) -> JobAnswer:
        """What is known about a job, with its answer when it has one."""
        asked = encode(JobGet(job_id=checked_id(job_id), with_result=True))
        reply: JobReply | None = None
        parts: list[bytes] = []
        size = 0
        async for msg in request_many(
            self.bus, subjects.JOB_GET, asked, headers=self._headers, first_s=_ASK_S, gap_s=_ASK_S
        ):
            if reply is None:
                reply = decode(msg.data, JobReply)
            else:
                size = grown(size, msg.data)
                parts.append(msg.data)
        if reply is None:
            raise ConnectionLost("the answer about the job was lost")
        result = reply.result
        if result is not None and parts:
            result = msgspec.structs.replace(result, body=msgspec.Raw(b"".join(parts)))
        return JobAnswer(status=reply.status, result=result)

    async def wait(self, job_id: str, *, timeout_s: float | None = None) -> JobAnswer:
        """The answer of a job, once it is done; outages of the bus are waited out.

        Raises:
            SollolError: What ended the job without an answer; `Cancelled` when it was cancelled.
            RequestTimedOut: It did not end within `timeout_s`; it goes on.
        """
        answer = await self.end(job_id, timeout_s=timeout_s)
        if answer.error is not None:
            raise answer.error
        return answer

    async def end(self, job_id: str, *, timeout_s: float | None = None) -> JobAnswer:
        """How a job ended, whether well or not; waits until it has.

        Raises:
            BadRequest: No job is known under this id.
            RequestTimedOut: It did not end within `timeout_s`.
        """
        news = asyncio.Event()
        subscription = self.bus.subscribe(self.events(checked_id(job_id)), lambda _: news.set())
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    news.clear()
                    answer = await self.answer_if_ended(job_id)
                    if answer is not None:
                        return answer
                    await happens(news, _POLL_S)
        except TimeoutError:
            raise RequestTimedOut(f"job {job_id} has not ended within {timeout_s:g} s; it goes on") from None
        finally:
            subscription.unsubscribe()

    async def answer_if_ended(self, job_id: str) -> JobAnswer | None:
        """A job's answer when it has ended; None while it has not, or when that cannot be known now."""
        try:
            answer = await self.answer(job_id)
        except (BusError, ConnectionLost, ActorStopped) as error:
            log.debug("job %s: asking again: %s", job_id, error)
            await asyncio.sleep(_RETRY_S)
            return None
        return answer if answer.state in TERMINAL else None

    async def latest(self, *states: JobState | str, limit: int = 100) -> JobListReply:
        """The latest jobs, in any or in these states, and how many wait."""
        return await self.asked(subjects.JOB_LIST, _listing(states, limit), JobListReply)

    async def dead(self, limit: int = 100) -> JobListReply:
        """The jobs that ended dead or failed and can be run again."""
        return await self.asked(subjects.JOB_DEAD, _listing((), limit), JobListReply)

    def watch(self, job_id: str = "*") -> AsyncIterator[JobEvent]:
        """Everything that happens to one job, or to all, from now on."""
        return watch(self.bus, self.events(job_id), JobEvent)

    # -- steering -----------------------------------------------------------------------------------------

    async def cancel(self, job_id: str) -> JobStatus:
        """Cancels a job, wherever it is in its life.

        Raises:
            Conflict: It has ended already.
            BadRequest: No job is known under this id.
        """
        return (await self.asked(subjects.JOB_CANCEL, JobRef(job_id=checked_id(job_id)), JobReply)).status

    async def retry(self, job_id: str) -> str:
        """Runs a dead or failed job again, under its id.

        Raises:
            Conflict: It is in another state.
        """
        return (await self.asked(subjects.JOB_RETRY, JobRef(job_id=checked_id(job_id)), EnqueueReply)).job_id

    async def purge(self, *states: JobState | str, job_id: str | None = None) -> int:
        """Forgets jobs that have ended, with their results; returns how many."""
        asked = JobPurgeRequest(states=_states(states), job_id=job_id)
        return (await self.asked(subjects.JOB_PURGE, asked, JobPurgeReply, timeout_s=_PURGE_S)).purged

    async def asked(self, subject: str, question: object, kind: type[T], *, timeout_s: float = _ASK_S) -> T:
        """The answer to a question about jobs or batches, on the owner's behalf."""
        return await ask(self.bus, subject, question, kind, timeout_s=timeout_s, headers=self._headers)

    # -- inside -------------------------------------------------------------------------------------------

    def _follow(self, job_id: str, on_done: Callable[[JobAnswer], None]) -> None:
        async def follow() -> None:
            try:
                on_done(await self.end(job_id))
            except SollolError as error:
                log.warning("job %s: its end could not be told: %s", job_id, error, extra={"action": "job_follow"})

        # These tasks belong to the client: leaving it cancels them.
        task = asyncio.get_running_loop().create_task(follow(), name=f"follow job {job_id}")
        self._followers.add(task)
        task.add_done_callback(self._followers.discard)


def _listing(states: Sequence[JobState | str], limit: int) -> JobListRequest:
    if not 1 <= limit <= 1000:
        raise BadRequest(f"limit {limit} is not allowed: 1 to 1000")
    return JobListRequest(states=_states(states), limit=limit)


def _states(states: Sequence[JobState | str]) -> tuple[JobState, ...]:
    try:
        return tuple(JobState(state) for state in states)
    except ValueError as error:
        raise BadRequest(f"{error}; a job is {', '.join(JobState)}") from error
