"""One job in the hands of this dispatcher, from its delivery until it is acked or given back."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from sollol_agents.dispatcher.jobs import life
from sollol_agents.dispatcher.jobs.execution import Answered, Execution
from sollol_agents.dispatcher.jobs.intake import TRIES_PER_TAKE, Accepted, read_job
from sollol_agents.dispatcher.jobs.persistence import Overtaken, persistently, stored_message
from sollol_agents.dispatcher.jobs.records import fresh_status, result_of, run_of
from sollol_agents.dispatcher.requests.intake import Rejected
from sollol_bus.jetstream.pull import Delivery
from sollol_bus.sdk.job_making import body_hash
from sollol_schemas import stores, subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.jobs import TERMINAL, JobNews, JobResult, JobState, JobStatus

if TYPE_CHECKING:
    from sollol_agents.dispatcher.jobs.runner import JobCrew

log = logging.getLogger(__name__)

_RECHECK_S = 1.0
"""A state that was confirmed longer ago is read again before a result is stored."""
_STRANGE_DELIVERIES = 50
"""So many deliveries, and nobody came as far as writing a state: the message itself brings dispatchers down."""


class JobRun:
    """A job that was delivered here.

    Args:
        crew: Everything that runs share.
        delivery: The message; settled by this run, once.
        job_id: From its subject.
        priority: From its subject.
    """

    def __init__(self, crew: JobCrew, delivery: Delivery, job_id: str, priority: int) -> None:
        self.job_id = job_id
        self.priority = priority
        self.delivery = delivery
        self.is_running = False
        """Whether a node works on it."""
        self._crew = crew
        self._execution: Execution | None = None
        self._is_cancelled = False
        self._is_given_back = False
        self._wake = asyncio.Event()
        self._status: JobStatus
        self._revision = 0
        self._tries_here = 0
        self._confirmed_mono_s = 0.0

    # -- from outside -------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Somebody cancelled the job, and has written so already."""
        self._is_cancelled = True
        self._wake.set()
        if self._execution is not None:
            self._execution.active.cancel(ErrorCode.CANCELLED, "the job was cancelled")

    def give_back(self, delay_s: float = 0.0) -> None:
        """Hands the job to whoever takes it next; what runs is stopped."""
        if self._is_given_back:
            return
        self._is_given_back = True
        self._wake.set()
        if self.is_running:  # nobody died: whoever takes it next is not to count a loss
            self._crew.states.send(life.handed_back(self._status), self._revision)
        if self._execution is not None:
            self._execution.stop()
        self.delivery.nak(delay_s)

    # -- the course of a job ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Works on the job until it is settled; outages are waited out."""
        try:
            await self._run()
        except Overtaken:
            await self._after_overtaken()

    async def _run(self) -> None:
        crew = self._crew
        accepted: Accepted | None = None
        problem: ErrorBody | None = None
        try:
            accepted = read_job(
                self.delivery.data,
                self.delivery.headers,
                hosts=crew.config.job_callback_hosts,
                detector=crew.detector,
            )
        except Rejected as rejected:
            problem = rejected.error
        if accepted is not None and accepted.not_before_unix_s > crew.now_unix():
            await crew.delays.postpone(self.delivery, self.job_id, self.priority, accepted.not_before_unix_s)
            return
        if not await self._take_up(accepted):
            return
        if accepted is None or problem is not None:
            error = problem or ErrorBody(code=ErrorCode.BAD_REQUEST, message="the job is malformed")
            await self._end(msgspec.structs.replace(self._status, state=JobState.FAILED, error=error))
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
        crew = self._crew
        message = life.Message(
            job_id=self.job_id,
            priority=self.priority,
            run=run_of(self.delivery.headers),
            body_hash=body_hash(self.delivery.data),
            stream_seq=self.delivery.stream_seq,
        )
        fresh = fresh_status(self.delivery, message, accepted, owner=crew.instance)
        known: JobStatus | None = None
        revision = 0
        is_other_gone = False
        if self.delivery.deliveries > 1 or message.run > 1:
            known, revision = await persistently(self._read, f"state of job {self.job_id}")
        while True:
            verdict = life.take_up(known, message, fresh, is_other_gone=is_other_gone)
            match verdict:
                case life.LookFor():
                    look = partial(self._is_stored, verdict.stream_seq)
                    is_other_gone = not await persistently(look, f"message of job {self.job_id}")
                    if not is_other_gone:
                        self._drop(is_conflict=known is not None and known.body_hash != message.body_hash)
                        return False
                case life.Drop():
                    self._drop(is_conflict=verdict.is_conflict)
                    return False
                case life.Take():
                    try:
                        self._revision = await crew.states.write(verdict.status, revision)
                    except Overtaken:
                        known, revision = await persistently(self._read, f"state of job {self.job_id}")
                        continue
                    self._confirmed()
                    self._status = verdict.status
                    is_new = known is None or known.run < verdict.status.run
                    return await self._check_taken(verdict, accepted, is_new=is_new)

    async def _check_taken(self, verdict: life.Take, accepted: Accepted | None, *, is_new: bool) -> bool:
        """Looks for what an earlier worker left behind."""
        if is_new:
            if self.delivery.deliveries > _STRANGE_DELIVERIES:
                await self._end(life.undeliverable(self._status, self.delivery.deliveries))
                return False
            self._crew.tell(self._status, JobNews.QUEUED)
        if self._status.run > 1:
            await persistently(lambda: self._crew.letters.discard(self.job_id), f"letter of job {self.job_id}")
        if not verdict.was_lost:
            return True
        found, seq = await persistently(lambda: self._crew.results.read(self.job_id), f"result of job {self.job_id}")
        if found is not None and found.run == self._status.run:
            if accepted is not None:
                await self._crew.callbacks.order(accepted.job, found)  # who stored it may not have come so far
            await self._conclude(found, seq)
            return False
        if life.is_worn_out(self._status):
            await self._end(life.worn_out(self._status))
            return False
        return True

    async def _step(self, accepted: Accepted) -> Answered | life.Again | life.End | None:
        """One try; None when the job is not this run's any more."""
        if self._leave():
            return None
        result = await self._try(accepted)
        if self._leave():
            return None
        if isinstance(result, Answered):
            return result
        log.info(
            "job %s: %s: %s",
            self.job_id,
            result.code,
            result.message,
            extra={"action": "job_try_failed", "job_id": self.job_id, "code": result.code.value},
        )
        rules = self._crew.rules
        if accepted.job.max_tries is not None:
            rules = msgspec.structs.replace(rules, max_tries=accepted.job.max_tries)
        return life.after_failure(self._status, result, rules, self._crew.rng)

    async def _try(self, accepted: Accepted) -> Answered | ErrorBody:
        if self._tries_here >= TRIES_PER_TAKE:
            self._status = msgspec.structs.replace(self._status, takes=self._status.takes + 1)
            self._tries_here = 0
            await self._write()
        execution = self._execution = self._crew.open(accepted, self._status, self._tries_here, self.age_s())
        self._tries_here += 1
        try:
            execution.start()
            await self._until_granted(execution)
            while execution.result is None:
                await self._note_running(execution)
                execution.has_news.clear()
                if execution.result is None:
                    await _wait(execution.has_news, self._crew.config.job_progress_s)
                execution.check_on_node(time.monotonic())
            return execution.result
        finally:
            self._execution = None
            self._set_running(is_running=False)
            self._crew.close_execution(execution)
            if execution.result is None:
                execution.stop()  # somebody else has the job, or ended it: no node is to go on with it

    async def _until_granted(self, execution: Execution) -> None:
        """Waits for its turn; a job that no node may take makes room when the window is full of such."""
        while not await _wait(execution.has_news, self._crew.config.job_hold_s):
            if execution.is_blocked and self._crew.is_crowded(self.priority):
                self.give_back(self._crew.rotation_s(self.delivery))

    def _set_running(self, *, is_running: bool) -> None:
        """Notes whether a node works on it: such jobs do not use up the window of those that wait."""
        if is_running != self.is_running:
            self.is_running = is_running
            self._crew.lend(self.priority, 1 if is_running else -1)

    async def _note_running(self, execution: Execution) -> None:
        """Writes where it runs and how far it is, when that is news."""
        status = self._status
        is_news = not self.is_running or status.node_id != execution.node_id
        if not is_news and status.tokens == execution.tokens:
            return
        self._set_running(is_running=True)
        self._status = msgspec.structs.replace(
            status,
            state=JobState.RUNNING,
            node_id=execution.node_id,
            tokens=execution.tokens,
            started_at=status.started_at or self._crew.now(),
            doubts=0,
        )
        await self._write()
        if is_news:
            self._crew.tell(self._status, JobNews.RUNNING)

    async def _again(self, step: life.Again) -> bool:
        """Waits for the next try, here or in the queue; False when it left this dispatcher."""
        before = self._status.error
        is_news = before is None or step.status.error is None or before.code != step.status.error.code
        if is_news or not step.is_patient:
            self._status = msgspec.structs.replace(step.status, owner=self._crew.instance)
            await self._write()
            self._crew.tell(self._status, JobNews.RETRYING)
        else:
            self._status = step.status
        if not step.is_patient:
            self.give_back(step.delay_s)
            return False
        await _wait(self._wake, step.delay_s)
        if self._leave():
            return False
        if self._crew.is_crowded(self.priority):
            self.give_back(self._crew.rotation_s(self.delivery))
            return False
        return True

    # -- the end ------------------------------------------------------------------------------------------

    async def _done(self, accepted: Accepted, answered: Answered) -> None:
        status = msgspec.structs.replace(
            self._status,
            state=JobState.DONE,
            tries=self._status.tries + 1,
            tokens=answered.figures.output_tokens or self._status.tokens if answered.figures else self._status.tokens,
            error=None,
            owner="",
            finished_at=self._crew.now(),
        )
        result = msgspec.structs.replace(
            result_of(status, total_s=self.age_s()), decision=answered.decision, figures=answered.figures
        )
        result = await self._crew.results.place(result, answered.body)
        await self._finish(status, result, accepted)

    async def _end(self, status: JobStatus, accepted: Accepted | None = None) -> None:
        """Ends the job without an answer; its letter is kept, so that it can be run again."""
        status = msgspec.structs.replace(status, owner="", finished_at=self._crew.now())
        await self._crew.letters.keep(status, self.delivery.data, self.delivery.headers)
        await self._finish(status, result_of(status, total_s=self.age_s()), accepted)

    async def _finish(self, status: JobStatus, result: JobResult, accepted: Accepted | None) -> None:
        if time.monotonic() - self._confirmed_mono_s > _RECHECK_S:
            self._status = msgspec.structs.replace(self._status, tokens=status.tokens)
            await self._write()  # fails when somebody cancelled it, or took it over
        standing, seq = await self._crew.results.publish(result, status.result_seq)
        if standing.run < result.run:
            standing, seq = await self._crew.results.publish(result, seq)
        if accepted is not None:
            await self._crew.callbacks.order(accepted.job, standing)
        await self._conclude(standing, seq, status)

    async def _conclude(self, standing: JobResult, seq: int, status: JobStatus | None = None) -> None:
        """The result is stored: the state follows it, then the message is acked."""
        final = msgspec.structs.replace(
            status or self._status,
            state=standing.state,
            result_seq=seq,
            error=standing.error,
            owner="",
            finished_at=standing.finished_at,
        )
        while True:
            try:
                await self._crew.states.write(final, self._revision)
            except Overtaken:
                known, self._revision = await persistently(self._read, f"state of job {self.job_id}")
                if known is not None and life.is_settled(known, final):
                    self.delivery.ack()
                    return
            else:
                break
        self.delivery.ack()
        self._crew.tell(final, JobNews(final.state.value))

    async def _after_overtaken(self) -> None:
        """The state was written by somebody else: it was cancelled, or another dispatcher has the job."""
        known, _ = await persistently(self._read, f"state of job {self.job_id}")
        if known is None or known.state in TERMINAL:
            self.delivery.ack()
        else:
            self.delivery.forget()

    def _drop(self, *, is_conflict: bool) -> None:
        self.delivery.ack()
        if is_conflict:
            log.warning(
                "job %s: another body came under this id; it is dropped",
                self.job_id,
                extra={"action": "job_conflict", "job_id": self.job_id},
            )
            error = ErrorBody(code=ErrorCode.CONFLICT, message="this id stands for a job with another body")
            status = JobStatus(job_id=self.job_id, state=JobState.FAILED, priority=self.priority, error=error)
            self._crew.tell(status, JobNews.CONFLICT)

    def _leave(self) -> bool:
        """Whether this run has nothing more to do; settles what a cancelled job leaves."""
        if self._is_cancelled:
            self.delivery.ack()
        return self._is_cancelled or self._is_given_back

    # -- small things -------------------------------------------------------------------------------------

    def age_s(self) -> float:
        """Seconds since it was stored, by the server's clock: its age for the queue."""
        return max(0.0, self._crew.now_unix() - self.delivery.stored_at_ns / 1e9)

    async def _write(self) -> None:
        self._revision = await self._crew.states.write(self._status, self._revision)
        self._confirmed()

    def _confirmed(self) -> None:
        self._confirmed_mono_s = time.monotonic()

    async def _read(self) -> tuple[JobStatus | None, int]:
        return await self._crew.states.read(self.job_id)

    async def _is_stored(self, seq: int) -> bool:
        found = await stored_message(self._crew.bus, stores.JOBS_STREAM, seq=seq)
        return found is not None and subjects.last_token(found.subject) == self.job_id


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event was set in time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
