"""The simulation moves running answers at their real price."""

from __future__ import annotations

import pytest

from bench.routing import looks
from bench.routing.engine import Job, Machine
from bench.routing.fleets import FLEETS, G16, MODELS
from bench.routing.policies.planned import planner_config
from bench.routing.policies.resuming import ResumingPolicy, plan_resume
from bench.routing.policies.undoing import UndoingPolicy, plan_undo
from bench.routing.scenarios import SCENARIOS, Scenario, requests_of
from bench.routing.simulation import World, run
from bench.routing.virtual import VirtualTime
from bench.routing.workloads import COMPLEX, Request, poisson
from sollol_agents.scorer.core import SchedulerCore
from sollol_schemas.continuation import Cut

MODEL = MODELS["base:8b"]


def test_an_answer_that_goes_on_is_read_with_what_was_said_and_makes_only_the_rest() -> None:
    time = VirtualTime()
    machine = Machine("m", G16, time)
    machine.hold([MODEL])
    request = Request(0, 0.0, MODEL, "chat", 1000, 300, said_tokens=100)
    ended: list[str] = []
    job = Job(request, "r0-2", lambda _job, error: ended.append(error))
    machine.submit(job)
    time.run_while(lambda: not ended)
    assert ended == [""]
    assert time.now == pytest.approx(1100 / G16.prompt(MODEL) + 200 / G16.decode(MODEL))
    assert job.tokens_made == 200


def test_answers_are_moved_twice_at_most_and_each_is_made_whole_once() -> None:
    scenario = SCENARIOS["prio"]
    requests = requests_of(scenario, "F1", 0.95, 120, 3)
    policies: list[UndoingPolicy] = []

    def made(world: World) -> UndoingPolicy:
        policies.append(plan_undo(world))
        return policies[-1]

    world = run(scenario, "F1", requests, 3, made)
    (policy,) = policies
    assert len(world.machines) == len(FLEETS["F1"])
    assert policy.cut, "nothing was moved"
    assert max(policy.cut.values()) <= 2
    moved = [r for r in requests if f"r{r.number}" in policy.cut]
    assert any(r.said_tokens > 0 for r in moved)
    assert all(r.said_tokens < max(1, r.output_tokens) for r in requests)
    assert all(r.latency_s is not None for r in requests)


class Seesaw(UndoingPolicy):
    """Two machines of which one is slow, the other one every ten seconds."""

    def __init__(self, world: World) -> None:
        self.ways: list[tuple[float, str, str]] = []
        super().__init__(world, SchedulerCore(planner_config(world), world.rng, 0.0))

    def _move(self, cut: Cut) -> None:
        self.ways.append((self.world.time.now, cut.node_id, cut.to))
        super()._move(cut)


def seesaw(monkeypatch: pytest.MonkeyPatch, *, swaps: bool) -> tuple[Request, Seesaw]:
    """A long answer on such machines, after short ones have taught how fast they are."""
    monkeypatch.setitem(FLEETS, "two", (G16, G16))
    scenario = Scenario("seesaw", "two", COMPLEX, poisson, warm_machines=2)
    lessons = [Request(i, 12.0 * (i // 8), MODEL, "chat", 200, 100) for i in range(64)]
    long = Request(64, 120.0, MODEL, "generation", 400, 2000)
    policies: list[Seesaw] = []

    def made(world: World) -> Seesaw:
        for swap in range(40 if swaps else 0):
            for place, machine in enumerate(world.machines):
                speed = 1.0 if place == swap % 2 else 0.15
                world.time.at(120.0 + 10.0 * swap, lambda m=machine, s=speed: m.set_speed(s))  # type: ignore[misc]
        policies.append(Seesaw(world))
        return policies[-1]

    run(scenario, "two", [*lessons, long], 1, made)
    return long, policies[0]


def test_an_answer_is_not_moved_to_and_fro_between_nodes_whose_speeds_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    long, policy = seesaw(monkeypatch, swaps=True)
    assert not long.is_failed
    assert policy.ways, "nothing was tempted"
    assert len(policy.ways) == 1, "there and not back again"
    assert policy.cut.get("r64", 0) == len(policy.ways)
    assert seesaw(monkeypatch, swaps=False)[1].ways == []


def test_what_broke_goes_on_at_its_real_price_and_an_error_says_nothing() -> None:
    scenario = SCENARIOS["faults"]
    requests = requests_of(scenario, "F1", 0.5, 300, 2)
    policies: list[ResumingPolicy] = []

    def made(world: World) -> ResumingPolicy:
        policies.append(plan_resume(world))
        return policies[-1]

    run(scenario, "F1", requests, 2, made)
    (policy,) = policies
    assert policy.resumed, "nothing broke"
    assert policy.cut == {}
    resumed = [r for r in requests if f"r{r.number}" in policy.resumed]
    assert all(0 < r.said_tokens < r.output_tokens for r in resumed)
    assert all(r.said_tokens == 0 for r in requests if f"r{r.number}" not in policy.resumed)
    assert all(r.latency_s is not None for r in requests)


def test_looks_at_running_answers_are_measured_to_the_end() -> None:
    figures = looks.measure(looks.Setting(4, 2, 10))
    assert figures["slots"] == 24
    assert figures["look_ms"]["asked"] > 0  # type: ignore[index]
    assert figures["holds_ms"]["asked"] > 0  # type: ignore[index]
