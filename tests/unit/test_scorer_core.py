"""The core: who is granted what, who waits, and who is refused."""

from __future__ import annotations

import pytest

from sollol_agents.lab.testing.messages import MODEL, gpu, loaded, model
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, queued, refused
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import Figures
from sollol_schemas.grant import GrantRefused, RouteRequest
from sollol_schemas.routing import Routing

# -- granting -------------------------------------------------------------------------------------------------


def test_a_release_that_is_handled_late_does_not_take_a_later_attempt_out_of_the_queue() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.load("gpu1", "other-1")
    fleet.ask("r", number=11)
    fleet.core.release("r", fleet.now, number=1)
    assert "r" in fleet.core.waiting
    fleet.core.release("r", fleet.now, number=11)
    assert "r" not in fleet.core.waiting


def test_a_release_that_is_handled_late_leaves_the_grant_of_a_later_attempt() -> None:
    fleet = Fleet()
    fleet.node()
    assert "r" in granted(fleet.ask("r", number=11))
    fleet.core.release("r", fleet.now, number=1)
    assert fleet.core.fleet.attempt("r-11") is not None
    fleet.core.release("r", fleet.now, number=11)
    assert fleet.core.fleet.attempt("r-11") is None


def test_a_free_node_is_granted_with_the_reason_and_every_term() -> None:
    fleet = Fleet()
    fleet.node()
    effects = fleet.ask("r1", prompt=4000)
    grant = granted(effects)["r1"]
    assert (grant.decision.node_id, grant.decision.instance, grant.decision.term) == ("gpu1", "gpu1-a", 3)
    assert grant.decision.forecast.total_s > 0
    assert grant.decision.reason == "only node there is"
    decision = next(e for e in effects if isinstance(e, DecisionEvent))
    cost = decision.candidates[0]
    assert not cost.is_busy
    assert cost.prefill_s > 0
    assert cost.decode_s > 0
    assert cost.load_s == 0


def test_the_faster_node_wins_when_both_are_free() -> None:
    fleet = Fleet()
    fleet.node("cpu", gpus=())
    fleet.node("fast")
    assert granted(fleet.ask("r1"))["r1"].decision.node_id == "fast"


def test_a_warm_node_wins_over_a_faster_one_that_must_load() -> None:
    fleet = Fleet()
    fleet.node("fast", gpus=(gpu("RTX 4090"),), loaded=())
    fleet.node("warm", gpus=(gpu("RTX 3060", 12, 6),))
    context = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=100, max_output_tokens=60)
    grant = granted(fleet.ask("r1", context=context))["r1"]
    assert grant.decision.node_id == "warm"
    assert not grant.decision.forecast.needs_load


def test_one_request_triggers_a_load_and_the_next_waits_for_it() -> None:
    fleet = Fleet()
    fleet.node(slots=4, loaded=())
    first = granted(fleet.ask("r1"))["r1"]
    assert first.decision.forecast.needs_load
    assert first.decision.forecast.load_s > 1
    assert queued(fleet.ask("r2")) == ["r2"]
    fleet.load("gpu1", "r1-1", slots=4, loaded=(loaded(),))
    assert not granted(fleet.effects)["r2"].decision.forecast.needs_load


def test_a_load_waits_until_its_victim_is_idle_and_the_victim_gets_no_more_work() -> None:
    fleet = Fleet(theta=0.0)
    big = model("big:70b", 20.0)
    fleet.node(slots=2, installed=(model(), big), gpus=(gpu(free_gb=18.0),))
    assert granted(fleet.ask("small1"))["small1"]
    fleet.load("gpu1", "small1-1", slots=2)
    assert queued(fleet.ask("big1", name="big:70b", priority=6)) == ["big1"]
    assert queued(fleet.ask("small2", priority=5)) == ["small2"]
    fleet.end("small1-1", "gpu1")
    fleet.load("gpu1", slots=2)
    assert granted(fleet.effects)["big1"].decision.forecast.needs_load
    assert "small2" not in granted(fleet.effects)


def test_a_request_waits_for_a_much_better_node_but_not_for_a_slightly_better_one() -> None:
    fleet = Fleet()
    fleet.node("fast")
    fleet.node("slow", gpus=(), cpu_count=4)
    fleet.ask("r1", prompt=100)
    assert queued(fleet.ask("r2", prompt=2000)) == ["r2"]
    rival = Fleet()
    rival.node("a", gpus=(gpu("RTX 3090"),))
    rival.node("b", gpus=(gpu("RTX 3080"),))
    rival.ask("r1", prompt=100)
    assert granted(rival.ask("r2", prompt=2000))["r2"].decision.node_id == "b"


def test_identical_idle_nodes_share_the_work() -> None:
    fleet = Fleet()
    for i in range(4):
        fleet.node(f"n{i}", slots=4)
    chosen = [granted(fleet.ask(f"r{i}"))[f"r{i}"].decision.node_id for i in range(8)]
    assert sorted(chosen) == sorted([f"n{i}" for i in range(4)] * 2)


def test_the_same_seed_makes_the_same_choices() -> None:
    def run() -> list[str]:
        fleet = Fleet(strategy="random")
        for i in range(5):
            fleet.node(f"n{i}", slots=4)
        return [granted(fleet.ask(f"r{i}"))[f"r{i}"].decision.node_id for i in range(15)]

    assert run() == run()


def test_urgent_requests_are_served_first() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.ask("running")
    fleet.load("gpu1", "running-1")
    fleet.ask("low", priority=2)
    fleet.ask("urgent", priority=9)
    fleet.end("running-1", "gpu1")
    assert "urgent" in granted(fleet.effects)
    assert "low" not in granted(fleet.effects)


def test_deferred_work_runs_only_when_nothing_else_waits() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.ask("running")
    fleet.load("gpu1", "running-1")
    fleet.ask("deferred", priority=0)
    fleet.beat_all(400.0)
    fleet.ask("batch", priority=1)
    fleet.end("running-1", "gpu1")
    assert "batch" in granted(fleet.effects)
    assert "deferred" not in granted(fleet.effects)
    fleet.load("gpu1", "batch-1")
    fleet.end("batch-1", "gpu1")
    assert "deferred" in granted(fleet.effects)


def test_a_conversation_returns_to_the_node_that_holds_its_prefix() -> None:
    fleet = Fleet()
    for name in ("a", "b", "c"):
        fleet.node(name, slots=2)
    hashes, tokens = ("h1", "h2"), (4000, 8000)
    context = TaskContext(
        kind=RequestKind.CHAT, model=MODEL, prompt_tokens=8100, prefix_hashes=hashes, prefix_tokens=tokens
    )
    first = granted(fleet.ask("r1", context=context))["r1"].decision.node_id
    fleet.load(first, "r1-1", slots=2)
    fleet.end("r1-1", first, figures=Figures(actual_s=3, prompt_tokens=8100, output_tokens=50))
    for i in range(5):
        effects = fleet.ask(f"s{i}", context=context)
        assert granted(effects)[f"s{i}"].decision.node_id == first
        decision = next(e for e in effects if isinstance(e, DecisionEvent))
        assert decision.candidates[0].prefix_hit_tokens == 8000
        fleet.end(f"s{i}-1", first, figures=Figures(actual_s=3, prompt_tokens=8100, output_tokens=50))


# -- deadlines and bounds -------------------------------------------------------------------------------------


def test_a_deadline_that_the_predicted_wait_exceeds_is_refused_at_once() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.ask("running", prompt=20_000)
    effects = fleet.ask("r1", deadline_s=0.5)
    refusal = next(e for e in effects if isinstance(e, GrantRefused))
    assert refusal.error.code is ErrorCode.DEADLINE_UNREACHABLE
    assert refusal.error.http_status == 429
    assert refusal.retry_after_s > 0
    assert "r1" not in fleet.core.waiting


def test_a_deadline_that_passes_in_the_queue_ends_the_wait() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.ask("running")
    fleet.load("gpu1", "running-1")
    fleet.ask("r1", deadline_s=30.0)
    fleet.beat_all(29.0)
    assert "r1" in fleet.core.waiting
    fleet.beat_all(2.0)
    assert refused(fleet.effects)["r1"].code is ErrorCode.DEADLINE_EXCEEDED


def test_a_full_level_refuses_and_names_its_limit() -> None:
    fleet = Fleet(queue_limit=2)
    fleet.node()
    for i in range(3):
        fleet.ask(f"r{i}")
    effects = fleet.ask("r3")
    refusal = next(e for e in effects if isinstance(e, GrantRefused))
    assert refusal.error.code is ErrorCode.QUEUE_FULL
    assert refusal.retry_after_s >= 1.0
    assert queued(fleet.ask("r4", priority=6)) == ["r4"]
    assert queued(fleet.ask("retry", number=2)) == ["retry"]


# -- strategies and dry runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["seven_factor", "round_robin", "least_loaded", "random", "performance", "affinity", "hybrid"]
)
def test_every_strategy_fills_free_slots_and_no_more(name: str) -> None:
    fleet = Fleet(strategy=name)
    for i in range(3):
        fleet.node(f"n{i}", slots=2)
    for i in range(9):
        fleet.ask(f"r{i}")
    assert len(granted(fleet.effects)) == 6
    assert all(len(n.attempts) == 2 for n in fleet.core.fleet.nodes.values())
    assert len(fleet.core.waiting) == 3


def test_round_robin_goes_on_when_nodes_come_and_go() -> None:
    fleet = Fleet(strategy="round_robin")
    for name in ("a", "b", "c"):
        fleet.node(name, slots=9)
    assert [granted(fleet.ask(f"r{i}"))[f"r{i}"].decision.node_id for i in range(2)] == ["a", "b"]
    fleet.node("b", is_draining=True)
    fleet.node("bb", slots=9)
    assert [granted(fleet.ask(f"s{i}"))[f"s{i}"].decision.node_id for i in range(4)] == ["bb", "c", "a", "bb"]


def test_the_strategy_changes_without_losing_what_waits() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.ask("r1")
    fleet.load("gpu1", "r1-1")
    fleet.ask("r2")
    fleet.core.set_strategy("least_loaded")
    fleet.end("r1-1", "gpu1")
    assert granted(fleet.effects)["r2"].decision.strategy == "least_loaded"


def test_a_dry_run_changes_nothing() -> None:
    fleet = Fleet()
    fleet.node()
    context = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=10)
    for _ in range(3):
        answer = fleet.core.route(RouteRequest(request_id="q", context=context, routing=Routing()), fleet.now)
        assert isinstance(answer, DecisionEvent)
        assert answer.is_dry_run
    assert fleet.core.fleet.in_flight == 0
    unknown = TaskContext(kind=RequestKind.CHAT, model="nothing", prompt_tokens=10)
    answer = fleet.core.route(RouteRequest(request_id="q", context=unknown, routing=Routing()), fleet.now)
    assert isinstance(answer, ErrorBody)
