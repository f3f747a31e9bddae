"""What may never happen, whatever nodes tell and however they come and go."""

from __future__ import annotations

import gc
import math
import random
import weakref
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import MODEL, model
from sollol_agents.lab.testing.scorer_stage import Fleet, granted
from sollol_schemas.decision import DecisionEvent, Forecast
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.grant import Granted
from sollol_schemas.telemetry import (
    Gpu,
    InFlight,
    InstalledModel,
)

# -- what may never happen ------------------------------------------------------------------------------------

numbers = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(-10, 1e6))
whole = st.integers(-5, 10**12)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "rtt": numbers,
            "uptime": numbers,
            "total": numbers,
            "free": numbers,
            "ram": numbers,
            "elapsed": numbers,
            "size": whole,
            "kv": whole,
            "slots": whole,
            "tokens": whole,
            "weight": numbers,
        }
    )
)
def test_absurd_telemetry_never_makes_a_cost_infinite_or_a_slot_endless(claims: dict[str, Any]) -> None:
    fleet = Fleet()
    fleet.node("sane", slots=1)
    fleet.node(
        "absurd",
        slots=claims["slots"],
        bus_rtt_s=claims["rtt"],
        uptime_s=claims["uptime"],
        weight=claims["weight"],
        gpus=(Gpu(index=0, name="?", memory_total_mib=claims["total"], memory_free_mib=claims["free"]),),
        ram_total_mib=claims["ram"],
        ram_available_mib=claims["ram"],
        installed=(InstalledModel(name=MODEL, size_bytes=claims["size"], kv_bytes_per_token=claims["kv"]),),
        in_flight=(
            InFlight(
                attempt_id="f-1",
                model=MODEL,
                elapsed_s=claims["elapsed"],
                output_tokens=claims["tokens"],
                forecast=Forecast(output_tokens=claims["elapsed"]),
            ),
        ),
    )
    for i in range(3):
        fleet.ask(f"r{i}")
    fleet.tick(1.0)
    assert len(fleet.core.fleet.nodes["absurd"].attempts) <= max(1, min(claims["slots"], 256))
    for effect in fleet.effects:
        if isinstance(effect, DecisionEvent):
            assert all(math.isfinite(c.total_s) for c in effect.candidates)


class Machine:
    """A random history of a small fleet, with every invariant checked after each step."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.fleet = Fleet(theta=self.rng.choice([0.0, 0.25]))
        self.running: dict[str, str] = {}
        self.numbers = 0
        self.models = [MODEL, "mistral:7b"]
        for i in range(self.rng.randrange(1, 5)):
            self.beat(f"n{i}", slots=self.rng.randrange(1, 4))

    def beat(self, node_id: str, **changes: Any) -> None:
        installed = tuple(model(m) for m in self.models)
        in_flight = tuple(InFlight(attempt_id=a, model=MODEL) for a, n in self.running.items() if n == node_id)
        self.fleet.node(node_id, **({"installed": installed, "in_flight": in_flight} | changes))

    def step(self) -> None:
        before = len(self.fleet.effects)
        action = self.rng.choice(["ask", "ask", "ask", "end", "end", "tick", "drain", "fail", "release"])
        self.fleet.now += self.rng.random() * 0.5
        getattr(self, action)()
        for effect in self.fleet.effects[before:]:
            if isinstance(effect, Granted):
                self.check_grant(effect)
                self.running[effect.decision.attempt_id] = effect.decision.node_id
        self.check_ledger()

    def ask(self) -> None:
        self.numbers += 1
        self.fleet.ask(
            f"r{self.numbers}",
            priority=self.rng.randrange(11),
            prompt=self.rng.randrange(1, 5000),
            name=self.rng.choice(self.models),
        )

    def end(self) -> None:
        if self.running:
            attempt_id = self.rng.choice(sorted(self.running))
            self.fleet.end(attempt_id, self.running.pop(attempt_id))

    def fail(self) -> None:
        if self.running:
            attempt_id = self.rng.choice(sorted(self.running))
            node_id = self.running.pop(attempt_id)
            self.fleet.end(attempt_id, node_id, OutcomeStatus.FAILED, code=ErrorCode.ENGINE_FAILED)

    def release(self) -> None:
        waiting = sorted(w.request_id for w in self.fleet.core.waiting)
        if waiting:
            self.fleet.note(self.fleet.core.release(self.rng.choice(waiting), self.fleet.now))

    def drain(self) -> None:
        node_id = self.rng.choice(sorted(self.fleet.told))
        self.beat(node_id, is_draining=self.rng.random() < 0.5)

    def tick(self) -> None:
        for node_id in list(self.fleet.told):
            self.beat(node_id)
        self.fleet.tick()

    def check_grant(self, grant: Granted) -> None:
        decision = grant.decision
        node = self.fleet.core.fleet.nodes[decision.node_id]
        assert not node.is_draining
        assert decision.request_id not in self.fleet.core.waiting
        assert grant.decision.instance == node.instance
        assert math.isfinite(decision.forecast.total_s)
        refused_ids = [
            r.node_id
            for e in self.fleet.effects[-20:]
            if isinstance(e, DecisionEvent) and e.decision.attempt_id == decision.attempt_id
            for r in e.rejections
        ]
        assert decision.node_id not in refused_ids

    def check_ledger(self) -> None:
        core = self.fleet.core
        for node in core.fleet.nodes.values():
            assert len(node.attempts) <= node.slots
        counted = [a for n in core.fleet.nodes.values() for a in n.attempts]
        assert len(counted) == len(set(counted)) == core.fleet.in_flight


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers(0, 10**9))
def test_slots_are_never_exceeded_and_filtered_nodes_never_chosen(seed: int) -> None:
    machine = Machine(seed)
    for _ in range(60):
        machine.step()


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers(0, 10**9))
def test_everything_that_ages_is_served_in_the_end(seed: int) -> None:
    rng = random.Random(seed)
    fleet = Fleet(theta=0.25)
    fleet.node("a")
    fleet.node("b", gpus=(), cpu_count=8)
    fleet.ask("old", priority=1, prompt=4000, deadline_s=100_000.0)
    for i in range(400):
        fleet.ask(f"r{i}", priority=9, prompt=50)
        for node_id in ("a", "b"):
            for attempt_id in list(fleet.core.fleet.nodes[node_id].attempts):
                fleet.load(node_id, attempt_id)
                fleet.end(attempt_id, node_id)
        if "old" in granted(fleet.effects):
            return
        fleet.now += rng.uniform(1.0, 4.0)
        fleet.node("a")
        fleet.node("b")
    raise AssertionError("the old request starved")


# -- what is forgotten ----------------------------------------------------------------------------------------


def test_a_node_that_is_forgotten_leaves_nothing_behind_in_the_plans() -> None:
    fleet = Fleet()
    fleet.node()
    assert "r1" in granted(fleet.ask("r1"))
    fleet.end("r1-1", "gpu1")
    gone = weakref.ref(fleet.core.fleet.nodes["gpu1"])
    fleet.tick(301.0)
    fleet.tick()
    gc.collect()
    assert fleet.core.fleet.nodes == {}
    assert gone() is None
