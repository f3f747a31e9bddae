"""The jobs of one dispatcher: what is taken from the queue, kept alive, and settled or given back.

A job is asked for over the bus, like any client's request: any dispatcher may take it, and the scorer alone orders.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Coroutine
from typing import Any

import msgspec

from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.jobs.callbacks import Callbacks
from sollol_agents.dispatcher.jobs.delays import Delays
from sollol_agents.dispatcher.jobs.events import JobEvents
from sollol_agents.dispatcher.jobs.letters import Letters
from sollol_agents.dispatcher.jobs.life import RetryRules
from sollol_agents.dispatcher.jobs.questions import JobQuestions
from sollol_agents.dispatcher.jobs.reception import Reception
from sollol_agents.dispatcher.jobs.results import Results
from sollol_agents.dispatcher.jobs.states import States
from sollol_agents.dispatcher.jobs.take import Take
from sollol_agents.dispatcher.jobs.tools import JobTools
from sollol_agents.dispatcher.jobs.undeliverable import Undeliverable
from sollol_agents.dispatcher.jobs.windows import Windows
from sollol_agents.dispatcher.pace import Pace
from sollol_agents.requests.detector import Detector
from sollol_bus.errors import BusError, ConfigError
from sollol_bus.jetstream.job_streams import job_streams
from sollol_bus.jetstream.pull import Delivery
from sollol_bus.jetstream.server_time import ServerTime
from sollol_bus.jetstream.streams import provision
from sollol_bus.parts import Part, Spawn
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decoded, encode
from sollol_bus.trust.callers import Roster
from sollol_bus.trust.job_room import JobRoom
from sollol_schemas import inboxes, owners, stores, subjects
from sollol_schemas.jobs import JobNews, JobsReturned

log = logging.getLogger(__name__)

_BEATS_PER_WAIT = 4
_PROVISION_RETRY_S = 2.0
_AFTER_FAILURE_S = 5.0
_CANCELLED = JobNews.CANCELLED.value
_RETURNED_WITHIN_S = 1.0


class JobRunner(Part):
    """Owns the consumers of the queue, and what was taken from them.

    Args:
        bus: The dispatcher's connection.
        bus_config: How to open another one: jobs are asked for as by a client, whose inboxes are of another kind.
        config: The dispatcher's settings.
        pace: How long it waits for what.
        instance: Who works on the jobs.
        detector: Finds the task in a prompt.
        roster: Tells the callers, as they are known now.
        spawn: Runs a coroutine as a task of the dispatcher.
        on_settled: Called whenever a job has left.
    """

    def __init__(
        self,
        bus: Bus,
        bus_config: BusConfig,
        config: DispatcherConfig,
        pace: Pace,
        *,
        instance: str,
        detector: Detector,
        roster: Callable[[], Roster],
        spawn: Spawn,
        on_settled: Callable[[], None],
    ) -> None:
        self._room = JobRoom(bus, roster)
        self.reception = Reception(bus, roster, self._room, self._spawn_guarded)
        """Stores what members publish."""
        self.settled = 0
        """Jobs that were settled here since the start."""
        self._bus = bus
        self._bus_config = bus_config
        self._config = config
        self._pace = pace
        self._instance = instance
        self._detector = detector
        self._roster = roster
        self._spawn = spawn
        self._on_settled = on_settled
        self._server_time = ServerTime(bus, spawn, stores.JOBS_STREAM)
        self._takes: dict[str, Take] = {}
        self._is_stopping = False
        self._tools: JobTools
        self._undeliverable: Undeliverable

    # -- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begins to take jobs as soon as JetStream is there; without it the dispatcher works, without jobs."""
        calls = await Bus.connect(
            msgspec.structs.replace(
                self._bus_config,
                name=f"{self._bus_config.name} jobs",
                inbox_prefix=inboxes.client_inbox_prefix(self._bus_config.user),
            )
        )
        self._tools = self._make_tools(calls)
        self._undeliverable = Undeliverable(self._tools, self._spawn_guarded)
        for pattern in (subjects.JOB_EVENT.of("*", _CANCELLED), subjects.OWN_JOB_EVENT.of("*", "*", _CANCELLED)):
            self._bus.subscribe(pattern, self._on_cancelled)
        self._bus.subscribe(subjects.JOB_RETURNED.all, self._on_returned)
        self._spawn(self._begin(), name="jobs.start")
        self._spawn(self._watch(calls), name="jobs.connection")

    @property
    def calls(self) -> Bus:
        """The connection of the jobs' requests, with a client's inboxes."""
        return self._tools.calls

    @property
    def subjects(self) -> dict[str, Callable[[Msg], None]]:
        """Where questions about jobs come in, and who answers them."""
        return JobQuestions(self._tools, self._detector, self._spawn_guarded).subjects

    async def stop_intake(self) -> None:
        """Takes no more jobs, gives back those that no node works on yet, and tells the other dispatchers so."""
        self._is_stopping = True
        self._tools.delays.consumer.stop()
        self._tools.callbacks.consumer.stop()
        await self._tools.windows.drain()
        takes = list(self._takes.values())
        have_gone = await asyncio.gather(*(take.let_go() for take in takes))
        returned: dict[int, list[Delivery]] = {}
        for take, has_gone in zip(takes, have_gone, strict=True):
            if has_gone:
                returned.setdefault(take.priority, []).append(take.delivery)
        await asyncio.gather(*(self._tell_returned(priority, jobs) for priority, jobs in returned.items()))

    async def _tell_returned(self, priority: int, jobs: list[Delivery]) -> None:
        try:
            await jobs[-1].confirmed(_RETURNED_WITHIN_S)
            self._bus.publish(subjects.JOB_RETURNED.of(priority), encode(JobsReturned(count=len(jobs))))
        except BusError as error:
            log.info("jobs of priority %d come again later: %s", priority, error, extra={"action": "jobs_return"})

    def hand_back(self) -> None:
        """Gives back what did not finish in time."""
        for take in list(self._takes.values()):
            take.give_back()

    async def close(self) -> None:
        """Closes the connections to the bus and to the hosts of callbacks."""
        self._is_stopping = True
        await self._tools.callbacks.close()
        await self._tools.calls.close()

    def in_flight(self) -> Collection[str]:
        """Ids of the jobs in hand."""
        return self._takes.keys()

    def _make_tools(self, calls: Bus) -> JobTools:
        bus, config, pace = self._bus, self._config, self._pace
        results = Results(bus, config.job_inline_bytes)
        return JobTools(
            bus=bus,
            calls=calls,
            config=config,
            pace=pace,
            instance=self._instance,
            roster=self._roster,
            room=self._room,
            rules=RetryRules(
                max_tries=config.job_max_tries, first_s=pace.job_retry_first_s, max_s=pace.job_retry_max_s
            ),
            rng=random.Random(self._instance),
            states=States(bus, config.job_keep_s),
            results=results,
            letters=Letters(bus),
            callbacks=Callbacks(bus, config, results, self._spawn_guarded),
            delays=Delays(bus, self._spawn_guarded, config.job_ack_wait_s),
            windows=Windows(bus, pace, config.job_ack_wait_s, self._on_job),
            events=JobEvents(bus),
            is_provisioned=asyncio.Event(),
        )

    async def _begin(self) -> None:
        tools = self._tools
        while True:
            try:
                await provision(self._bus, streams=job_streams(self._config.job_keep_s))
                await self._server_time.compare()
            except (BusError, ConfigError) as error:
                log.warning("no jobs can be taken yet: %s", error, extra={"action": "jobs_wait"})
                await asyncio.sleep(_PROVISION_RETRY_S)
            else:
                break
        tools.is_provisioned.set()
        if self._is_stopping:
            return
        self._spawn(self._server_time.run(), name="jobs.clock")
        self._spawn(self._beat(), name="jobs.heartbeat")
        self._spawn(tools.delays.consumer.run(), name="jobs.due")
        self._spawn(tools.callbacks.consumer.run(), name="jobs.callbacks")
        self._spawn(self._undeliverable.consumer.run(), name="jobs.undeliverable")
        for priority, consumer in tools.windows.consumers.items():
            self._spawn(consumer.run(), name=f"jobs.{priority}")

    async def _watch(self, calls: Bus) -> None:
        await calls.closed.wait()
        if not self._is_stopping:
            raise BusError(f"the bus closed the connection of the jobs' requests: {calls.close_reason}")

    # -- taking jobs --------------------------------------------------------------------------------------

    def _on_job(self, priority: int, delivery: Delivery) -> None:
        job_id = subjects.last_token(delivery.subject)
        if not owners.is_reference(job_id):
            self._spawn_guarded(self._undeliverable.bury_nameless(delivery), name="nameless")
            return
        before = self._takes.get(job_id)
        if before is not None:
            if before.delivery.stream_seq == delivery.stream_seq:
                before.delivery.forget()  # it came again: only the later delivery can be acked
                before.delivery = delivery
            else:
                delivery.nak(_AFTER_FAILURE_S)  # a second message for it; looked at when this one is settled
            return
        take = self._takes[job_id] = Take(self._tools, delivery, job_id, priority)
        self._spawn(self._run(take), name=f"job.{job_id}")

    async def _run(self, take: Take) -> None:
        try:
            await take.run()
        except Exception:
            log.exception("job %s", take.job_id, extra={"action": "job_failed", "job_id": take.job_id})
            take.give_back(_AFTER_FAILURE_S)
        finally:
            if self._takes.get(take.job_id) is take:
                del self._takes[take.job_id]
            if not take.delivery.is_settled:  # it came again while it was ending
                take.delivery.nak()
            self.settled += 1
            self._on_settled()

    async def _beat(self) -> None:
        """Tells the server that the jobs in hand are being worked on."""
        while True:
            await asyncio.sleep(self._config.job_ack_wait_s / _BEATS_PER_WAIT)
            for take in self._takes.values():
                take.delivery.in_progress()

    def _on_returned(self, msg: Msg) -> None:
        told, priority = decoded(msg, JobsReturned), subjects.last_token(msg.subject)
        if told is not None and priority in map(str, self._tools.windows.consumers):
            self._tools.windows.expect(int(priority), told.count)

    def _on_cancelled(self, msg: Msg) -> None:
        take = self._takes.get(owners.job_of_event(msg.subject))
        if take is not None:
            take.cancel()

    def _spawn_guarded(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[Any]:
        """Runs something whose failure must not end the dispatcher."""
        return self._spawn(_guarded(coroutine, name), name=f"jobs.{name}")


async def _guarded(coroutine: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await coroutine
    except BusError as error:
        log.info("jobs: %s: %s", name, error, extra={"action": "job_task_failed"})
    except Exception:
        log.exception("jobs: %s", name, extra={"action": "job_task_failed"})
