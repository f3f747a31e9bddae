"""How long engines are told to keep models: long where they are asked for steadily, short where they are not."""

from __future__ import annotations

import random

import pytest

from sollol_agents.lab.testing.messages import MODEL, grant_request, model, outcome, telemetry
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.knowledge.demand import Demand
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.grant import Granted, RouteRequest
from sollol_schemas.routing import Routing


def keep_alives(gaps_s: list[float]) -> list[float | None]:
    """The keep-alive of each grant of requests that come with these gaps, each answered at once."""
    now = 10.0
    core = SchedulerCore(ScorerConfig(warm_up_s=0.0, seed=1), random.Random(1), now)
    kept = []
    for number, gap_s in enumerate([0.0, *gaps_s]):
        now += gap_s
        core.on_telemetry(telemetry("a", seq=number + 1, installed=(model(),)), now)
        asked = grant_request(f"r{number}", prompt=50)
        kept += [e.keep_alive_s for e in core.enqueue(asked, now) if isinstance(e, Granted)]
        core.on_outcome(outcome(f"r{number}-1", "a", model=MODEL), now)
    return kept


def test_the_first_request_of_a_model_makes_it_no_resident_and_the_second_soon_after_does() -> None:
    config = ScorerConfig()
    assert keep_alives([60.0, 60.0]) == [config.one_off_keep_alive_s] + [config.resident_keep_alive_s] * 2


def test_a_model_asked_for_every_ten_minutes_stays_a_one_off() -> None:
    assert set(keep_alives([600.0] * 5)) == {ScorerConfig().one_off_keep_alive_s}


@pytest.mark.parametrize(("every_s", "is_steady"), [(30.0, True), (240.0, True), (400.0, False)])
def test_steady_means_about_every_five_minutes_or_more_often(every_s: float, is_steady: bool) -> None:
    demand = Demand()
    for i in range(20):
        demand.count(MODEL, i * every_s)
    assert demand.is_steady(MODEL, 19 * every_s) is is_steady
    assert not demand.is_steady("never:asked", 0.0)


@pytest.mark.parametrize(("weight", "wanted"), [(4.0, "b"), (0.25, "a")], ids=["heavy", "light"])
def test_the_operators_weight_draws_work_to_a_node_or_keeps_it_off(weight: float, wanted: str) -> None:
    core = SchedulerCore(ScorerConfig(warm_up_s=0.0, seed=1), random.Random(1), 10.0)
    for node_id, own in (("a", 1.0), ("b", weight)):
        core.on_telemetry(telemetry(node_id, installed=(model(),), weight=own), 10.0)
    context = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=50)
    decision = core.route(RouteRequest(request_id="r", context=context, routing=Routing()), 10.0)
    assert isinstance(decision, DecisionEvent)
    assert decision.decision.node_id == wanted
    preference_s = {c.node_id: c.preference_s for c in decision.candidates}
    assert preference_s["a"] == 0.0
    assert (preference_s.get("b", 0.0) < 0.0) is (weight > 1.0)


@pytest.mark.parametrize(("task_type", "wanted"), [("summarization", {"b"}), ("generation", {"a", "b"})])
@pytest.mark.parametrize("prompt_tokens", [50, 5_000], ids=["short", "long"])
def test_of_equal_nodes_the_one_that_prefers_the_task_gets_it_for_a_second_at_most(
    task_type: str, wanted: set[str], prompt_tokens: int
) -> None:
    core = SchedulerCore(ScorerConfig(warm_up_s=0.0, seed=1), random.Random(1), 10.0)
    for node_id, preferred in (("a", ()), ("b", ("summarization",))):
        core.on_telemetry(telemetry(node_id, installed=(model(),), preferred_task_types=preferred), 10.0)
    context = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=prompt_tokens, task_type=task_type)
    chosen = set()
    for number in range(20):
        decision = core.route(RouteRequest(request_id=f"r{number}", context=context, routing=Routing()), 10.0)
        assert isinstance(decision, DecisionEvent)
        chosen.add(decision.decision.node_id)
        preference_s = {c.node_id: c.preference_s for c in decision.candidates}
        assert preference_s["a"] == 0.0
        assert -1.0 <= preference_s["b"] <= 0.0
        assert (preference_s["b"] < 0.0) is (task_type == "summarization")
    assert chosen == wanted
