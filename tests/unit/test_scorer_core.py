"""The core: who is granted what, who waits, who is refused, and what may never happen."""

from __future__ import annotations

import gc
import math
import random
import weakref
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import MODEL, gpu, loaded, model
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, queued, reasons, refused
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import DecisionEvent, Forecast, RejectionReason
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import BreakerEvent, BreakerState, NodeEvent, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.grant import Granted, GrantQueued, GrantRefused, RouteRequest
from sollol_schemas.routing import Routing, RoutingMode
from sollol_schemas.telemetry import (
    EngineInfo,
    EngineKind,
    Gpu,
    InFlight,
    InstalledModel,
    LearnedSpeed,
    NodeState,
)

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
    assert "least predicted cost" in grant.decision.reason
    decision = next(e for e in effects if isinstance(e, DecisionEvent))
    cost = decision.candidates[0]
    assert cost.is_free_now
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


# -- filtering ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_draining": True}, RejectionReason.DRAINING),
        (
            {"engine": EngineInfo(kind=EngineKind.OLLAMA, url="u", is_reachable=False)},
            RejectionReason.ENGINE_UNREACHABLE,
        ),
        ({"installed": (model("other"),), "loaded": ()}, RejectionReason.MODEL_MISSING),
        ({"installed": (model(capabilities=("embedding",)),)}, RejectionReason.WRONG_CAPABILITY),
        ({"slots": 0}, RejectionReason.NO_SLOTS),
        (
            {"installed": (model(size_gb=200.0),), "loaded": ()},
            RejectionReason.DOES_NOT_FIT,
        ),
    ],
    ids=lambda v: v.value if isinstance(v, RejectionReason) else "",
)
def test_a_node_that_cannot_serve_is_refused_with_its_reason(changes: dict[str, Any], reason: RejectionReason) -> None:
    fleet = Fleet()
    fleet.node("bad", **changes)
    fleet.node("good")
    effects = fleet.ask("r1")
    assert granted(effects)["r1"].decision.node_id == "good"
    assert reasons(effects) == {"bad": reason}
    fleet.end("r1-1", "good")
    fleet.node("good", is_draining=True)
    error = refused(fleet.ask("r2"))["r2"]
    assert error.code is ErrorCode.NO_ELIGIBLE_NODE
    assert set(error.details["nodes"]) == {"bad", "good"}


def test_a_model_is_taken_to_fit_on_a_machine_of_which_nothing_is_known() -> None:
    fleet = Fleet()
    unknown: dict[str, Any] = {"gpus": (), "ram_total_mib": 0.0, "ram_available_mib": 0.0, "cpu_count": 0}
    fleet.node("far", **unknown, installed=(model(size_gb=200.0),), loaded=())
    assert granted(fleet.ask("r1"))["r1"].decision.node_id == "far"
    fleet.end("r1-1", "far")
    fleet.node("gpu1")
    effects = fleet.ask("r2", routing=Routing(min_vram_gb=1))
    assert reasons(effects) == {"far": RejectionReason.TOO_LITTLE_VRAM}


def test_fit_counts_the_cache_of_every_slot() -> None:
    fleet = Fleet()
    heavy = model(size_gb=4.9, kv_bytes_per_token=131_072, context_length=8192)
    context = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=10, num_ctx=131_072)
    fleet.node(installed=(heavy,), loaded=(), slots=8, ram_total_mib=0.0, ram_available_mib=0.0)
    error = refused(fleet.ask("r1", context=context))["r1"]
    assert error.code is ErrorCode.NO_ELIGIBLE_NODE
    assert "GiB" in error.details["nodes"]["gpu1"]
    assert granted(fleet.ask("r2"))["r2"].decision.forecast.needs_load


def test_an_unknown_model_lists_what_exists_and_an_empty_fleet_says_so() -> None:
    fleet = Fleet()
    assert refused(fleet.ask("r1"))["r1"].code is ErrorCode.NO_NODES
    fleet.node()
    error = refused(fleet.ask("r2", name="mistral"))["r2"]
    assert error.code is ErrorCode.UNKNOWN_MODEL
    assert error.details["models"] == [MODEL]


def test_after_a_start_requests_wait_for_nodes_to_show_themselves() -> None:
    fleet = Fleet(warm_up_s=2.0)
    assert queued(fleet.ask("r1")) == ["r1"]
    fleet.now += 1.0
    assert "r1" in granted(fleet.node())
    late = Fleet(warm_up_s=2.0)
    late.ask("r1")
    assert refused(late.tick(2.1))["r1"].code is ErrorCode.NO_NODES


def test_a_strict_node_is_the_only_one_and_a_wanted_node_falls_back() -> None:
    fleet = Fleet()
    fleet.node("a", slots=4)
    fleet.node("b", slots=4, is_draining=True)
    strict = refused(fleet.ask("r1", routing=Routing(node_id="b", strict=True)))["r1"]
    assert strict.details["nodes"]["b"] == "draining"
    wanted = granted(fleet.ask("r2", routing=Routing(node_id="b")))["r2"]
    assert wanted.decision.node_id == "a"
    assert "b is not available (draining)" in wanted.decision.reason
    fleet.node("b", is_draining=False)
    assert granted(fleet.ask("r3", routing=Routing(node_id="b")))["r3"].decision.node_id == "b"


def test_a_wanted_node_that_just_failed_is_left_alone_until_its_next_heartbeat() -> None:
    fleet = Fleet()
    fleet.node("a", slots=4)
    fleet.node("b", slots=4)
    fleet.ask("r1", routing=Routing(node_id="b", strict=True))
    fleet.end("r1-1", "b", OutcomeStatus.FAILED, code=ErrorCode.ENGINE_FAILED)
    wanted = granted(fleet.ask("r2", routing=Routing(node_id="b")))["r2"]
    assert wanted.decision.node_id == "a"
    assert "b is not available (suspect)" in wanted.decision.reason
    assert granted(fleet.ask("r3", routing=Routing(node_id="b", strict=True)))["r3"].decision.node_id == "b"


def test_free_video_memory_is_a_hard_constraint_unless_soft() -> None:
    fleet = Fleet()
    fleet.node(slots=4)
    error = refused(fleet.ask("r1", routing=Routing(min_vram_gb=20.0)))["r1"]
    assert error.details["nodes"]["gpu1"].startswith("too_little_vram")
    soft = granted(fleet.ask("r2", routing=Routing(min_vram_gb=20.0, soft=True)))["r2"]
    assert "soft" in soft.decision.reason
    assert granted(fleet.ask("r3", routing=Routing(min_vram_gb=10.0)))["r3"]


def test_a_soft_wish_for_another_node_lifts_no_physical_reason() -> None:
    fleet = Fleet()
    fleet.node("a", slots=2)
    wish = Routing(node_id="elsewhere", strict=True, soft=True)
    assert granted(fleet.ask("r1", routing=wish))["r1"].decision.node_id == "a"
    assert (
        refused(fleet.ask("r2", number=2, routing=wish, excluded=("a",)))["r2"]
        .details["nodes"]["a"]
        .startswith("excluded")
    )
    assert refused(fleet.ask("r3", name="nope", routing=wish))["r3"].code is ErrorCode.UNKNOWN_MODEL


def test_excluded_nodes_are_not_tried_again() -> None:
    fleet = Fleet()
    fleet.node("a", slots=2)
    fleet.node("b", slots=2)
    first = granted(fleet.ask("r1"))["r1"].decision.node_id
    second = granted(fleet.ask("r1", number=2, excluded=(first,)))["r1"].decision
    assert second.node_id != first
    assert second.attempt_id == "r1-2"
    assert len(fleet.core.fleet.nodes[first].attempts) == 0
    assert refused(fleet.ask("r1", number=3, excluded=("a", "b")))["r1"].code is ErrorCode.NO_ELIGIBLE_NODE


# -- modes ----------------------------------------------------------------------------------------------------


def serve(fleet: Fleet, node_id: str, count: int, failures: int = 0) -> None:
    for i in range(count):
        request = f"h{node_id}{fleet.now}{i}".replace(".", "_")
        fleet.ask(request, routing=Routing(node_id=node_id, strict=True))
        status = OutcomeStatus.FAILED if i < failures else OutcomeStatus.SUCCESS
        fleet.end(f"{request}-1", node_id, status, code=ErrorCode.ENGINE_FAILED if i < failures else None)
        fleet.now += 0.1
        fleet.node(node_id)


def test_reliable_requests_take_the_proven_node_even_when_it_is_slower() -> None:
    fleet = Fleet()
    fleet.node("fast", gpus=(gpu("RTX 4090"),), slots=4)
    fleet.node("proven", gpus=(gpu("RTX 3060", 12, 6),), slots=4)
    serve(fleet, "proven", 40)
    serve(fleet, "fast", 40, failures=4)
    assert granted(fleet.ask("r1"))["r1"].decision.node_id == "fast"
    effects = fleet.ask("r2", routing=Routing(routing_mode=RoutingMode.RELIABLE))
    assert granted(effects)["r2"].decision.node_id == "proven"
    assert reasons(effects)["fast"] is RejectionReason.NOT_RELIABLE_ENOUGH


def test_without_history_reliable_takes_the_best_bound_and_says_so() -> None:
    fleet = Fleet()
    fleet.node()
    grant = granted(fleet.ask("r1", routing=Routing(routing_mode=RoutingMode.RELIABLE)))["r1"]
    assert "no node has proven 0.95" in grant.decision.reason


def test_an_explicit_floor_is_hard_and_names_every_bound() -> None:
    fleet = Fleet()
    fleet.node()
    routing = Routing(routing_mode=RoutingMode.RELIABLE, min_success_rate=0.9)
    error = refused(fleet.ask("r1", routing=routing))["r1"]
    assert error.code is ErrorCode.NO_ELIGIBLE_NODE
    assert error.details["nodes"]["gpu1"] == "not_reliable_enough: proven 0.000, asked for 0.900"
    soft = Routing(routing_mode=RoutingMode.RELIABLE, min_success_rate=0.9, soft=True)
    assert granted(fleet.ask("r2", routing=soft))["r2"]


def test_a_floor_that_can_never_be_proven_is_a_bad_request() -> None:
    fleet = Fleet()
    fleet.node()
    routing = Routing(routing_mode=RoutingMode.RELIABLE, min_success_rate=0.9999)
    error = refused(fleet.ask("r1", routing=routing))["r1"]
    assert error.code is ErrorCode.BAD_REQUEST
    assert error.details["maximum"] < 0.9999


def test_patient_work_waits_while_its_node_is_down_and_others_are_refused() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.tick(6.0)
    assert refused(fleet.ask("fast"))["fast"].code is ErrorCode.NO_ELIGIBLE_NODE
    assert queued(fleet.ask("job", routing=Routing(routing_mode=RoutingMode.ASYNC), deadline_s=3600.0)) == ["job"]
    assert "job" in granted(fleet.node())


def test_patient_work_does_not_wait_for_a_node_that_is_away_and_never_had_the_model() -> None:
    fleet = Fleet()
    fleet.node("away", installed=(model("other"),))
    fleet.tick(4.0)
    fleet.node("here", installed=(model("other"),))
    fleet.tick(2.0)
    error = refused(fleet.ask("job", routing=Routing(routing_mode=RoutingMode.ASYNC)))["job"]
    assert error.code is ErrorCode.UNKNOWN_MODEL
    assert error.details["models"] == ["other"]


def test_a_refusal_is_final_once_no_node_joins_any_more_and_none_that_counts_is_away() -> None:
    fleet = Fleet(warm_up_s=2.0)
    routing = Routing(routing_mode=RoutingMode.ASYNC)
    fleet.node()

    def is_settled(name: str) -> bool:
        return bool(refused(fleet.ask("job", name=name, routing=routing))["job"].details["is_settled"])

    fleet.beat_all(5.0)
    assert not is_settled("nonesuch")
    fleet.beat_all(5.0)
    assert is_settled("nonesuch")
    fleet.node("late", installed=(), loaded=())
    assert not is_settled("nonesuch")
    fleet.beat_all(10.0)
    assert is_settled("nonesuch")


def test_patient_work_goes_to_a_cpu_node_that_is_about_as_fast_and_leaves_the_gpu_to_people() -> None:
    fleet = Fleet()
    about_as_fast = {"gpu": 42.0, "cpu": 40.0}
    for node_id, tps in about_as_fast.items():
        speed = LearnedSpeed(model=MODEL, decode_tps=tps, prompt_tps=1000.0, load_s=2.0, samples=50)
        fleet.node(node_id, gpus=(gpu(),) if node_id == "gpu" else (), speeds=(speed,))
    assert granted(fleet.ask("person"))["person"].decision.node_id == "gpu"
    fleet.end("person-1", "gpu")
    patient = Routing(routing_mode=RoutingMode.ASYNC)
    assert granted(fleet.ask("job", routing=patient))["job"].decision.node_id == "cpu"


def test_patient_work_goes_to_a_gpu_node_when_its_model_does_not_fit_into_the_memory_of_a_cpu_node() -> None:
    fleet = Fleet()
    fleet.node("gpu", slots=4)
    fleet.node("cpu", gpus=(), slots=4, loaded=(), ram_total_mib=4000.0, ram_available_mib=2000.0)
    patient = Routing(routing_mode=RoutingMode.ASYNC)
    assert granted(fleet.ask("r1", routing=patient))["r1"].decision.node_id == "gpu"


def test_prefer_cpu_is_mandatory_only_when_a_cpu_node_makes_the_deadline() -> None:
    fleet = Fleet()
    fleet.node("gpu", slots=4)
    fleet.node("cpu", gpus=(), slots=4)
    routing = Routing(prefer_cpu=True)
    assert granted(fleet.ask("r1", routing=routing))["r1"].decision.node_id == "cpu"
    assert granted(fleet.ask("r2", routing=routing, prompt=3000, deadline_s=20.0))["r2"].decision.node_id == "gpu"


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


# -- idempotence ----------------------------------------------------------------------------------------------


def test_asking_again_gives_the_same_grant() -> None:
    fleet = Fleet()
    fleet.node(slots=2)
    first = granted(fleet.ask("r1"))["r1"]
    assert granted(fleet.ask("r1"))["r1"] == first
    assert fleet.core.fleet.in_flight == 1


def test_asking_again_keeps_the_place_and_the_greater_age() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.ask("running")
    fleet.load("gpu1", "running-1")
    fleet.ask("r1")
    fleet.ask("r2")
    fleet.now += 1.0
    effects = fleet.ask("r1", waited_s=0.0)
    assert [e.position for e in effects if isinstance(e, GrantQueued)] == [0]
    assert len(fleet.core.waiting) == 2
    effects = fleet.ask("r2", waited_s=100.0)
    assert [e.position for e in effects if isinstance(e, GrantQueued)] == [0]


def test_a_busy_answer_moves_the_request_and_the_node_counts_as_full_until_its_next_word() -> None:
    fleet = Fleet()
    fleet.node("a", slots=2)
    assert granted(fleet.ask("r1"))["r1"].decision.node_id == "a"
    assert queued(fleet.ask("r1", busy=("a",))) == ["r1"]
    assert fleet.core.fleet.in_flight == 0
    assert granted(fleet.load("a", slots=2))["r1"].decision.node_id == "a"


# -- the ledger -----------------------------------------------------------------------------------------------


def test_a_grant_nobody_took_expires_and_its_slot_is_given_on() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.ask("r1")
    fleet.ask("r2")
    fleet.now += 1.9
    fleet.node()
    assert "r2" not in granted(fleet.effects)
    assert "r2" in granted(fleet.tick(0.2))


def test_work_that_others_gave_a_node_occupies_its_slots() -> None:
    fleet = Fleet()
    fleet.node(slots=2)
    fleet.load("gpu1", "foreign-1", "foreign-2", slots=2)
    assert queued(fleet.ask("r1")) == ["r1"]
    assert "r1" in granted(fleet.load("gpu1", "foreign-2", slots=2))


def test_an_expired_grant_that_runs_after_all_is_counted_again() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.ask("r1")
    fleet.tick(2.5)
    assert fleet.core.fleet.in_flight == 0
    fleet.load("gpu1", "r1-1")
    assert queued(fleet.ask("r2")) == ["r2"]


def test_a_late_load_message_does_not_bring_a_finished_attempt_back() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.ask("r1")
    fleet.load("gpu1", "r1-1")
    fleet.end("r1-1", "gpu1")
    fleet.load("gpu1", "r1-1")
    assert fleet.core.fleet.in_flight == 0


def test_the_slot_is_freed_where_it_was_counted_whatever_node_the_outcome_names() -> None:
    fleet = Fleet()
    fleet.node("a")
    fleet.ask("r1")
    fleet.load("a", "r1-1")
    fleet.end("r1-1", "elsewhere")
    assert fleet.core.fleet.nodes["a"].attempts == {}


def test_old_messages_and_other_instances_change_nothing() -> None:
    fleet = Fleet()
    fleet.node(revision=5, slots=2)
    fleet.node(seq=0, slots=9, revision=5)
    fleet.node(instance="impostor", revision=4, slots=9)
    fleet.load("gpu1", "x-1", instance="impostor")
    node = fleet.core.fleet.nodes["gpu1"]
    assert (node.instance, node.slots, len(node.attempts)) == ("gpu1-a", 2, 0)


def test_a_new_process_takes_the_id_over_and_its_predecessors_work_is_lost() -> None:
    fleet = Fleet()
    fleet.node(revision=5)
    fleet.ask("r1")
    fleet.load("gpu1", "r1-1")
    fleet.ask("r2")
    fleet.node(instance="gpu1-b", revision=6)
    assert granted(fleet.effects)["r2"].decision.instance == "gpu1-b"
    assert [a.attempt_id for a in fleet.core.lost] == ["r1-1"]


def test_an_older_revision_is_accepted_once_the_newer_is_silent_for_long() -> None:
    fleet = Fleet()
    fleet.node(revision=5, instance="new")
    fleet.node(revision=4, instance="old", slots=3)
    assert fleet.core.fleet.nodes["gpu1"].slots == 1
    fleet.tick(5.5)
    fleet.node(revision=4, instance="old", slots=3)
    assert fleet.core.fleet.nodes["gpu1"].slots == 3


def test_a_node_that_flaps_keeps_the_work_it_still_runs() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.ask("r1")
    fleet.load("gpu1", "r1-1")
    fleet.tick(6.0)
    assert fleet.core.fleet.nodes["gpu1"].state is NodeState.DOWN
    fleet.node(in_flight=(InFlight(attempt_id="r1-1", model=MODEL),))
    assert queued(fleet.ask("r2")) == ["r2"]


# -- health ---------------------------------------------------------------------------------------------------


def test_silence_makes_a_node_suspect_and_then_down_and_a_heartbeat_revives_it() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.tick(3.5)
    fleet.tick(2.0)
    fleet.node()
    states = [e.state for e in fleet.effects if isinstance(e, NodeEvent)]
    assert states == [NodeState.UP, NodeState.SUSPECT, NodeState.DOWN, NodeState.UP]


def test_a_lone_suspect_node_still_serves() -> None:
    fleet = Fleet()
    fleet.node(slots=2)
    fleet.tick(3.5)
    assert granted(fleet.ask("r1"))


def test_a_failed_attempt_makes_the_node_suspect_until_its_next_heartbeat() -> None:
    fleet = Fleet()
    fleet.node("a", gpus=(gpu("RTX 4090"),))
    fleet.node("b")
    assert granted(fleet.ask("r1"))["r1"].decision.node_id == "a"
    fleet.end("r1-1", "a", OutcomeStatus.FAILED, code=ErrorCode.ENGINE_FAILED)
    assert granted(fleet.ask("r2"))["r2"].decision.node_id == "b"
    fleet.node("a")
    assert fleet.core.fleet.nodes["a"].state is NodeState.UP


def test_our_own_deafness_is_not_held_against_the_nodes() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.now += 10.0
    fleet.core.fleet.settle(fleet.now + 3.0)
    fleet.tick()
    assert [e.state for e in fleet.effects if isinstance(e, NodeEvent)] == [NodeState.UP]
    fleet.tick(3.1)
    assert [e.state for e in fleet.effects if isinstance(e, NodeEvent)] == [NodeState.UP, NodeState.DOWN]


def test_a_node_that_fails_fast_becomes_no_black_hole() -> None:
    fleet = Fleet()
    fleet.node("bad", slots=4, gpus=(gpu("RTX 4090"),))
    fleet.node("good", slots=4)
    served: list[str] = []
    for i in range(40):
        effects = fleet.ask(f"r{i}")
        node_id = granted(effects)[f"r{i}"].decision.node_id
        served.append(node_id)
        is_bad = node_id == "bad"
        fleet.end(
            f"r{i}-1",
            node_id,
            OutcomeStatus.FAILED if is_bad else OutcomeStatus.SUCCESS,
            code=ErrorCode.ENGINE_FAILED if is_bad else None,
        )
        fleet.now += 0.5
        fleet.node("bad")
        fleet.node("good")
    assert served.count("bad") <= 6


def test_a_breaker_opens_is_published_and_lets_trials_through_later() -> None:
    fleet = Fleet()
    fleet.node()
    for i in range(5):
        fleet.ask(f"r{i}")
        fleet.end(f"r{i}-1", "gpu1", OutcomeStatus.FAILED, code=ErrorCode.ENGINE_FAILED)
        fleet.node()
    opened = [e for e in fleet.effects if isinstance(e, BreakerEvent)]
    assert {e.state for e in opened} == {BreakerState.OPEN}
    assert refused(fleet.ask("r6"))["r6"].details["nodes"]["gpu1"].startswith("breaker_open")
    fleet.beat_all(31.0)
    assert granted(fleet.ask("r7"))["r7"]
    fleet.end("r7-1", "gpu1", OutcomeStatus.FAILED, code=ErrorCode.ENGINE_FAILED)
    fleet.node()
    assert refused(fleet.ask("r8"))
    fleet.core.reset_breaker("gpu1", "", fleet.now)
    assert granted(fleet.ask("r9"))


def test_a_trial_whose_slot_came_free_before_its_outcome_still_counts() -> None:
    fleet = Fleet()
    fleet.node()
    for i in range(5):
        fleet.ask(f"r{i}")
        fleet.end(f"r{i}-1", "gpu1", OutcomeStatus.FAILED, code=ErrorCode.ENGINE_FAILED)
        fleet.node()
    fleet.beat_all(31.0)
    for i in range(3):
        fleet.ask(f"t{i}")
        fleet.load("gpu1", f"t{i}-1")
        fleet.load("gpu1")
        fleet.end(f"t{i}-1", "gpu1")
    closed = [e for e in fleet.effects if isinstance(e, BreakerEvent) and e.state is BreakerState.CLOSED]
    assert {e.model for e in closed} == {"", MODEL}


def test_callers_that_leave_and_busy_nodes_are_not_held_against_the_node() -> None:
    fleet = Fleet()
    fleet.node()
    for i in range(10):
        fleet.ask(f"r{i}")
        fleet.end(f"r{i}-1", "gpu1", OutcomeStatus.CANCELLED, code=ErrorCode.CANCELLED)
    for i in range(10, 20):
        fleet.ask(f"r{i}")
        fleet.end(f"r{i}-1", "gpu1", OutcomeStatus.FAILED, code=ErrorCode.BUSY)
        fleet.node()
    node = fleet.core.fleet.nodes["gpu1"]
    assert node.record.attempts == 0
    assert node.state is NodeState.UP


def test_a_presumed_loss_and_the_nodes_own_report_count_once() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.ask("r1")
    fleet.load("gpu1", "r1-1")
    fleet.end("r1-1", "gpu1", OutcomeStatus.PRESUMED_LOST, by=ReportedBy.DISPATCHER)
    fleet.end("r1-1", "gpu1", OutcomeStatus.FAILED, code=ErrorCode.ENGINE_FAILED)
    assert fleet.core.fleet.nodes["gpu1"].record.attempts == 1.0


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
