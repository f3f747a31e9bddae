"""The simulation moves running answers at their real price."""

from __future__ import annotations

import pytest

from bench.routing.engine import Job, Machine
from bench.routing.fleets import FLEETS, G16, MODELS
from bench.routing.policies.undoing import UndoingPolicy, plan_undo
from bench.routing.scenarios import SCENARIOS, requests_of
from bench.routing.simulation import World, run
from bench.routing.virtual import VirtualTime
from bench.routing.workloads import Request

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
