"""The jobs of one dispatcher: what it has taken from the queue, and what it needs to work on them.

For each priority a small window of jobs is taken ahead of a slot and enqueued at the scorer, which alone orders them;
everything else stays in the queue, so that memory does not grow with the backlog.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
from collections.abc import Callable, Collection, Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.jobs.callbacks import Callbacks
from sollol_agents.dispatcher.jobs.clock import ServerClock
from sollol_agents.dispatcher.jobs.delays import Delays
from sollol_agents.dispatcher.jobs.execution import Dispatching, Execution
from sollol_agents.dispatcher.jobs.intake import Accepted, is_job_id, request_for
from sollol_agents.dispatcher.jobs.letters import Letters
from sollol_agents.dispatcher.jobs.life import RetryRules
from sollol_agents.dispatcher.jobs.persistence import Results, States
from sollol_agents.dispatcher.jobs.questions import JobDesk
from sollol_agents.dispatcher.jobs.take import JobRun
from sollol_agents.dispatcher.jobs.undeliverable import Burial
from sollol_agents.dispatcher.requests.table import RequestTable
from sollol_agents.requests.detector import Detector
from sollol_bus.errors import BusError, ConfigError, NotConnected
from sollol_bus.jetstream.job_streams import MAX_DELIVERIES, job_streams
from sollol_bus.jetstream.pull import ConsumerSpec, Delivery, PullConsumer
from sollol_bus.jetstream.streams import provision
from sollol_bus.parts import Part
from sollol_bus.transport.messages import Msg, encode
from sollol_schemas import inboxes, stores, subjects
from sollol_schemas.instants import instant
from sollol_schemas.jobs import JobEvent, JobNews, JobStatus

log = logging.getLogger(__name__)

SpawnTask = Callable[[Coroutine[Any, Any, Any], str], object]

_BEATS_PER_WAIT = 4
_MAX_ACK_PENDING = 20_000
"""Jobs that wait for another try count as delivered: they must not use up what may be delivered."""
_PROVISION_RETRY_S = 2.0
_AFTER_FAILURE_S = 5.0
_SHORTEST_ROTATION_S = 30.0
_LONGEST_ROTATION_S = 300.0


class JobCrew(Part):
    """Runs the durable jobs of one dispatcher.

    Args:
        dispatching: The dispatcher.
        requests: Holds the requests of the jobs beside its others.
        detector: Finds the task in a prompt.
        spawn: Runs a coroutine as a task of the dispatcher.
    """

    def __init__(self, dispatching: Dispatching, requests: RequestTable, detector: Detector, spawn: SpawnTask) -> None:
        self._requests = requests
        self.bus = dispatching.bus
        self.config: DispatcherConfig = dispatching.config
        self.instance: str = dispatching.instance
        self.detector = detector
        self.rng = random.Random(self.instance)
        self.rules = RetryRules(
            max_tries=self.config.job_max_tries,
            first_s=self.config.job_retry_first_s,
            max_s=self.config.job_retry_max_s,
        )
        self.states = States(self.bus, self.config.job_keep_s)
        self.results = Results(self.bus, self.config.job_inline_bytes)
        self.letters = Letters(self.bus)
        self.callbacks = Callbacks(self.bus, self.config, self.results, self._spawn_guarded)
        self.delays = Delays(self.bus, self._spawn_guarded, self.config.job_ack_wait_s)
        self.desk = JobDesk(self, self._spawn_guarded)
        self.done = 0
        """Jobs that were settled here since the start."""
        self._burial = Burial(self, self._spawn_guarded)
        self._clock = ServerClock(self.bus, stores.JOBS_STREAM)
        self._dispatching = dispatching
        self._spawn = spawn
        self._secret = secrets.token_hex(16)
        self._runs: dict[str, JobRun] = {}
        self._consumers: dict[int, PullConsumer] = {}
        self._inbox = f"{inboxes.CLIENT_INBOX_PREFIXES[0]}job.{self.instance}"
        self._keys = itertools.count(1)
        self._executions: dict[str, Execution] = {}
        self._is_stopping = False
        self._is_provisioned = asyncio.Event()

    # -- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begins to take jobs as soon as JetStream is there; without it the dispatcher works, without jobs."""
        self.bus.subscribe(f"{self._inbox}.*", self._on_answer)
        self.bus.subscribe(subjects.JOB_EVENT.of("*", JobNews.CANCELLED.value), self._on_cancelled)
        self._spawn(self._begin(), "jobs.start")

    async def until_provisioned(self, timeout_s: float) -> bool:
        """Whether the streams of jobs are there, or come within the time given."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_provisioned.wait()
        except TimeoutError:
            return False
        return True

    def stop_intake(self) -> None:
        """Takes no more jobs, and gives back those that no node works on yet."""
        self._is_stopping = True
        for consumer in (*self._consumers.values(), self.delays.consumer, self.callbacks.consumer):
            consumer.stop()
        for run in list(self._runs.values()):
            if not run.is_running:
                run.give_back()

    def hand_back(self) -> None:
        """Gives back what did not finish in time."""
        for run in list(self._runs.values()):
            run.give_back()

    async def close(self) -> None:
        """Closes what the crew owns."""
        await self.callbacks.close()

    def in_flight(self) -> Collection[str]:
        """Ids of the jobs in hand."""
        return self._runs.keys()

    async def _begin(self) -> None:
        while True:
            try:
                await provision(self.bus, streams=job_streams(self.config.job_keep_s))
                await self._clock.compare()
            except (BusError, ConfigError) as error:
                log.warning("no jobs can be taken yet: %s", error, extra={"action": "jobs_wait"})
                await asyncio.sleep(_PROVISION_RETRY_S)
            else:
                break
        self._is_provisioned.set()
        if self._is_stopping:
            return
        self._spawn(self._clock.run(), "jobs.clock")
        self._spawn(self._beat(), "jobs.heartbeat")
        self._spawn(self.delays.consumer.run(), "jobs.due")
        self._spawn(self.callbacks.consumer.run(), "jobs.callbacks")
        self._spawn(self._burial.consumer.run(), "jobs.burial")
        for priority in subjects.JOB_PRIORITIES:
            consumer = self._consumers[priority] = self._consumer(priority)
            self._spawn(consumer.run(), f"jobs.{priority}")

    def _consumer(self, priority: int) -> PullConsumer:
        spec = ConsumerSpec(
            stream=stores.JOBS_STREAM,
            durable=f"p{priority}",
            filter_subjects=(subjects.JOB_SUBMIT.of(priority, "*"),),
            ack_wait_s=self.config.job_ack_wait_s,
            max_ack_pending=_MAX_ACK_PENDING,
            max_deliver=MAX_DELIVERIES,
        )
        handler = partial(self._on_job, priority)
        return PullConsumer(self.bus, spec, handler, window=self.config.job_window)

    # -- taking jobs --------------------------------------------------------------------------------------

    def _on_job(self, priority: int, delivery: Delivery) -> None:
        job_id = subjects.last_token(delivery.subject)
        if not is_job_id(job_id):
            self._spawn_guarded(self._burial.bury_nameless(delivery), "nameless")
            return
        before = self._runs.get(job_id)
        if before is not None:
            if before.delivery.stream_seq == delivery.stream_seq:
                before.delivery.forget()  # it came again: only the later delivery can be acked
                before.delivery = delivery
            else:
                delivery.nak(_AFTER_FAILURE_S)  # a second message for it; looked at when this one is settled
            return
        run = self._runs[job_id] = JobRun(self, delivery, job_id, priority)
        self._spawn(self._run(run), f"job.{job_id}")

    async def _run(self, run: JobRun) -> None:
        try:
            await run.run()
        except Exception:
            log.exception("job %s", run.job_id, extra={"action": "job_failed", "job_id": run.job_id})
            run.give_back(_AFTER_FAILURE_S)
        finally:
            if self._runs.get(run.job_id) is run:
                del self._runs[run.job_id]
            if not run.delivery.is_settled:  # it came again while the run was ending
                run.delivery.nak()
            self.done += 1
            self._dispatching.drain_progress()

    async def _beat(self) -> None:
        """Tells the server that the jobs in hand are being worked on."""
        while True:
            await asyncio.sleep(self.config.job_ack_wait_s / _BEATS_PER_WAIT)
            for run in self._runs.values():
                run.delivery.in_progress()

    def lend(self, priority: int, places: int) -> None:
        """Widens the window of a priority, or takes that back: what a node works on waits no more."""
        consumer = self._consumers.get(priority)
        if consumer is not None:
            consumer.lend(places)

    def rotation_s(self, delivery: Delivery) -> float:
        """How long a job that no node may take stays away: long enough for all behind it to have had their turn."""
        rounds = 1.0 + delivery.pending / self.config.job_window
        return min(_LONGEST_ROTATION_S, max(_SHORTEST_ROTATION_S, self.config.job_hold_s * rounds))

    def is_crowded(self, priority: int) -> bool:
        """Whether this priority's window is full, so that others may be waiting behind it."""
        consumer = self._consumers.get(priority)
        return consumer is not None and consumer.is_full

    # -- what runs need -----------------------------------------------------------------------------------

    def now_unix(self) -> float:
        """Seconds of Unix time by the server's clock."""
        return self._clock.now_unix()

    def now(self) -> str:
        """The present instant, as it stands in states and results."""
        return instant(datetime.now(UTC))

    def open(self, accepted: Accepted, status: JobStatus, tries_here: int, waited_s: float) -> Execution:
        """A try of a job, with an inbox of its own."""
        key = str(next(self._keys))
        reply_to = f"{self._inbox}.{key}"
        request = request_for(
            accepted, status, tries_here=tries_here, reply_to=reply_to, waited_s=waited_s, secret=self._secret
        )
        execution = self._executions[key] = Execution(self._requests, request)
        return execution

    def close_execution(self, execution: Execution) -> None:
        """The try is over: what still comes to its inbox goes nowhere."""
        self._executions.pop(subjects.last_token(execution.active.request.reply_to), None)

    def tell(self, status: JobStatus, news: JobNews) -> None:
        """Publishes an event; one that falls into an outage is lost, the state is not."""
        event = JobEvent(
            job_id=status.job_id,
            news=news,
            state=status.state,
            priority=status.priority,
            model=status.model,
            tries=status.tries,
            node_id=status.node_id,
            error=status.error,
            at=self.now(),
        )
        try:
            self.bus.publish(subjects.JOB_EVENT.of(status.job_id, news.value), encode(event))
        except NotConnected:
            log.debug("job %s: nobody hears that it is %s", status.job_id, news)

    def _on_answer(self, msg: Msg) -> None:
        execution = self._executions.get(subjects.last_token(msg.subject))
        if execution is not None:
            execution.on_message(msg)

    def _on_cancelled(self, msg: Msg) -> None:
        run = self._runs.get(msg.subject.split(".")[-2])
        if run is not None:
            run.cancel()

    def _spawn_guarded(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """Runs something whose failure must not end the dispatcher."""
        self._spawn(_guarded(coroutine, name), f"jobs.{name}")


async def _guarded(coroutine: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await coroutine
    except BusError as error:
        log.info("jobs: %s: %s", name, error, extra={"action": "job_task_failed"})
    except Exception:
        log.exception("jobs: %s", name, extra={"action": "job_task_failed"})
