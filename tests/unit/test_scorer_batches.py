"""Long queues on a mixed fleet: slow and cold nodes help while the queue lasts, and leave its end to the fast ones."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from sollol_agents.lab.testing.messages import MODEL, gpu, loaded, model
from sollol_agents.lab.testing.scorer_stage import Fleet, granted
from sollol_agents.scorer.knowledge.demand import Flow
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.grant import RouteRequest
from sollol_schemas.routing import Routing, RoutingMode
from sollol_schemas.telemetry import InstalledModel

SHORT = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=60, max_output_tokens=40)
PATIENT = Routing(routing_mode=RoutingMode.ASYNC, priority=2)
SLOW: InstalledModel = model()


def mixed_fleet(**settings: Any) -> Fleet:
    """A fast node of four slots that holds the model, and a slow one that would have to load it for six seconds."""
    fleet = Fleet(queue_limit=5000, **settings)
    fleet.node("fast", slots=4, gpus=(gpu("RTX 4090"),))
    fleet.node("cold", slots=4, gpus=(gpu("RTX 3060", 12.0, 11.0),), loaded=())
    return fleet


def nodes_of(fleet: Fleet) -> list[str]:
    """The nodes of all grants so far."""
    return [g.decision.node_id for g in granted(fleet.effects).values()]


@pytest.mark.parametrize("routing", [PATIENT, Routing()], ids=["async", "fast"])
def test_a_cold_node_joins_in_when_the_queue_lasts_longer_than_its_load(routing: Routing) -> None:
    fleet = mixed_fleet()
    for number in range(400):
        fleet.ask(f"r{number}", context=SHORT, routing=routing)
    fleet.tick(0.25)
    assert "cold" in nodes_of(fleet)


def test_a_newcomer_behind_those_that_a_walk_looks_at_causes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, walks = mixed_fleet(), Mock()
    walks.side_effect = fleet.core.planner.walk
    monkeypatch.setattr(fleet.core.planner, "walk", walks)
    for number in range(400):
        before = len(fleet.core.waiting), walks.call_count
        fleet.ask(f"r{number}", context=SHORT)
        if before[0]:  # while nothing waits, a grant needs no walk
            assert (walks.call_count > before[1]) is (before[0] < 28)
    fleet.ask("urgent", context=SHORT, routing=Routing(priority=10))
    assert walks.call_count == before[1] + 1


@pytest.mark.parametrize("routing", [PATIENT, Routing()], ids=["async", "fast"])
def test_a_cold_node_is_left_alone_when_the_queue_is_short(routing: Routing) -> None:
    fleet = mixed_fleet()
    for number in range(16):
        fleet.ask(f"r{number}", context=SHORT, routing=routing)
    assert set(nodes_of(fleet)) == {"fast"}


def test_jobs_that_wait_in_the_stream_count_as_if_they_were_here() -> None:
    def asked(behind: int) -> Fleet:
        fleet = mixed_fleet()
        for number in range(64):
            context = TaskContext(
                kind=RequestKind.CHAT, model=MODEL, prompt_tokens=60, max_output_tokens=10, job_id=f"j{number}"
            )
            fleet.ask(f"j{number}", context=context, routing=PATIENT, behind=behind)
        return fleet

    assert set(nodes_of(asked(0))) == {"fast"}
    assert "cold" in nodes_of(asked(5000))


def test_the_reason_says_how_long_the_queue_would_take() -> None:
    fleet = mixed_fleet()
    for number in range(400):
        fleet.ask(f"r{number}", context=SHORT, routing=PATIENT)
    fleet.tick(0.25)
    cold = [g for g in granted(fleet.effects).values() if g.decision.node_id == "cold"]
    assert any("starts at once" in g.decision.reason for g in cold)


def test_while_nobody_else_is_expected_a_cost_counts_how_long_an_answer_may_become() -> None:
    fleet = mixed_fleet()
    usual = fleet.core.route(RouteRequest(request_id="dry", context=SHORT, routing=Routing()), fleet.now)
    assert isinstance(usual, DecisionEvent)
    fleet.ask("first", context=SHORT)
    first = next(e for e in fleet.effects if isinstance(e, DecisionEvent))
    before, now = usual.candidates[0], first.candidates[0]
    assert (now.node_id, now.decode_s) == (before.node_id, before.decode_s)
    assert now.risk_s - before.risk_s == pytest.approx(0.5 * now.decode_s, abs=1e-3)
    assert now.total_s - before.total_s == pytest.approx(0.5 * now.decode_s, abs=1e-3)


def test_while_nobody_else_is_expected_slots_of_another_model_make_a_request_dearer() -> None:
    def burst_s(first: str) -> float:
        fleet = Fleet()
        both = (model(), model("other"))
        fleet.node("both", slots=4, installed=both, loaded=(loaded(), loaded("other")))
        fleet.ask("before", context=TaskContext(kind=RequestKind.CHAT, model=first, prompt_tokens=60))
        usual = fleet.core.route(RouteRequest(request_id="dry", context=SHORT, routing=Routing()), fleet.now)
        assert isinstance(usual, DecisionEvent)
        fleet.ask("then", context=SHORT)
        then = next(e for e in fleet.effects if isinstance(e, DecisionEvent) and e.decision.request_id == "then")
        return then.candidates[0].risk_s - usual.candidates[0].risk_s

    assert burst_s("other") > 1.2 * burst_s(MODEL) > 0


def test_a_burst_is_not_taken_for_a_stream() -> None:
    flow = Flow()
    for _ in range(30):
        flow.came(100.0)
    assert flow.newcomers_ratio(30, 100.0) == 0.0
    for number in range(10):
        flow.went(101.0 + 0.1 * number)
    assert flow.newcomers_ratio(20, 102.0) < 0.25
    for number in range(15):
        flow.went(102.0 + 0.4 * number)
    assert flow.newcomers_ratio(5, 108.0) < 0.2


def test_a_steady_stream_promises_one_newcomer_for_each_answer() -> None:
    flow = Flow()
    for number in range(400):
        flow.came(100.0 + 0.5 * number)
        flow.went(100.25 + 0.5 * number)
    assert flow.newcomers_ratio(5, 300.0) > 0.9
