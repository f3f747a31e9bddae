"""What the dashboard remembers of the messages it hears."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from sollol_agents.fleet_view.decisions import KEPT as KEPT_DECISIONS
from sollol_agents.fleet_view.jobs import KEPT as KEPT_JOBS
from sollol_agents.fleet_view.node import SILENT_S
from sollol_agents.fleet_view.node_rows import NodeRow
from sollol_agents.fleet_view.nodes import FORGET_S, MAX_NODES
from sollol_agents.fleet_view.timeline import SLOT_S, SLOTS, Point
from sollol_agents.fleet_view.view import FleetView
from sollol_schemas.decision import Decision, DecisionEvent, Forecast
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import BreakerEvent, BreakerState, NodeEvent, Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.groups import Group, GroupsReply, GroupView, MemberView, QualityView, TrialVerdict, TrialView
from sollol_schemas.jobs import JobEvent, JobListReply, JobNews, JobState, JobStatus
from sollol_schemas.queries import NodesReply, NodeView, RecentReply, ReliabilityReply, ReliabilityView
from sollol_schemas.routing import RoutingMode
from sollol_schemas.steering import BreakersReply, BreakerView, StrategyEvent, StrategyReply
from sollol_schemas.telemetry import (
    EngineInfo,
    EngineKind,
    Gpu,
    InFlight,
    InstalledModel,
    LoadUpdate,
    NodeState,
    Telemetry,
)

NOW, AT = 1000.0, 1_800_000_000.0
PHASE_S = SLOTS * SLOT_S + 200
"""Longer than anything is kept."""


def telemetry(node_id: str = "attic", *, seq: int = 1, revision: int = 1, tokens: int | None = None) -> Telemetry:
    running = () if tokens is None else (InFlight(attempt_id="r-1", model="m", output_tokens=tokens),)
    return Telemetry(
        node_id=node_id,
        instance=f"i{revision}",
        revision=revision,
        seq=seq,
        engine=EngineInfo(kind=EngineKind.OLLAMA, url="http://127.0.0.1:1", version="0.1"),
        slots=4,
        in_flight=running,
        gpus=(Gpu(index=0, name="NVIDIA RTX 3060", memory_total_mib=12288.0, memory_used_mib=6144.0),),
        installed=(InstalledModel(name="m", size_bytes=1 << 30),),
    )


def decision(attempt_id: str = "r-1", *, queued: int = 0, queue_s: float = 0.0, priority: int = 5) -> DecisionEvent:
    decision = Decision(
        request_id=attempt_id.rpartition("-")[0],
        attempt_id=attempt_id,
        node_id="attic",
        model="m",
        priority=priority,
        queue_s=queue_s,
        reason="least predicted cost",
        forecast=Forecast(total_s=1.5),
    )
    return DecisionEvent(decision=decision, queued=queued)


def outcome(
    attempt_id: str = "r-1",
    *,
    status: OutcomeStatus = OutcomeStatus.SUCCESS,
    actual_s: float = 1.0,
    tokens: int = 0,
    reported_by: ReportedBy = ReportedBy.NODE,
    mode: RoutingMode = RoutingMode.FAST,
) -> Outcome:
    figures = Figures(actual_s=actual_s, output_tokens=tokens, decode_s=actual_s)
    return Outcome(
        decision=Decision(
            attempt_id=attempt_id,
            request_id=attempt_id.rpartition("-")[0],
            node_id="attic",
            mode=mode,
            forecast=Forecast(total_s=1.5),
        ),
        status=status,
        reported_by=reported_by,
        figures=figures if reported_by is ReportedBy.NODE else None,
    )


@pytest.fixture
def view() -> FleetView:
    made = FleetView()
    made.on_telemetry(telemetry(), NOW)
    return made


def row(view: FleetView, now: float = NOW, node_id: str = "attic") -> NodeRow:
    view.tick(now, AT)
    return next(row for row in view.nodes.changes(0)[0] if row.id == node_id)


# -- nodes --------------------------------------------------------------------------------------------------


def test_a_heartbeat_makes_a_card(view: FleetView) -> None:
    card = row(view)
    assert (card.state, card.gpu, card.slots, card.models) == ("up", "NVIDIA RTX 3060", 4, 1)
    assert (card.vram_used_mib, card.vram_total_mib) == (6140, 12290)
    assert (card.success_ratio, card.success_bound) == (None, None)


def test_a_card_that_did_not_change_is_not_sent_again(view: FleetView) -> None:
    row(view)
    drawn = view.version
    view.on_telemetry(telemetry(seq=2), NOW + 1)
    view.tick(NOW + 1, AT)
    assert view.nodes.changes(drawn) == ([], [])


def test_an_older_message_changes_nothing(view: FleetView) -> None:
    view.on_telemetry(telemetry(seq=5, tokens=3), NOW)
    view.on_load(LoadUpdate(node_id="attic", instance="i1", seq=4, slots=4), NOW)
    assert row(view).busy == 1
    view.on_load(LoadUpdate(node_id="attic", instance="i1", seq=6, slots=4), NOW)
    assert row(view).busy == 0


def test_the_instance_with_the_higher_revision_owns_the_id(view: FleetView) -> None:
    view.on_telemetry(telemetry(revision=2, tokens=1), NOW)
    view.on_telemetry(telemetry(revision=1, seq=99), NOW)
    assert row(view).busy == 1


def test_a_lower_revision_is_believed_when_the_higher_one_is_silent(view: FleetView) -> None:
    view.on_telemetry(telemetry(revision=2, tokens=1), NOW)
    later = NOW + SILENT_S + 1
    view.on_telemetry(telemetry(revision=1, seq=99), later)
    assert row(view, later).busy == 0


def test_the_scorers_word_is_the_state(view: FleetView) -> None:
    view.on_node(NodeEvent(node_id="attic", state=NodeState.DOWN, reason="nobody listens"), NOW, AT)
    card = row(view)
    assert (card.state, card.reason, card.running, card.tps) == ("down", "nobody listens", (), 0)


def test_a_silent_node_is_down_without_a_scorer_too(view: FleetView) -> None:
    assert row(view, NOW + SILENT_S - 1).state == "up"
    card = row(view, NOW + SILENT_S + 1)
    assert (card.state, card.silent_s) == ("down", 6)


def test_a_node_that_ended_in_order_has_left_until_it_starts_anew(view: FleetView) -> None:
    view.on_load(LoadUpdate(node_id="attic", instance="i1", seq=2, slots=4, has_left=True), NOW)
    view.on_node(NodeEvent(node_id="attic", state=NodeState.DOWN, reason="left"), NOW, AT)
    assert row(view).state == "left"
    assert view.nodes.fleet(NOW).total == 0
    view.on_telemetry(telemetry(revision=2), NOW + 1)
    view.on_node(NodeEvent(node_id="attic", state=NodeState.UP, reason="back"), NOW + 1, AT)
    assert row(view, NOW + 1).state == "up"
    assert view.nodes.fleet(NOW + 1).total == 1


def test_a_node_that_is_silent_for_long_is_forgotten_and_may_come_back(view: FleetView) -> None:
    row(view)
    drawn = view.version
    later = NOW + FORGET_S + 1
    view.tick(later, AT)
    assert view.nodes.changes(drawn) == ([], ["attic"])
    view.on_telemetry(telemetry(), later)
    assert row(view, later).state == "up"
    assert view.nodes.changes(drawn)[1] == []


def test_tokens_count_once_whether_told_while_running_or_at_the_end(view: FleetView) -> None:
    view.on_telemetry(telemetry(seq=2, tokens=40), NOW)
    view.on_telemetry(telemetry(seq=3, tokens=70), NOW)
    view.on_outcome(outcome(tokens=100), NOW, AT)
    assert row(view, NOW + 1).tps == 10.0
    assert view.head(NOW + 1, AT).tps == 10.0


def test_success_counts_what_the_recorder_knew_and_what_came_since(view: FleetView) -> None:
    view.on_reliability(ReliabilityReply(entries=(ReliabilityView(node_id="attic", attempts=98, successes=97),)))
    view.on_outcome(outcome("r-1"), NOW, AT)
    view.on_outcome(outcome("s-1", status=OutcomeStatus.FAILED), NOW, AT)
    view.on_outcome(outcome("t-1", status=OutcomeStatus.CANCELLED), NOW, AT)
    card = row(view)
    assert (card.attempts, card.success_ratio) == (100, 0.98)
    assert card.success_bound == pytest.approx(0.93, abs=0.002)


def test_breakers_are_shown_until_they_close(view: FleetView) -> None:
    view.on_breaker(BreakerEvent(node_id="attic", state=BreakerState.HALF_OPEN), AT)
    view.on_breaker(BreakerEvent(node_id="attic", state=BreakerState.OPEN, model="m"), AT)
    assert (row(view).breaker, row(view).broken_models) == ("open", ("m",))
    left = BreakersReply(breakers=(BreakerView(node_id="attic", state=BreakerState.HALF_OPEN),))
    view.on_breakers(left)
    assert row(view).breaker == "half_open"
    view.on_breaker(BreakerEvent(node_id="attic", state=BreakerState.CLOSED), AT)
    assert row(view).breaker == "closed"


def test_the_list_of_the_scorer_brings_nodes_that_were_not_heard(view: FleetView) -> None:
    gone = NodeView(node_id="cellar", state=NodeState.DOWN, heartbeat_age_s=20.0, telemetry=telemetry("cellar"))
    view.on_nodes(NodesReply(nodes=(gone,), queued=7, scorer="s1"), NOW, AT)
    assert row(view, node_id="cellar").state == "down"
    head = view.head(NOW, AT)
    assert (head.nodes, head.nodes_up, head.queued, head.scorer) == (2, 1, 7, "s1")


# -- decisions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["decided first", "ended first"])
def test_a_decision_and_its_outcome_make_one_row_in_either_order(view: FleetView, order: str) -> None:
    if order == "decided first":
        view.on_decision(decision(), NOW, AT)
    view.on_outcome(outcome(actual_s=2.0), NOW, AT)
    if order == "ended first":
        view.on_decision(decision(), NOW, AT)
    (found,) = view.decisions.changes(0)
    assert (found.reason, found.status, found.actual_s) == ("least predicted cost", "success", 2.0)


def test_the_nodes_own_report_replaces_a_presumed_loss_and_nothing_else_does(view: FleetView) -> None:
    view.on_outcome(outcome(status=OutcomeStatus.PRESUMED_LOST, reported_by=ReportedBy.SCORER), NOW, AT)
    view.on_outcome(outcome(status=OutcomeStatus.PRESUMED_LOST, reported_by=ReportedBy.DISPATCHER), NOW, AT)
    view.on_outcome(outcome(), NOW, AT)
    view.on_outcome(outcome(status=OutcomeStatus.FAILED), NOW, AT)
    (found,) = view.decisions.changes(0)
    assert found.status == "success"


def test_a_dry_run_is_no_decision(view: FleetView) -> None:
    asked = DecisionEvent(decision=decision().decision, is_dry_run=True)
    view.on_decision(asked, NOW, AT)
    assert view.decisions.changes(0) == []


def test_what_happened_before_is_shown_in_its_time(view: FleetView) -> None:
    view.on_recent(RecentReply(outcomes=(outcome("b-1"), outcome("a-1"))), lambda _: AT - 60)
    assert [r.request_id for r in view.decisions.changes(0)] == ["a", "b"]
    assert {p.t for p in view.timeline.changes(0) if p.modes} <= {int(AT - 60), int(AT - 65)}


# -- timeline -----------------------------------------------------------------------------------------------


def points(view: FleetView) -> dict[int, Point]:
    return {point.t: point for point in view.timeline.changes(0)}


def test_latency_is_counted_from_the_arrival_by_mode(view: FleetView) -> None:
    for number in range(100):
        view.on_outcome(outcome(f"r{number}-1", actual_s=1.0 if number < 90 else 10.0), NOW, AT)
    view.on_outcome(outcome("slow-1", actual_s=50.0, mode=RoutingMode.ASYNC), NOW, AT)
    figures = view.timeline.summary(AT).modes["fast"]
    assert (figures.requests, figures.failures) == (100, 0)
    assert figures.p50_s == pytest.approx(1.0, rel=0.05)
    assert figures.p95_s == pytest.approx(10.0, rel=0.05)


def test_tokens_are_counted_when_they_were_made(view: FleetView) -> None:
    view.on_outcome(outcome(actual_s=20.0, tokens=200), NOW, AT)
    speeds = [point.modes["fast"].tps for point in points(view).values() if "fast" in point.modes]
    assert sum(speeds) * SLOT_S == pytest.approx(200, abs=2)
    assert max(speeds) == pytest.approx(10.0, abs=0.1)


def test_the_queue_is_the_most_that_waited_and_stays_until_told_otherwise(view: FleetView) -> None:
    view.on_decision(decision(queued=9), NOW, AT)
    view.on_decision(decision("s-1", queued=3), NOW, AT)
    view.tick(NOW + SLOT_S, AT + SLOT_S)
    found = points(view)
    assert (found[int(AT)].queued, found[int(AT) + SLOT_S].queued) == (9, 3)


def test_waits_are_told_by_priority(view: FleetView) -> None:
    view.on_decision(decision("a-1", queue_s=1.0, priority=8), NOW, AT)
    view.on_decision(decision("b-1", queue_s=3.0, priority=8), NOW, AT)
    wait = view.timeline.summary(AT).waits["8"]
    assert (wait.count, wait.mean_s, wait.max_s) == (2, 2.0, 3.0)


def test_the_prediction_error_is_the_median_share_of_the_actual_time(view: FleetView) -> None:
    view.on_outcome(outcome(actual_s=3.0), NOW, AT)  # 1.5 s were predicted
    assert view.timeline.summary(AT).error_ratio == pytest.approx(0.5, rel=0.05)


def test_cancelled_requests_and_the_callers_own_mistakes_count_nowhere(view: FleetView) -> None:
    view.on_outcome(outcome("a-1", status=OutcomeStatus.CANCELLED), NOW, AT)
    view.on_outcome(outcome("b-1", status=OutcomeStatus.CLIENT_ERROR), NOW, AT)
    assert view.timeline.summary(AT).requests == 0


# -- jobs, strategy, notices --------------------------------------------------------------------------------


def job_event(job_id: str, state: JobState) -> JobEvent:
    error = ErrorBody(code=ErrorCode.UNKNOWN_MODEL, message="no such model") if state is JobState.DEAD else None
    return JobEvent(job_id=job_id, news=JobNews(state.value), state=state, model="m", error=error)


def test_jobs_come_by_listing_and_change_by_events(view: FleetView) -> None:
    stored = JobStatus(job_id="a", state=JobState.QUEUED, model="m", tokens=3)
    view.on_jobs(JobListReply(jobs=(stored,), waiting={"5": 1}, delayed=2), JobListReply())
    view.on_job(job_event("b", JobState.RUNNING))
    view.on_job(job_event("a", JobState.DEAD))
    shown = view.jobs.view()
    assert [(job.id, job.state) for job in shown.jobs] == [("a", "dead"), ("b", "running")]
    assert (shown.jobs[0].tokens, shown.jobs[0].error) == (3, "no such model")
    assert (shown.by_state["dead"], shown.waiting, shown.delayed) == (1, {"5": 1}, 2)
    assert view.jobs.is_stale


def test_a_change_of_settings_names_those_that_changed(view: FleetView) -> None:
    view.on_strategy(StrategyReply(strategy="plan", available=("plan",), settings={"hold": 0.3, "theta": 0.25}))
    view.on_strategy_event(StrategyEvent(strategy="plan", previous="plan", settings={"hold": 0.5, "theta": 0.25}), AT)
    assert [notice.text for notice in view.notices.changes(0)] == ["Settings changed: hold = 0.5"]
    assert view.strategy is not None
    assert view.strategy.settings["hold"] == 0.5


# -- bounds -------------------------------------------------------------------------------------------------


def test_memory_is_bounded_however_long_it_listens() -> None:
    view = FleetView()

    def live(seconds: range) -> None:
        for second in seconds:
            for number in range(5):
                attempt = f"r{second:06}x{number}-1"
                view.on_decision(decision(attempt), NOW + second, AT + second)
                view.on_outcome(outcome(attempt, tokens=10), NOW + second, AT + second)
                view.on_job(job_event(f"j{second:06}x{number}", JobState.DONE))
            view.on_telemetry(telemetry(seq=second, tokens=second), NOW + second)
            view.on_node(NodeEvent(node_id="attic", state=NodeState.UP), NOW + second, AT + second)
            view.tick(NOW + second, AT + second)

    sizes = []
    for phase in range(1, 4):
        live(range(phase * PHASE_S, (phase + 1) * PHASE_S))
        sizes.append(_size(view))
    assert sizes[2] <= sizes[1] * 1.01, "after the first phase tables have grown to their size"
    assert len(view.decisions) == KEPT_DECISIONS
    assert len(view.jobs.view().jobs) == KEPT_JOBS
    assert len(view.timeline.changes(0)) <= SLOTS


def _size(thing: Any, seen: set[int] | None = None) -> int:
    """Bytes of an object and of everything it holds."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    parts: list[Any] = []
    if isinstance(thing, dict):
        parts = [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset)) or type(thing).__name__ == "deque":
        parts = list(thing)
    elif hasattr(thing, "__dict__"):
        parts = list(vars(thing).values())
    elif hasattr(type(thing), "__slots__"):
        parts = [getattr(thing, name) for name in type(thing).__slots__ if hasattr(thing, name)]
    return sys.getsizeof(thing) + sum(_size(part, seen) for part in parts)


def test_more_node_ids_than_a_fleet_can_have_are_not_kept(view: FleetView) -> None:
    for number in range(MAX_NODES + 10):
        view.on_telemetry(telemetry(f"n{number}"), NOW + 1 + number / MAX_NODES)
    assert view.head(NOW, AT).nodes == MAX_NODES


def test_groups_are_shown_where_they_are_looked_at_and_when_they_change(view: FleetView) -> None:
    trial = TrialView(
        model="b", verdict=TrialVerdict.BETTER, candidate_feedback=40, others_feedback=300, difference=0.1
    )
    rated = MemberView(model="a", nodes=1, quality=QualityView(mean=0.6, feedback=8.2))
    told = GroupView(group=Group(name="coding"), members=(rated, MemberView(model="b", share=0.1)), trial=trial)
    view.on_groups(GroupsReply(groups=(told,)))
    (row,) = view.changes("settings", 0, AT)["groups"]
    assert [(m.model, m.quality, m.feedback, m.share) for m in row.members] == [("a", 0.6, 8, 0.0), ("b", None, 0, 0.1)]
    assert row.verdict == "b on trial: better than the others, +0.10 (40 and 300 rated)"
    drawn = view.version
    view.on_groups(GroupsReply(groups=(told,)))
    assert "groups" not in view.changes("playground", drawn, AT)
    assert "groups" not in view.changes("fleet", 0, AT)
    view.on_groups(GroupsReply(groups=()))
    assert view.changes("playground", drawn, AT)["groups"] == ()
