"""Scorers that heard the same know the same: a twin in everything, a standby in all that the fleet told."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sollol_agents.lab.testing.scorer_snapshot import canonical_bytes, snapshot
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import Decision, DecisionEvent, Forecast
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.grant import Granted, GrantRelease, GrantRequest
from sollol_schemas.ids import request_id_of
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import (
    EngineInfo,
    EngineKind,
    Gpu,
    InFlight,
    InstalledModel,
    LoadedModel,
    LoadUpdate,
    Telemetry,
)

MODELS = ("small:1b", "base:8b", "large:14b")
EVENTS = 10_000
Event = Telemetry | LoadUpdate | Outcome | GrantRequest | GrantRelease | float


class Machine:
    """A node that runs what it is granted, tells what it runs, and now and then fails or restarts."""

    def __init__(self, number: int) -> None:
        self.node_id = f"n{number}"
        self.seq = 0
        self.life = 1
        self.running: dict[str, tuple[str, int]] = {}
        self.told: dict[str, DecisionEvent] = {}
        self.loaded: list[str] = [MODELS[1]]

    @property
    def instance(self) -> str:
        return f"{self.node_id}-{self.life}"

    def restart(self) -> None:
        self.life += 1
        self.seq = 0
        self.running.clear()
        self.loaded.clear()

    def accept(self, granted: Granted, event: DecisionEvent) -> None:
        self.told[granted.decision.attempt_id] = event
        self.running[granted.decision.attempt_id] = (granted.decision.model, 0)
        if granted.decision.model not in self.loaded:
            self.loaded.append(granted.decision.model)

    def _fields(self) -> dict[str, Any]:
        self.seq += 1
        return {
            "node_id": self.node_id,
            "instance": self.instance,
            "seq": self.seq,
            "slots": 2,
            "loaded": tuple(LoadedModel(name=m, size_bytes=2 * 10**9, vram_bytes=2 * 10**9) for m in self.loaded),
            "in_flight": tuple(
                InFlight(
                    attempt_id=a,
                    model=m,
                    output_tokens=made,
                    has_first_token=made > 0,
                    forecast=self.told[a].decision.forecast,
                )
                for a, (m, made) in self.running.items()
            ),
        }

    def load(self) -> LoadUpdate:
        return LoadUpdate(**self._fields())

    def beat(self) -> Telemetry:
        return Telemetry(
            revision=self.life,
            engine=EngineInfo(kind=EngineKind.OLLAMA, url=f"http://{self.node_id}"),
            gpus=(Gpu(index=0, name="RTX 3090", memory_total_mib=24_576, memory_free_mib=18_000),),
            ram_total_mib=64_000.0,
            ram_available_mib=50_000.0,
            installed=tuple(InstalledModel(name=m, size_bytes=2_000_000_000) for m in MODELS),
            **self._fields(),
        )

    def outcome(self, attempt_id: str, rng: random.Random) -> Outcome:
        model, _ = self.running.pop(attempt_id)
        code = rng.choices([None, ErrorCode.ENGINE_FAILED, ErrorCode.CANCELLED], [16, 2, 1])[0]
        status = {None: OutcomeStatus.SUCCESS, ErrorCode.CANCELLED: OutcomeStatus.CANCELLED}.get(
            code, OutcomeStatus.FAILED
        )
        seconds = rng.uniform(0.5, 3.0)
        figures = Figures(
            actual_s=seconds,
            prompt_tokens=rng.randrange(50, 900),
            output_tokens=rng.randrange(10, 400),
            prompt_s=0.1 * seconds,
            decode_s=0.9 * seconds,
            co_runners=0.5,
        )
        return Outcome(
            decision=Decision(
                attempt_id=attempt_id,
                request_id=request_id_of(attempt_id),
                node_id=self.node_id,
                instance=self.instance,
                model=model,
                task_type=rng.choice(["chat", "coding"]),
                forecast=Forecast(total_s=1.0),
            ),
            status=status,
            code=code,
            reported_by=ReportedBy.NODE,
            figures=figures,
        )


class World:
    """A leader at work; `log` holds everything that it took, in order."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 10.0
        self.leader = core()
        self.machines = [Machine(i) for i in range(4)]
        self.log: list[tuple[float, Event]] = []
        self.grants: list[Granted] = []
        self.told: dict[str, DecisionEvent] = {}
        self._asked = 0

    def take(self, event: Event) -> None:
        self.log.append((self.now, event))
        effects = feed(self.leader, event, self.now)
        self.grants += [e for e in effects if isinstance(e, Granted)]
        decisions = [e for e in effects if isinstance(e, DecisionEvent)]
        self.told |= {d.decision.attempt_id: d for d in decisions}

    def step(self) -> None:
        rng, machine = self.rng, self.rng.choice(self.machines)
        self.now += rng.uniform(0.0, 0.05)
        match rng.choices(
            ["ask", "end", "progress", "beat", "tick", "accept", "leave", "restart"], [20, 22, 14, 16, 8, 20, 1, 0.1]
        )[0]:
            case "ask":
                self._asked += 1
                context = TaskContext(kind=RequestKind.CHAT, model=rng.choice(MODELS), prompt_tokens=rng.randrange(900))
                routing = Routing(priority=rng.choice([2, 5, 9]))
                self.take(GrantRequest(request_id=f"r{self._asked}", number=1, context=context, routing=routing))
            case "accept" if self.grants:
                self._accept(self.grants.pop(0))
            case "end" if machine.running:
                self.take(machine.outcome(next(iter(machine.running)), rng))
            case "progress":
                machine.running = {a: (m, made + rng.randrange(40)) for a, (m, made) in machine.running.items()}
                self.take(machine.load())
            case "leave" if self.leader.waiting:
                self.take(GrantRelease(request_id=next(iter(self.leader.waiting)).request_id))
            case "restart":
                machine.restart()
                self.take(machine.beat())
            case "tick":
                self.take(self.now)
            case _:
                self.take(machine.beat())

    def _accept(self, granted: Granted) -> None:
        machine = next(m for m in self.machines if m.node_id == granted.decision.node_id)
        if granted.decision.instance == machine.instance:
            machine.accept(granted, self.told[granted.decision.attempt_id])
            self.take(machine.load())

    def settle(self) -> None:
        """Lets every node say once more what it runs, and every grant that nobody took expire."""
        self.grants.clear()
        for _ in range(4):
            self.now += 1.0
            for machine in self.machines:
                self.take(machine.beat())
            self.take(self.now)


def core() -> SchedulerCore:
    return SchedulerCore(ScorerConfig(warm_up_s=0.0, seed=5), random.Random(5), 10.0)


def feed(target: SchedulerCore, event: Event, now: float) -> list[Any]:
    match event:
        case Telemetry():
            return target.on_telemetry(event, now)
        case LoadUpdate():
            return target.on_load(event, now)
        case Outcome():
            return target.on_outcome(event, now)
        case GrantRequest():
            return target.enqueue(event, now)
        case GrantRelease():
            return target.release(event.request_id, now)
        case _:
            return target.tick(now)


@pytest.fixture(scope="module")
def world() -> World:
    world = World(seed=11)
    for machine in world.machines:
        world.take(machine.beat())
    while len(world.log) < EVENTS:
        world.step()
    world.settle()
    return world


def test_the_log_is_of_a_fleet_at_work(world: World) -> None:
    kinds = [type(event).__name__ for _, event in world.log]
    assert len(kinds) >= EVENTS
    assert kinds.count("Outcome") > 500
    assert any(m.life > 1 for m in world.machines)
    assert world.leader.fleet.nodes["n0"].record.attempts > 20


def test_two_scorers_that_took_the_same_log_are_equal_in_everything(world: World) -> None:
    twin = core()
    for now, event in world.log:
        feed(twin, event, now)
    assert canonical_bytes(snapshot(twin)) == canonical_bytes(snapshot(world.leader))


def test_a_standby_that_heard_the_fleet_alone_knows_it_as_the_leader_does(world: World) -> None:
    standby = core()
    for now, event in world.log:
        if not isinstance(event, (GrantRequest, GrantRelease)):
            feed(standby, event, now)
    ours, theirs = snapshot(standby), snapshot(world.leader)
    for node_id, facts in theirs["fleet"].items():
        assert ours["fleet"][node_id] == facts
    assert ours["lengths"] == theirs["lengths"]


def test_another_order_of_the_same_events_gives_another_state(world: World) -> None:
    other = core()
    for now, event in world.log[: len(world.log) // 2]:
        feed(other, event, now)
    assert canonical_bytes(snapshot(other)) != canonical_bytes(snapshot(world.leader))
