"""The mode `cheap`: the cheapest node, in money, that answers in time."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import MODEL, gpu
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, queued
from sollol_agents.scorer.choice.cost import end_of
from sollol_agents.scorer.choice.expense import comparable, expense_of, sure_end
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.strategies.cheapest import SAME_RATIO
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.grant import GrantRequest
from sollol_schemas.prices import NodePrice, Power
from sollol_schemas.routing import Routing, RoutingMode

CHEAP = Routing(routing_mode=RoutingMode.CHEAP)
SLOW, FAST = {"gpus": (gpu(name="GTX 1080"),)}, {"gpus": (gpu(name="H100"),)}


def hourly(amount: float, currency: str = "EUR") -> NodePrice:
    return NodePrice(per_hour=amount, currency=currency)


def decided(fleet: Fleet, request_id: str, **more: Any) -> DecisionEvent:
    return next(e for e in fleet.ask(request_id, **more) if isinstance(e, DecisionEvent))


def two_priced() -> Fleet:
    fleet = Fleet()
    fleet.node("den", **SLOW, price=hourly(0.01))
    fleet.node("rent", **FAST, price=hourly(4.0))
    return fleet


def test_the_cheaper_node_serves_what_it_can_do_in_time_and_says_so_in_money_and_seconds() -> None:
    fleet = two_priced()
    assert fleet.place("fast") == "rent"
    fleet.end("fast-1", "rent")
    event = decided(fleet, "r1", routing=CHEAP)
    assert event.decision.node_id == "den"
    expenses = {c.node_id: (c.expense, c.currency) for c in event.candidates}
    assert expenses["den"][1] == expenses["rent"][1] == "EUR"
    assert (expenses["den"][0] or 0.0) < (expenses["rent"][0] or 0.0)
    assert " EUR instead of " in event.decision.reason
    assert "on rent, " in event.decision.reason
    assert " s later; 60 s are allowed" in event.decision.reason


def test_a_deadline_that_only_the_dearer_node_is_sure_to_meet_is_worth_its_money() -> None:
    fleet = two_priced()
    slow_s = {c.node_id: c.completion_s for c in decided(fleet, "r1", routing=CHEAP).candidates}["den"]
    fleet.end("r1-1", "den")
    soon = Routing(routing_mode=RoutingMode.CHEAP, deadline_s=slow_s * 1.1)
    assert decided(fleet, "r2", routing=soon, deadline_s=slow_s * 1.1).decision.node_id == "rent", "if it becomes long"
    fleet.end("r2-1", "rent")
    late = Routing(routing_mode=RoutingMode.CHEAP, deadline_s=slow_s * 2.5)
    assert decided(fleet, "r3", routing=late, deadline_s=slow_s * 2.5).decision.node_id == "den"


def test_an_answer_that_its_caller_limits_becomes_no_longer_than_that() -> None:
    fleet = two_priced()
    context = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=10, max_output_tokens=20)
    slow_s = {c.node_id: c.completion_s for c in decided(fleet, "r1", routing=CHEAP, context=context).candidates}["den"]
    fleet.end("r1-1", "den")
    soon = Routing(routing_mode=RoutingMode.CHEAP, deadline_s=slow_s * 1.1)
    assert decided(fleet, "r2", routing=soon, deadline_s=slow_s * 1.1, context=context).decision.node_id == "den"


def test_it_waits_for_the_cheaper_node_as_long_as_patience_allows() -> None:
    fleet = two_priced()
    fleet.told["den"]["slots"] = 1
    fleet.node("den")
    assert fleet.place("r1", routing=CHEAP) == "den"
    assert queued(fleet.ask("r2", routing=CHEAP)) == ["r2"]
    fleet.end("r1-1", "den")
    assert fleet.where("r2") == "den"
    fleet.ask("r3", routing=CHEAP)
    fleet.beat_all(61.0)
    assert fleet.where("r3") == "rent", "den never finished"


def test_a_long_line_that_may_take_its_time_leaves_the_dearer_node_alone() -> None:
    fleet = two_priced()
    patient = Routing(routing_mode=RoutingMode.CHEAP, deadline_s=86_400.0)
    for number in range(40):
        fleet.ask(f"r{number}", routing=patient, deadline_s=86_400.0)
    fleet.beat_all(2.0)
    assert {g.decision.node_id for g in granted(fleet.effects).values()} == {"den"}


def test_without_any_price_it_is_fast_and_says_so() -> None:
    fleet = Fleet()
    fleet.node("den", **SLOW)
    fleet.node("rent", **FAST)
    decision = decided(fleet, "r1", routing=CHEAP).decision
    assert (decision.node_id, decision.mode) == ("rent", RoutingMode.CHEAP)
    assert decision.reason.endswith("; no node has a price: as fast")
    assert " before den" in decision.reason


def test_a_node_without_a_price_is_never_cheaper_than_one_that_has_one() -> None:
    fleet = Fleet()
    fleet.node("den", **FAST)
    fleet.node("rent", **SLOW, price=hourly(1000.0))
    assert decided(fleet, "r1", routing=CHEAP).decision.node_id == "rent"
    fleet.node("rent", price=NodePrice(per_kwh=0.3))
    fleet.end("r1-1", "rent")
    assert "no node has a price" in decided(fleet, "r2", routing=CHEAP).decision.reason, "nobody knows its power"
    fleet.end("r2-1", "den")
    fleet.node("rent", power=Power(busy_w=300.0))
    assert decided(fleet, "r3", routing=CHEAP).decision.node_id == "rent"


def test_a_node_without_a_price_serves_what_no_other_does_in_time() -> None:
    fleet = Fleet(cheap_patience_s=0.001)
    fleet.node("den", **SLOW, price=hourly(1.0))
    fleet.node("rent", **FAST)
    decision = decided(fleet, "r1", routing=CHEAP).decision
    assert decision.node_id == "rent"
    assert decision.reason.endswith("; no node is sure to answer within 0 s: as fast")


def test_prices_in_another_currency_than_most_are_not_compared() -> None:
    fleet = Fleet()
    fleet.node("a", price=hourly(5.0))
    fleet.node("b", price=hourly(4.0))
    fleet.node("c", price=hourly(0.1, "GOLD"))
    assert decided(fleet, "r1", routing=CHEAP).decision.node_id == "b"


def test_other_modes_do_not_look_at_prices() -> None:
    fleet = two_priced()
    fleet.told["rent"]["slots"] = 2
    fleet.node("rent")
    assert {fleet.place(f"r{n}") for n in range(2)} == {"rent"}


PRICES = st.one_of(
    st.just(NodePrice()),
    st.builds(hourly, st.sampled_from([0.0, 0.5, 1.0, 4.0]), st.sampled_from(["", "EUR"])),
    st.builds(NodePrice, per_kwh=st.sampled_from([0.1, 0.4])),
)
NODES = st.lists(
    st.tuples(PRICES, st.sampled_from([None, 40.0, 300.0]), st.sampled_from(["GTX 1080", "RTX 3090", "H100"])),
    min_size=1,
    max_size=5,
)


@given(NODES, st.integers(0, 9), st.one_of(st.none(), st.floats(0.5, 120.0)), st.integers(0, 2**32))
def test_no_dearer_node_is_taken_where_a_cheaper_one_is_predicted_to_be_in_time(
    nodes: list[tuple[NodePrice, float | None, str]], busy: int, deadline_s: float | None, seed: int
) -> None:
    fleet, rng = Fleet(seed=seed % 1000 + 1), random.Random(seed)
    for number, (price, watts, card) in enumerate(nodes):
        slots = rng.randrange(1, 4)
        fleet.node(f"n{number}", price=price, power=Power(busy_w=watts), gpus=(gpu(name=card),), slots=slots)
    for number in range(busy):
        fleet.ask(f"busy{number}")
    core, now = fleet.core, fleet.now
    routing = Routing(routing_mode=RoutingMode.CHEAP, deadline_s=deadline_s)
    context = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=rng.randrange(1, 4000))
    asked = GrantRequest(request_id="r", number=1, context=context, routing=routing, deadline_s=deadline_s or 600.0)
    waiting = Waiting(asked, now, 1)
    waiting.expect(rng.uniform(1.0, 800.0))
    core.waiting.place(waiting)
    eligible = list(core.fleet.nodes.values())
    choice = core.planner.choose(waiting, eligible, now)
    limit_at = now + (60.0 if deadline_s is None else deadline_s)

    def is_in_time(cost: Any) -> bool:
        return (end_of(cost) + cost.estimate.rtt_s if deadline_s is None else sure_end(waiting, cost)) <= limit_at

    in_time = [(money, cost) for money, cost in comparable(choice.costs)[0] if is_in_time(cost)]
    if in_time:
        taken = expense_of(choice.cost)
        assert taken is not None
        assert is_in_time(choice.cost)
        assert taken <= min(money for money, _ in in_time) * (1.0 + SAME_RATIO)
    elif not comparable(choice.costs)[0]:
        assert choice.note == "no node has a price: as fast"
    else:
        assert choice.note
        assert is_in_time(choice.cost) or not any(map(is_in_time, choice.costs))


@pytest.mark.parametrize("mode", list(RoutingMode))
def test_every_mode_is_decided(mode: RoutingMode) -> None:
    fleet = two_priced()
    assert granted(fleet.ask("r1", routing=Routing(routing_mode=mode)))
