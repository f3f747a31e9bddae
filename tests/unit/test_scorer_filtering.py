"""Which nodes a request may go to, by constraints and modes, and the reasons against the others."""

from __future__ import annotations

from typing import Any

import pytest

from sollol_agents.lab.testing.messages import MODEL, gpu, model
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, queued, reasons, refused
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import RejectionReason
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.routing import Routing, RoutingMode
from sollol_schemas.telemetry import (
    EngineInfo,
    EngineKind,
    LearnedSpeed,
)

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
    heavy = model(size_gb=4.9, kv_bytes_per_token=131_072, context_length=131_072)
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


ONLY = {"routing": Routing(node_id="b", strict=True)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"is_draining": True}, "draining on b"),
        ({"installed": (model("other"),), "loaded": ()}, "not installed on b"),
        (
            {"engine": EngineInfo(kind=EngineKind.OLLAMA, url="u", is_reachable=False, detail="connection refused")},
            "no engine on b (connection refused)",
        ),
    ],
    ids=["draining", "no model", "no engine"],
)
def test_who_insists_on_a_node_is_told_its_own_reason_first(changes: dict[str, Any], words: str) -> None:
    fleet = Fleet()
    fleet.node("a")
    fleet.node("b", **changes)
    error = refused(fleet.ask("r1", **ONLY))["r1"]
    assert error.message == f"no node can serve '{MODEL}': {words}"
    assert next(iter(error.details["nodes"])) == "b"


def test_who_insists_on_a_node_that_nobody_knows_is_told_who_is_known() -> None:
    fleet = Fleet()
    fleet.node("a")
    fleet.node("c")
    error = refused(fleet.ask("r1", **ONLY))["r1"]
    assert (error.code, error.message) == (ErrorCode.UNKNOWN_NODE, "no node is known as 'b'; known are a, c")


def test_a_node_that_left_is_told_from_one_that_fell_silent() -> None:
    fleet = Fleet()
    fleet.node("a")
    fleet.node("b")
    fleet.load("b", has_left=True)
    assert "away: b (it left in order)" in refused(fleet.ask("r1", **ONLY))["r1"].message
    fleet.node("b", instance="b-again")
    fleet.tick(61.0)
    assert "away: b (silent for 61 s)" in refused(fleet.ask("r2", **ONLY))["r2"].message


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
    fleet.node("bare", installed=(), loaded=())  # what it lacks is no merit of the other, which lacks something too
    alone = granted(fleet.ask("r4", routing=Routing(min_vram_gb=20.0, soft=True)))["r4"]
    assert alone.decision.reason == "no node satisfies the constraints; taken because the request is soft"
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
    fleet.tick(61.0)
    assert refused(fleet.ask("fast"))["fast"].code is ErrorCode.NO_ELIGIBLE_NODE
    assert queued(fleet.ask("job", routing=Routing(routing_mode=RoutingMode.ASYNC), deadline_s=3600.0)) == ["job"]
    assert "job" in granted(fleet.node())


def test_a_node_that_fell_silent_lately_is_waited_for_as_long_as_it_takes_to_be_heard_again() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.tick(18.0)
    assert queued(fleet.ask("early")) == ["early"]
    fleet.tick(1.9)
    assert queued(fleet.ask("late")) == ["late"]
    fleet.effects.clear()
    fleet.tick(0.2)
    assert set(refused(fleet.effects)) == {"early", "late"}
    assert queued(fleet.ask("in time")) == ["in time"]
    assert "in time" in granted(fleet.node())


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
