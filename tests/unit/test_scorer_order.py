"""In which order requests get their turn: births on several clocks, and beliefs that change while they wait."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import MODEL
from sollol_agents.lab.testing.scorer_stage import Fleet, granted
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.grant import Birth
from sollol_schemas.routing import Routing, RoutingMode

STORED_AT = 1.7e9
"""When the first job was stored, on the server's clock."""


def busy_fleet(**settings: Any) -> Fleet:
    """One node of one slot, which is taken."""
    fleet = Fleet(**settings)
    fleet.node()
    fleet.ask("first")
    fleet.load("gpu1", "first-1")
    return fleet


def ask_job(fleet: Fleet, number: int, *, gap_s: float, clock_off_s: float = 0.0, priority: int = 2) -> None:
    """A dispatcher, whose clock is off, asks for a job's slot."""
    stored_at = STORED_AT + number * gap_s
    server_now = STORED_AT + fleet.now - 100.0
    fleet.ask(
        f"j{number}",
        context=TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=100, job_id=f"j{number}"),
        routing=Routing(routing_mode=RoutingMode.ASYNC, priority=priority),
        birth=Birth(at_s=stored_at, clock="jobs", number=number + 1),
        waited_s=max(0.0, server_now + clock_off_s - stored_at),
        deadline_s=1e6,
    )


def order(fleet: Fleet) -> list[str]:
    """The waiting requests in the order of their turns."""
    return [w.request_id for w in sorted(fleet.core.waiting, key=fleet.core.waiting.position)]


def finish_all(fleet: Fleet) -> list[str]:
    """Lets one after the other run; returns the order in which they got their slots."""
    done, running = [], "first-1"
    while running:
        fleet.now += 0.05
        effects = fleet.end(running, "gpu1")
        running = next((g.decision.attempt_id for g in granted(effects).values()), "")
        if running:
            fleet.load("gpu1", running)
            done.append(running.rpartition("-")[0])
    return done


@pytest.mark.parametrize("count", [64, 65, 200, 1000])
def test_jobs_of_a_burst_run_in_the_order_of_their_storing(count: int) -> None:
    fleet = busy_fleet(queue_limit=2000)
    for number in range(count):
        fleet.now += 0.001  # each question is handled a little later than the one before
        ask_job(fleet, number, gap_s=0.00001, clock_off_s=2.0 * (number % 2))
    assert finish_all(fleet) == [f"j{n}" for n in range(count)]


@settings(max_examples=40, deadline=None)
@given(
    st.permutations(range(24)),
    st.lists(st.sampled_from([0.0, -2.0, 2.0]), min_size=24, max_size=24),
    st.lists(st.floats(0.0, 1.0), min_size=24, max_size=24),
    st.sampled_from([0.0, 1e-9, 0.001, 0.5]),
)
def test_jobs_keep_their_order_whoever_asks_for_them_and_however_late(
    asked: list[int], clocks: list[float], delays: list[float], gap_s: float
) -> None:
    fleet = busy_fleet()
    fleet.now += 60.0
    for number in asked:
        fleet.now += delays[number]
        ask_job(fleet, number, gap_s=gap_s, clock_off_s=clocks[number])
    assert order(fleet) == [f"j{n}" for n in range(24)]


def test_jobs_keep_their_order_when_scorer_and_dispatchers_start_anew() -> None:
    rng = random.Random(3)
    for _ in range(3):
        fleet = busy_fleet()
        fleet.now += rng.uniform(10.0, 100.0)
        numbers = list(range(50))
        rng.shuffle(numbers)
        for number in numbers:
            ask_job(fleet, number, gap_s=0.01, clock_off_s=rng.choice([0.0, 2.0]))
        assert order(fleet) == [f"j{n}" for n in range(50)]


def test_live_requests_are_as_old_as_their_receipt_and_not_as_their_question() -> None:
    fleet = busy_fleet()
    fleet.ask("a", birth=Birth(at_s=5000.0, clock="d1"))
    fleet.now += 1.0
    fleet.ask("late", birth=Birth(at_s=5000.002, clock="d1"))  # it waited for a second in the scorer's inbox
    fleet.now += 0.001
    fleet.ask("between", birth=Birth(at_s=5000.001, clock="d1"))
    assert order(fleet) == ["a", "between", "late"]


def test_an_instant_that_does_not_fit_the_told_age_is_not_believed() -> None:
    fleet = busy_fleet()
    fleet.ask("honest", birth=Birth(at_s=5000.0, clock="d1"))
    fleet.now += 1.0
    fleet.ask("pushy", birth=Birth(at_s=1.0, clock="d1"), waited_s=0.0)
    fleet.now += 1.0
    fleet.ask("next", birth=Birth(at_s=5002.0, clock="d1"))
    assert order(fleet) == ["honest", "pushy", "next"]


def test_of_two_requests_born_at_the_same_instant_the_one_that_leaves_is_gone() -> None:
    fleet = busy_fleet()
    same = Birth(at_s=STORED_AT, clock="jobs", number=7)
    fleet.ask("before", birth=same)  # a job's, whose dispatcher is thought dead
    fleet.ask("after", birth=same)  # the same job's, from the dispatcher that has it now
    fleet.core.release("after", fleet.now)
    assert order(fleet) == ["before"]
    assert finish_all(fleet) == ["before"]
    assert len(fleet.core.waiting) == 0


# -- beliefs that change while requests wait --------------------------------------------------------------------


def teach(fleet: Fleet, tokens: int, count: int) -> None:
    """So many answers of this length were heard of."""
    for _ in range(count):
        fleet.core.lengths.learn(MODEL, "generation", 100, tokens)


def test_a_median_that_falls_lets_nobody_pass_an_equal_that_waits() -> None:
    fleet = busy_fleet()
    teach(fleet, 300, 50)
    for number in range(100):
        fleet.now += 0.01
        fleet.ask(f"old{number}")
    teach(fleet, 3, 200)
    for number in range(20):
        fleet.now += 0.01
        fleet.ask(f"new{number}")
    assert order(fleet) == [f"old{n}" for n in range(100)] + [f"new{n}" for n in range(20)]


def test_what_waits_is_expected_anew_when_much_was_learnt() -> None:
    fleet = busy_fleet()
    teach(fleet, 300, 50)
    fleet.ask("waits")
    before = fleet.core.waiting.get("waits")
    assert before is not None
    teach(fleet, 30, 200)
    fleet.tick(0.25)
    assert before.output_median == pytest.approx(30.0, rel=0.2)


@pytest.mark.parametrize("late_s", [-0.5, 0.0, 0.5], ids=["before", "at", "after"])
def test_a_successor_ranks_alike_whoever_asked_before_and_after_the_first_heartbeat(late_s: float) -> None:
    fleet = Fleet(warm_up_s=3.0)
    births = [0.01 * n for n in range(120)]
    for number, born in enumerate(births[:60]):
        fleet.ask(f"r{number}", birth=Birth(at_s=born, clock="d1"), waited_s=10.0 + late_s)
    fleet.node(slots=1)
    for number, born in enumerate(births[60:], start=60):
        fleet.ask(f"r{number}", birth=Birth(at_s=born, clock="d1"), waited_s=10.0)
    assert order(fleet) == [f"r{n}" for n in range(1, 120)]


def test_a_node_that_joins_late_changes_nobodys_turn() -> None:
    fleet = busy_fleet()
    fleet.ask("before")
    fleet.node("fast", gpus=(), loaded=(), slots=0)
    fleet.now += 0.1
    fleet.ask("after")
    assert order(fleet) == ["before", "after"]
