"""Who occupies which slot, whatever messages come late, twice or not at all, and what makes a node suspect."""

from __future__ import annotations

import msgspec

from sollol_agents.lab.testing.messages import MODEL, gpu
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, queued, refused
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import BreakerEvent, BreakerState, NodeEvent, OutcomeStatus, ReportedBy
from sollol_schemas.grant import GrantQueued
from sollol_schemas.telemetry import (
    EngineInfo,
    EngineKind,
    InFlight,
    NodeState,
)

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


def test_an_engine_that_was_gone_and_is_back_is_tried_at_once() -> None:
    fleet = Fleet()
    fleet.node()
    for i in range(5):
        fleet.ask(f"r{i}")
        fleet.end(f"r{i}-1", "gpu1", OutcomeStatus.FAILED, code=ErrorCode.ENGINE_FAILED)
        fleet.node()
    assert refused(fleet.ask("r6"))["r6"].details["nodes"]["gpu1"].startswith("breaker_open")
    gone = EngineInfo(kind=EngineKind.OLLAMA, url="u", is_reachable=False)
    fleet.node(engine=gone)
    assert refused(fleet.ask("r7"))
    fleet.node(engine=msgspec.structs.replace(gone, is_reachable=True))
    assert granted(fleet.ask("r8"))
    fleet.end("r8-1", "gpu1", OutcomeStatus.FAILED, code=ErrorCode.ENGINE_FAILED)
    fleet.node()
    assert refused(fleet.ask("r9"))["r9"].details["nodes"]["gpu1"].startswith("breaker_open")


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


def test_all_that_one_pause_of_a_node_loses_is_one_failure_to_its_breaker() -> None:
    def lose(*names: str) -> None:
        for name in names:
            fleet.end(f"{name}-1", "gpu1", OutcomeStatus.PRESUMED_LOST, by=by, code=ErrorCode.NODE_LOST)

    by = ReportedBy.DISPATCHER
    fleet = Fleet()
    fleet.node(slots=40)
    together = [f"r{n}" for n in range(20)]
    for name in together:
        fleet.ask(name)
    fleet.tick(1.0)
    fleet.load("gpu1", *(f"{name}-1" for name in together[10:]))
    fleet.tick(3.0)
    lose(*together)
    for number in range(6):  # nobody else is there, and nothing is heard of it yet
        fleet.ask(f"again{number}")
        fleet.tick(0.1)
        lose(f"again{number}")
    node = fleet.core.fleet.nodes["gpu1"]
    assert node.breakers.of("").failures == 1
    assert node.record.attempts > 10.0, "each of them failed its caller"
    for number in range(4):
        fleet.node(slots=40)
        fleet.tick(0.1)
        fleet.ask(f"later{number}")
        fleet.load("gpu1", f"later{number}-1")
        assert node.breakers.of("").is_closed
        lose(f"later{number}")
    assert not node.breakers.of("").is_closed
