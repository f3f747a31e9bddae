"""Machines that sleep and are woken, what they draw, and the production core that decides about it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import ClassVar, NamedTuple

import msgspec

from bench.routing.engine import Machine
from bench.routing.policies.planned import PlannedPolicy, planner_config
from bench.routing.policies.reporter import Reporter
from bench.routing.simulation import World
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_schemas.scaling import SleepEvent, SleepNews
from sollol_schemas.telemetry import LoadUpdate, Sleeper, Telemetry

WAKE_S = 112.0
IDLE_S = 300.0
MIN_AWAKE_S = 900.0
_WAKE_SPREAD = 0.1
_LOOK_S = 1.0


class Watts(NamedTuple):
    """What a whole machine draws."""

    busy: float
    idle: float
    asleep: float = 4.0


POWER = {"g24": Watts(430.0, 95.0), "g16": Watts(230.0, 75.0), "g8": Watts(300.0, 70.0)}
"""Workstations at the wall: the card at work or not, and 50 to 80 W for the rest."""


class Meter:
    """Joules of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._watts = POWER[machine.spec.kind]
        self._at = 0.0
        self.is_asleep = False
        self._is_busy = False
        self.joules = self.asleep_s = 0.0
        self.wakes = 0

    def note(self) -> None:
        """Something changed: what went before is counted."""
        passed_s = self._machine.time.now - self._at
        self._at = self._machine.time.now
        draws = self._watts.asleep if self.is_asleep else self._watts.busy if self._is_busy else self._watts.idle
        self.joules += passed_s * draws
        self.asleep_s += passed_s * self.is_asleep
        self._is_busy = bool(self._machine.running()) or self._machine.loading is not None


class MeteredReporter(Reporter):
    """A machine that is always on, with a meter."""

    def __init__(self, machine: Machine, core: SchedulerCore, carry_out: Callable[[Iterable[Effect]], None]) -> None:
        self.meter = Meter(machine)
        super().__init__(machine, core, carry_out)

    def changed(self) -> None:
        """Counts what went before, and tells the load soon."""
        self.meter.note()
        super().changed()


class SleepyReporter(MeteredReporter):
    """A machine whose agent asks for leave to sleep when it has had nothing to do for a while, as a real one does."""

    def __init__(self, machine: Machine, core: SchedulerCore, carry_out: Callable[[Iterable[Effect]], None]) -> None:
        self._idle_since = machine.time.now
        self._rng = random.Random(machine.name)
        super().__init__(machine, core, carry_out)

    def beat(self) -> None:
        """A heartbeat; and then it may go."""
        super().beat()
        now = self.machine.time.now
        if self.jobs or not self.machine.is_up:
            self._idle_since = now
        elif now - self._idle_since >= IDLE_S:
            answer = self._core.sleepers.asked_to_sleep(self.machine.name, self.machine.name, now)
            if answer.may_sleep:
                self._sleep()

    def wake(self) -> None:
        """Is there again after a while."""
        if not self.meter.is_asleep:
            return
        self.meter.note()
        self.meter.is_asleep = False
        self.meter.wakes += 1
        self.machine.time.after(WAKE_S * self._rng.lognormvariate(0.0, _WAKE_SPREAD), self._come_back)

    def _come_back(self) -> None:
        self._idle_since = self.machine.time.now
        self.machine.revive()

    def _sleep(self) -> None:
        self._seq += 1
        update = LoadUpdate(
            node_id=self.machine.name, instance=self.machine.name, seq=self._seq, slots=4, is_asleep=True
        )
        self._carry_out(self._core.on_load(update, self.machine.time.now))
        self.machine.crash()
        self.meter.note()
        self.meter.is_asleep = True

    def _telemetry(self) -> Telemetry:
        return msgspec.structs.replace(super()._telemetry(), sleeper=Sleeper(min_awake_s=MIN_AWAKE_S))


class AlwaysOn(PlannedPolicy):
    """The production planner on machines that never sleep."""

    reporter: ClassVar[type[Reporter]] = MeteredReporter


class Sleeping(PlannedPolicy):
    """The production planner, and what it decides about sleeping."""

    reporter: ClassVar[type[Reporter]] = SleepyReporter

    def __init__(self, world: World, core: SchedulerCore) -> None:
        self.failed_wakes = 0
        super().__init__(world, core)
        self._look_after()

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Wakes what is to be woken, besides."""
        effects = list(effects)
        super().carry_out(effects)
        for effect in effects:
            if isinstance(effect, SleepEvent):
                self.failed_wakes += effect.news is SleepNews.FAILED
                reporter = self.reporters[effect.node_id]
                if effect.news is SleepNews.WAKING and isinstance(reporter, SleepyReporter):
                    reporter.wake()

    def _look_after(self) -> None:
        self.world.time.after(_LOOK_S, self._look_after)
        self.carry_out(self.core.sleepers.look(self.world.time.now))


def always_on(world: World) -> AlwaysOn:
    """A fleet that never sleeps."""
    return AlwaysOn(world, SchedulerCore(planner_config(world), world.rng, 0.0))


def sleeping(world: World) -> Sleeping:
    """A fleet that sleeps while nobody needs it."""
    return Sleeping(world, SchedulerCore(planner_config(world), world.rng, 0.0))
