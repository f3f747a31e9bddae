"""One job taken from the queue by this dispatcher, from its delivery until it is acked or given back."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

import msgspec

from sollol_agents.dispatcher.jobs import life
from sollol_agents.dispatcher.jobs.intake import Accepted, headers_for, read_job
from sollol_agents.dispatcher.jobs.persistence import persistently
from sollol_agents.dispatcher.jobs.records import fresh_status, result_of
from sollol_agents.dispatcher.jobs.results import UnreadableResult
from sollol_agents.dispatcher.jobs.states import Overtaken, Unreadable
from sollol_agents.dispatcher.jobs.tools import JobTools
from sollol_agents.dispatcher.jobs.tries import Answered, Try
from sollol_agents.dispatcher.requests.intake import Rejected
from sollol_bus.jetstream.pull import Delivery
from sollol_bus.jetstream.stored import stored_message
from sollol_bus.waiting import happens
from sollol_schemas import headers as h
from sollol_schemas import owners, stores, subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.jobs import TERMINAL, JobNews, JobResult, JobState, JobStatus

log = logging.getLogger(__name__)

_RECHECK_S = 1.0
"""A state that was confirmed longer ago is read again before a result is stored."""
_QUICK_S = 0.05
"""That a node works on it is written down only of a job that takes longer."""
_LEFT = ErrorBody(code=ErrorCode.ACTOR_STOPPED, message="the job has left this dispatcher")
_LET_GO_S = 0.5
_LET_GO = (ErrorCode.CANCELLED, ErrorCode.ACTOR_STOPPED)
"""What is heard of a request that was withdrawn."""
_STRANGE_DELIVERIES = 50
"""So many deliveries, and nobody came as far as writing a state: the message itself brings dispatchers down."""


class Take:
    """A job that was delivered here.

    Args:
        tools: Everything that takes share.
        delivery: The message; settled by this take, once.
        job_id: From its subject.
        priority: From its subject.
    """

    def __init__(self, tools: JobTools, delivery: Delivery, job_id: str, priority: int) -> None:
        self.job_id = job_id
        self.priority = priority
        self.delivery = delivery
        self.is_running = False
        """Whether a node works on it."""
        self._tools = tools
        self._try: Try | None = None
        self._is_cancelled = False
        self._is_given_back = False
        self._is_leaving = False
        """Whether it is given back instead of waiting for a slot."""
        self._wake = asyncio.Event()
        self._status: JobStatus
        self._revision = 0
        self._confirmed_mono_s = 0.0

    # -- from outside -------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Somebody cancelled the job, and has written so already."""
        self._is_cancelled = True
        self._leave_try()

    async def let_go(self) -> bool:
        """Hands the job to whoever takes it next, unless it has got a slot; returns whether it was handed over."""
        self._is_leaving = True
        if self._try is not None and (self._try.node_id or not await self._try.withdraw(_LET_GO_S)):
            return False
        self.give_back()
        return True

    def give_back(self, delay_s: float = 0.0) -> None:
        """Hands the job to whoever takes it next; what runs is stopped."""
        if self._is_given_back:
            return
        self._is_given_back = True
        if self.is_running:  # nobody died: whoever takes it next is not to count a loss
            self._tools.states.send(life.handed_back(self._status), self._revision)
        self._leave_try()
        self.delivery.nak(delay_s)

    def _leave_try(self) -> None:
        self._wake.set()
        if self._try is not None:
            self._try.give_up(_LEFT)

    # -- the course of a job ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Works on the job until it is settled; outages are waited out."""
        try:
            await self._run()
        except Overtaken:
            await self._after_overtaken()
        except Unreadable as error:
            await self._end_unreadable(error)
        except UnreadableResult as error:  # it has run; whether it shall run again is for whoever wants it
            problem = ErrorBody(code=ErrorCode.INTERNAL, message=error.message)
            await self._end(msgspec.structs.replace(self._status, state=JobState.FAILED, error=problem))

    async def _run(self) -> None:
        accepted: Accepted | None = None
        problem: ErrorBody | None = None
        try:
            hosts = self._tools.config.job_callback_hosts
            owner = owners.owner_of(self.job_id)
            accepted = read_job(self.delivery.data, self.delivery.headers, hosts=hosts, owner=owner)
        except Rejected as rejected:
            problem = rejected.error
        if accepted is not None and accepted.due_unix_s > self._tools.bus.clock.now_unix():
            await self._tools.delays.postpone(self.delivery, self.job_id, self.priority, accepted.due_unix_s)
            return
        if not await self._take_up(accepted):
            return
        if accepted is None:
            await self._end(msgspec.structs.replace(self._status, state=JobState.FAILED, error=problem))
            return
        while (step := await self._step(accepted)) is not None:
            match step:
                case Answered():
                    await self._done(accepted, step)
                    return
                case life.End():
                    await self._end(step.status, accepted)
                    return
                case life.Again():
                    if not await self._again(step):
                        return

    async def _take_up(self, accepted: Accepted | None) -> bool:
        """Makes the job this dispatcher's, in the state bucket; False when there is nothing to do."""
        fresh = fresh_status(self.delivery, accepted, worker=self._tools.instance)
        known: JobStatus | None = None
        revision = 0
        is_other_gone = False
        if self.delivery.deliveries > 1 or fresh.run > 1:
            known, revision = await self._read()
        while True:
            verdict = life.take_up(known, fresh, is_other_gone=is_other_gone)
            match verdict:
                case life.LookFor():
                    look = partial(self._is_stored, verdict.stream_seq)
                    is_other_gone = not await persistently(look, f"message of job {self.job_id}")
                    if not is_other_gone:
                        self._drop(known, is_conflict=known is not None and known.body_hash != fresh.body_hash)
                        return False
                case life.Drop():
                    self._drop(known, is_conflict=verdict.is_conflict)
                    return False
                case life.TakeUp():
                    self._status = verdict.status
                    try:
                        await self._write(revision)
                    except Overtaken:
                        known, revision = await self._read()
                        continue
                    is_new = known is None or known.run < verdict.status.run
                    return await self._check_taken(verdict, accepted, is_new=is_new)

    async def _check_taken(self, verdict: life.TakeUp, accepted: Accepted | None, *, is_new: bool) -> bool:
        """Looks for what an earlier worker left behind."""
        tools = self._tools
        if is_new:
            if self.delivery.deliveries > _STRANGE_DELIVERIES:
                await self._end(life.undeliverable(self._status, self.delivery.deliveries))
                return False
            tools.events.tell(self._status, JobNews.QUEUED)
        if self._status.run > 1:
            await persistently(partial(tools.letters.discard, self.job_id), f"letter of job {self.job_id}")
        if not verdict.was_taken:
            return True
        found, seq = await persistently(partial(tools.results.read, self.job_id), f"result of job {self.job_id}")
        if found is not None and found.run == self._status.run:
            if accepted is not None:
                await tools.callbacks.order(accepted.job, found)  # who stored it may not have come so far
            await self._conclude(found, seq, self._status)
            return False
        if life.is_worn_out(self._status):
            await self._end(life.worn_out(self._status))
            return False
        return True

    async def _step(self, accepted: Accepted) -> Answered | life.Again | life.End | None:
        """One try; None when the job is not this take's any more."""
        if self._has_left():
            return None
        result = await self._ask(accepted)
        if self._is_leaving and isinstance(result, ErrorBody) and result.code in _LET_GO:
            self.give_back()
        if self._has_left() or result is None:
            return None
        if isinstance(result, Answered):
            return result
        log.info(
            "job %s: %s%s",
            self.job_id,
            result.code,
            f": {result.own_words}" if result.own_words else "",
            extra={"action": "job_try_failed", "job_id": self.job_id, "code": result.code.value},
        )
        rules = self._tools.rules
        if accepted.job.max_tries is not None:
            rules = msgspec.structs.replace(rules, max_tries=accepted.job.max_tries)
        return life.after_failure(self._status, result, rules, self._tools.rng)

    async def _ask(self, accepted: Accepted) -> Answered | ErrorBody | None:
        """Asks for the job as any client would, and writes down how far it is."""
        tools, pace = self._tools, self._tools.pace
        headers = headers_for(accepted, self.job_id, self.priority)
        headers[h.JOB_PLACE] = f"{self.delivery.stored_at_ns} {self.delivery.stream_seq} {self.delivery.pending}"
        kept = tools.config.resume_bytes
        asking = Try(tools.calls, accepted, headers=headers, age_s=self._age_s(), resume_bytes=kept)
        try:
            async with asking as self._try:
                while not await happens(asking.has_news, pace.job_hold_s):
                    if asking.is_blocked and tools.windows.is_crowded(self.priority):
                        self.give_back(tools.windows.rotation_s(self.delivery))
                wait_s = _QUICK_S
                while not asking.is_over:
                    asking.has_news.clear()
                    await happens(asking.has_news, wait_s)
                    if not asking.is_over:
                        await self._note_running(asking)
                    wait_s = pace.job_progress_s
                if isinstance(asking.result, Answered) and not self.is_running:
                    self._status = self._running(asking)
                    tools.events.tell(self._status, JobNews.RUNNING)
            return asking.result
        finally:
            self._try = None
            self._set_running(is_running=False)

    def _set_running(self, *, is_running: bool) -> None:
        """Notes whether a node works on it: such jobs do not use up the window of those that wait."""
        if is_running != self.is_running:
            self.is_running = is_running
            sign = 1 if is_running else -1
            self._tools.windows.lend(self.priority, sign, sign * self.delivery.size_bytes)

    async def _note_running(self, asking: Try) -> None:
        """Writes where it runs and how far it is, when that is news."""
        is_news = not self.is_running or self._status.node_id != asking.node_id
        if not is_news and self._status.tokens == asking.tokens:
            return
        self._set_running(is_running=True)
        self._status = self._running(asking)
        await self._write(self._revision)
        if is_news:
            self._tools.events.tell(self._status, JobNews.RUNNING)

    def _running(self, asking: Try) -> JobStatus:
        return msgspec.structs.replace(
            self._status,
            state=JobState.RUNNING,
            node_id=asking.node_id,
            tokens=asking.tokens,
            resumed=asking.resumed,
            started_at=self._status.started_at or self._tools.bus.clock.instant(),
            doubts=0,
        )

    async def _again(self, step: life.Again) -> bool:
        """Waits for the next try, here or in the queue; False when it left this dispatcher."""
        self._status, before = msgspec.structs.replace(step.status, worker=self._tools.instance), self._status.error
        if life.is_news(before, step):
            await self._write(self._revision)
            self._tools.events.tell(self._status, JobNews.RETRYING)
        if not step.is_patient:
            self.give_back(step.delay_s)
            return False
        await happens(self._wake, step.delay_s)
        if self._has_left():
            return False
        if self._tools.windows.is_crowded(self.priority):
            self.give_back(self._tools.windows.rotation_s(self.delivery))
            return False
        return True

    # -- the end ------------------------------------------------------------------------------------------

    async def _done(self, accepted: Accepted, answered: Answered) -> None:
        figures = answered.figures
        status = msgspec.structs.replace(
            self._status,
            state=JobState.DONE,
            tries=self._status.tries + 1,
            tokens=(figures.output_tokens if figures is not None else None) or self._status.tokens,
            resumed=figures.resumed if figures is not None else 0,
            error=None,
            worker="",
            finished_at=self._tools.bus.clock.instant(),
        )
        decision = answered.decision
        if decision is not None:  # results are called back to wherever their owners say
            decision = decision.without_address()
        result = msgspec.structs.replace(
            result_of(status, total_s=self._age_s()),
            decision=decision,
            figures=figures,
            tried=answered.tried,
            check_failure=answered.check_failure,
        )
        await self._finish(status, await self._tools.results.place(result, answered.body), accepted)

    async def _end(self, status: JobStatus, accepted: Accepted | None = None) -> None:
        """Ends the job without an answer; its letter is kept, so that it can be run again."""
        status = msgspec.structs.replace(status, worker="", finished_at=self._tools.bus.clock.instant())
        await self._tools.letters.keep(status, self.delivery.data, self.delivery.headers)
        await self._finish(status, result_of(status, total_s=self._age_s()), accepted)

    async def _finish(self, status: JobStatus, result: JobResult, accepted: Accepted | None) -> None:
        if time.monotonic() - self._confirmed_mono_s > _RECHECK_S:
            self._status = msgspec.structs.replace(self._status, tokens=status.tokens)
            await self._write(self._revision)  # fails when somebody cancelled it, or took it over
        standing, seq = await self._tools.results.publish(result, status.result_seq)
        if accepted is not None:
            await self._tools.callbacks.order(accepted.job, standing)
        await self._conclude(standing, seq, status)

    async def _conclude(self, standing: JobResult, seq: int, status: JobStatus) -> None:
        """The result is stored: the state follows it, then the message is acked."""
        final = life.concluded(status, standing, seq)
        while True:
            try:
                await self._tools.states.write(final, self._revision)
            except Overtaken:
                known, self._revision = await self._read()
                if known is not None and life.is_settled(known, final):
                    self.delivery.ack()
                    return
            else:
                break
        self.delivery.ack()
        self._tools.events.tell(final, JobNews(final.state.value))

    async def _after_overtaken(self) -> None:
        """The state was written by somebody else: it was cancelled, or another dispatcher has the job."""
        known, _ = await self._read()
        if known is None or known.state in TERMINAL:
            self.delivery.ack()
        else:
            self.delivery.forget()

    async def _end_unreadable(self, error: Unreadable) -> None:
        """Ends a job whose state says nothing: whether it ever ran is not known, so that it runs by request alone."""
        problem = ErrorBody(code=ErrorCode.INTERNAL, message=error.message)
        self._status, self._revision = self._ended_by(problem), error.revision
        await self._end(self._status)

    def _ended_by(self, error: ErrorBody) -> JobStatus:
        """The state of a job that cannot run as it was stored."""
        fresh = fresh_status(self.delivery, None, worker="")
        return msgspec.structs.replace(fresh, state=JobState.FAILED, error=error)

    def _drop(self, known: JobStatus | None, *, is_conflict: bool) -> None:
        self.delivery.ack()
        if known is not None and is_conflict:
            log.warning(
                "job %s: another body came under this id; it is dropped",
                self.job_id,
                extra={"action": "job_conflict", "job_id": self.job_id},
            )
            error = ErrorBody(code=ErrorCode.CONFLICT, message="this id stands for a job with another body")
            self._tools.events.tell(msgspec.structs.replace(known, error=error), JobNews.CONFLICT)

    def _has_left(self) -> bool:
        """Whether this take has nothing more to do; settles what a cancelled job leaves."""
        if self._is_cancelled:
            self.delivery.ack()
        return self._is_cancelled or self._is_given_back

    # -- small things -------------------------------------------------------------------------------------

    def _age_s(self) -> float:
        """Seconds since it was stored, by the server's clock: its age for the queue."""
        return max(0.0, self._tools.bus.clock.now_unix() - self.delivery.stored_at_ns / 1e9)

    async def _write(self, last: int) -> None:
        self._revision = await self._tools.states.write(self._status, last)
        self._confirmed_mono_s = time.monotonic()

    async def _read(self) -> tuple[JobStatus | None, int]:
        return await persistently(partial(self._tools.states.read, self.job_id), f"state of job {self.job_id}")

    async def _is_stored(self, seq: int) -> bool:
        found = await stored_message(self._tools.bus, stores.JOBS_STREAM, seq=seq)
        return found is not None and subjects.last_token(found.subject) == self.job_id
