"""The dispatcher at the bus: requests in, execs out, and an answer for everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial
from typing import ClassVar

import msgspec

from sollol_agents.dispatcher.administration import Administration
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.jobs.runner import JobRunner
from sollol_agents.dispatcher.keeping import Keeping
from sollol_agents.dispatcher.leaves import Leaves
from sollol_agents.dispatcher.pace import Pace
from sollol_agents.dispatcher.questions import ask_state, ask_where
from sollol_agents.dispatcher.requests.table import RequestTable
from sollol_agents.requests.detector import Detector, UnknownDetector, detector_named
from sollol_bus.actor import Actor, ActorState
from sollol_bus.errors import ConfigError
from sollol_bus.jetstream.outcomes import OutcomePublisher
from sollol_bus.transport.connection import BusConfig
from sollol_bus.transport.naming import of_members
from sollol_schemas import subjects


class DispatcherStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a dispatcher can say about itself."""

    name: str
    instance: str
    state: ActorState
    in_flight: int
    taken: int
    rejected: int
    abandoned: int
    jobs_in_hand: int
    jobs_settled: int


class Dispatcher(Actor[DispatcherConfig]):
    """One of any number of dispatchers; the queue group spreads requests over them."""

    name: ClassVar[str] = "dispatcher"

    def __init__(self, config: DispatcherConfig, bus_config: BusConfig) -> None:
        super().__init__(config, bus_config)
        self.drain_timeout_s = config.drain_timeout_s
        self.pace = Pace()
        """How long it waits for what; set another before the start."""

    # -- life ---------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Subscribes to requests and to the events that move them."""
        detector = await asyncio.to_thread(self._load_detector)  # reads what is installed
        await self.own(Keeping(self.bus, self.spawn))
        outcomes = await self.own(OutcomePublisher(self.bus))
        self._requests = RequestTable(
            self.bus,
            self.config,
            self.pace,
            instance=self.instance,
            detector=detector,
            leaves=await self.own(Leaves(self.bus, self.spawn)),
            outcomes=outcomes,
            spawn=self.spawn,
            on_over=self.drain_progress,
            calls=lambda: self._jobs.calls,
        )
        await self.own(self._requests)
        self._jobs = await self.own(
            JobRunner(
                self.bus,
                self._bus_config,
                self.config,
                self.pace,
                instance=self.instance,
                detector=detector,
                roster=lambda: self._requests.roster,
                spawn=self.spawn,
                on_settled=self.drain_progress,
            )
        )
        self._administration = await self.own(Administration(self.bus, self.spawn))
        taking = {**self._requests.subjects, **self._jobs.subjects}
        taking[subjects.ADMIN_NODE.all] = self._administration.on_request
        taking[subjects.ROUTE] = partial(ask_where, self.bus, self._requests.taken_in)
        taking[subjects.STATE] = partial(ask_state, self.bus)
        for subject, handler in taking.items():
            self.take(subject, handler, queue=subjects.DISPATCHERS)
        on_job = of_members(self._jobs.reception.on_job)  # others publish to JetStream themselves
        self.take(subjects.by_members(subjects.JOB_SUBMIT.all), on_job, queue=subjects.DISPATCHERS)
        await self.register("Takes requests and jobs, and hands them to nodes.")

    def _load_detector(self) -> Detector:
        try:
            return detector_named(self.config.detector)
        except UnknownDetector as error:
            raise ConfigError(f"setting `detector`: {error}") from error

    async def stop_intake(self) -> None:
        """Takes no more jobs and requests; those that no node works on go to other dispatchers at once."""
        ours = frozenset(self._jobs.in_flight())
        await self._jobs.stop_intake()
        await super().stop_intake()
        await self._requests.leave(ours)

    def in_flight(self) -> Collection[str]:
        """Ids of the requests and jobs that are not answered yet."""
        return {*self._requests.in_flight(), *self._jobs.in_flight()}

    async def hand_back(self, reason: str) -> None:  # noqa: ARG002 nobody is given one
        """Leaves what could not finish in time to its nodes and to other dispatchers, and gives its jobs back."""
        ours = frozenset(self._jobs.in_flight())
        self._jobs.hand_back()
        await self._requests.hand_back(ours)

    def statistics(self) -> DispatcherStatistics:
        """Requests held, taken and refused since the start."""
        return DispatcherStatistics(
            name=self.name,
            instance=self.instance,
            state=self.state,
            in_flight=len(self._requests.in_flight()),
            taken=self._requests.taken,
            rejected=self._requests.rejected,
            abandoned=len(self._requests.tools.abandoned),
            jobs_in_hand=len(self._jobs.in_flight()),
            jobs_settled=self._jobs.settled,
        )
