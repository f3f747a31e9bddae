"""The recorder's statistics: pure functions of counts and durations."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import gpu, node_view
from sollol_agents.recorder.rows import Rank, Table, Verdict, rank_of, row_of, rows_of, verdict_of
from sollol_agents.recorder.statistics import (
    CountRow,
    LatencyRow,
    TimeRow,
    VerdictRow,
    dispersion,
    fleet_stats,
    latency_of,
    percentile,
    reliability_view,
    stats_reply,
    wilson_lower_bound,
)
from sollol_agents.recorder.uptime import Passage, Uptime, uptime_of
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import subjects
from sollol_schemas.decision import Decision, DecisionEvent, Decisions, Forecast
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import BreakerEvent, BreakerState, NodeEvent, OfficeEvent, Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.queries import NodesReply, NodeView
from sollol_schemas.routing import RoutingMode
from sollol_schemas.telemetry import NodeState


def outcome(**changes: object) -> Outcome:
    forecast = Forecast(total_s=2.0)
    fields: dict[str, object] = {
        "decision": Decision(attempt_id="r-1", request_id="r", node_id="n1", queue_s=0.5, forecast=forecast),
        "status": OutcomeStatus.SUCCESS,
        "reported_by": ReportedBy.NODE,
        "figures": Figures(actual_s=1.5, output_tokens=30, decode_s=1.0),
    }
    return Outcome(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("successes", "attempts", "expected"),
    [(0, 0, 0.0), (0, 10, 0.0), (1, 1, 0.2065), (10, 10, 0.7225), (95, 100, 0.8883), (81, 263, 0.2553)],
)
def test_the_wilson_bound_agrees_with_published_values(successes: int, attempts: int, expected: float) -> None:
    assert wilson_lower_bound(successes, attempts) == pytest.approx(expected, abs=2e-4)


@given(st.integers(1, 10_000), st.data())
def test_the_wilson_bound_lies_below_the_ratio_and_rises_with_evidence(attempts: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, attempts))
    bound = wilson_lower_bound(successes, attempts)
    assert 0 <= bound <= successes / attempts
    assert wilson_lower_bound(2 * successes, 2 * attempts) >= bound
    assert wilson_lower_bound(successes + 1, attempts + 1) >= bound


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_ordered_and_inside_the_sample(values: list[float]) -> None:
    latency = latency_of(values)
    assert min(values) <= latency.p50_s <= latency.p95_s <= latency.p99_s <= max(values)
    assert latency.count == len(values)


def test_percentiles_interpolate() -> None:
    assert percentile([0.0, 10.0], 0.25) == 2.5
    assert percentile([], 0.5) == 0.0
    assert percentile([7.0], 0.99) == 7.0


def test_dispersion_is_the_standard_deviation_of_actual_over_predicted() -> None:
    assert dispersion([TimeRow(1, 1), TimeRow(3, 1)]) == pytest.approx(math.sqrt(2))
    assert dispersion([TimeRow(2, 1), TimeRow(4, 2)]) == 0.0
    assert dispersion([TimeRow(2, 1), TimeRow(4, 0)]) is None


@pytest.mark.parametrize(
    ("changes", "verdict", "rank"),
    [
        ({}, Verdict.SUCCESS, Rank.BY_NODE),
        ({"status": OutcomeStatus.FAILED, "code": ErrorCode.ENGINE_FAILED}, Verdict.FAILURE, Rank.BY_NODE),
        ({"status": OutcomeStatus.FAILED, "code": ErrorCode.BUSY}, Verdict.REFUSED, Rank.BY_NODE),
        ({"status": OutcomeStatus.CANCELLED}, Verdict.CANCELLED, Rank.BY_NODE),
        (
            {"status": OutcomeStatus.CLIENT_ERROR, "reported_by": ReportedBy.DISPATCHER},
            Verdict.CLIENT_ERROR,
            Rank.REPORTED,
        ),
        (
            {"status": OutcomeStatus.PRESUMED_LOST, "reported_by": ReportedBy.SCORER},
            Verdict.FAILURE,
            Rank.PRESUMED,
        ),
    ],
    ids=["success", "failure", "refusal", "cancelled", "client error", "presumed loss"],
)
def test_what_an_outcome_counts_as(changes: dict[str, object], verdict: Verdict, rank: Rank) -> None:
    assert verdict_of(outcome(**changes)) is verdict
    assert rank_of(outcome(**changes)) is rank


def test_an_outcome_becomes_a_line_with_its_latency_from_arrival() -> None:
    row = row_of(subjects.OUTCOME_EVENT.of("n1"), encode(outcome()), stored_at_ns=2_000_000_000, stream_seq=7)
    assert row is not None
    assert row.table is Table.OUTCOMES
    times = ("latency_s", "actual_s", "predicted_s", "recorded_at")
    assert [row.columns[name] for name in times] == [2.0, 1.5, 2.0, 2.0]


def test_every_column_of_an_outcome_holds_what_its_name_says() -> None:
    made = Decision(
        request_id="r",
        attempt_id="r-2",
        job_id="j",
        node_id="n1",
        model="m",
        task_type="chat",
        mode=RoutingMode.RELIABLE,
        queue_s=0.5,
        attempt=2,
        caller="c",
        forecast=Forecast(total_s=2.25),
    )
    figures = Figures(
        actual_s=1.5,
        ttft_s=0.25,
        decode_s=1.25,
        output_tokens=7,
        prompt_tokens=11,
        energy_j=90.0,
        expense=0.03,
        currency="EUR",
    )
    told = Outcome(decision=made, status=OutcomeStatus.SUCCESS, figures=figures)
    data = encode(told)
    row = row_of(subjects.OUTCOME_EVENT.of("n1"), data, stored_at_ns=3_000_000_000, stream_seq=7)
    assert row is not None
    assert row.columns == {
        "attempt_id": "r-2",
        "rank": 2,
        "recorded_at": 3.0,
        "request_id": "r",
        "job_id": "j",
        "node_id": "n1",
        "model": "m",
        "mode": "reliable",
        "verdict": "success",
        "code": "",
        "latency_s": 2.0,
        "actual_s": 1.5,
        "predicted_s": 2.25,
        "output_tokens": 7,
        "decode_s": 1.25,
        "number": 2,
        "first_token_s": 0.75,
        "body": data,
        "caller": "c",
        "prompt_tokens": 11,
        "slot_s": 1.5,
        "energy_j": 90.0,
        "expense": 0.03,
        "currency": "EUR",
        "category": "chat",
        "continued_tokens": 0,
    }


def test_the_database_is_given_plain_values_alone() -> None:
    data = encode(outcome(status=OutcomeStatus.FAILED, code=ErrorCode.STALLED))
    row = row_of(subjects.OUTCOME_EVENT.of("n1"), data, stored_at_ns=0, stream_seq=1)
    assert row is not None
    assert {type(value) for value in row.values} <= {str, bytes, int, float, type(None)}


def test_an_outcome_under_another_nodes_subject_is_nobodys() -> None:
    with pytest.raises(msgspec.ValidationError, match="speaks for n1"):
        row_of(subjects.OUTCOME_EVENT.of("n2"), encode(outcome()), stored_at_ns=0, stream_seq=1)


def test_a_failure_has_no_latency() -> None:
    data = encode(outcome(status=OutcomeStatus.FAILED, code=ErrorCode.STALLED))
    row = row_of(subjects.OUTCOME_EVENT.of("n1"), data, stored_at_ns=0, stream_seq=1)
    assert row is not None
    assert [row.columns[name] for name in ("latency_s", "actual_s", "code")] == [None, None, "stalled"]


def test_each_kind_of_event_finds_its_table() -> None:
    decision = DecisionEvent(decision=Decision(request_id="r", attempt_id="r-1", node_id="n1", model="m"))
    row = row_of(subjects.DECISIONS_EVENT, encode(decision), stored_at_ns=1, stream_seq=2)
    assert row is not None
    assert (row.table, row.columns["request_id"]) == (Table.DECISIONS, "r")
    for subject, event, kind, node_id in (
        (subjects.NODE_EVENT.of("n1", "down"), NodeEvent(node_id="n1", state=NodeState.DOWN), "node", "n1"),
        (subjects.BREAKER_EVENT.of("n2", "open"), BreakerEvent(node_id="n2", state=BreakerState.OPEN), "breaker", "n2"),
        (subjects.OFFICE_EVENT.of("i"), OfficeEvent(instance="i", term=3, is_leader=True), "scorer", ""),
    ):
        row = row_of(subject, encode(event), stored_at_ns=1, stream_seq=2)
        assert row is not None
        assert (row.table, row.columns["kind"], row.columns["node_id"]) == (Table.EVENTS, kind, node_id)
    assert row_of("sollol.v1.events.job.j.done", b"{}", stored_at_ns=1, stream_seq=2) is None


def test_each_of_several_decisions_in_a_message_has_its_line_and_one_that_cannot_be_read_spoils_no_other() -> None:
    made = [DecisionEvent(decision=Decision(request_id=r, attempt_id=f"{r}-1", node_id="n1")) for r in ("a", "b", "c")]
    data = encode(Decisions(decisions=tuple(made))).replace(b'"request_id":"b"', b'"request_id":7')
    rows, faults = rows_of(subjects.DECISIONS_EVENT, data, stored_at_ns=10, stream_seq=2)
    assert [(row.columns["request_id"], row.columns["stored_at_ns"]) for row in rows] == [("a", 10), ("c", 12)]
    assert decode(rows[1].columns["body"], DecisionEvent) == made[2]
    assert len(faults) == 1
    rows, faults = rows_of(subjects.DECISIONS_EVENT, encode(made[0]), stored_at_ns=10, stream_seq=2)
    assert (rows, len(faults)) == ([], 1), "one by itself is no message of several"


def test_a_message_with_more_decisions_than_any_scorer_puts_there_is_one_fault() -> None:
    many = b'{"type":"decisions.v1","decisions":[' + b"0," * 5000 + b"0]}"
    rows, faults = rows_of(subjects.DECISIONS_EVENT, many, stored_at_ns=10, stream_seq=2)
    assert (rows, len(faults)) == ([], 1)


def test_groups_add_up_and_refusals_are_left_out() -> None:
    counts = [
        CountRow("fast", "n1", "success", 8, 800, 4.0),
        CountRow("fast", "n2", "failure", 2, 0, 0.0),
        CountRow("reliable", "n1", "cancelled", 1, 10, 1.0),
        CountRow("reliable", "n2", "client_error", 3, 0, 0.0),
        CountRow("fast", "n2", "refused", 50, 0, 0.0),
    ]
    latencies = [LatencyRow("fast", "n1", float(n)) for n in range(1, 9)]
    reply = stats_reply(counts, latencies, fleet=None, window_s=0)
    assert reply.total.requests == 14
    assert reply.total.success_ratio == 0.8
    assert reply.total.tokens_per_second == 162.0
    assert reply.total.latency.p50_s == 4.5
    assert reply.by_mode["fast"].requests == 10
    assert reply.by_mode["reliable"].success_ratio == 1.0
    assert reply.by_node["n2"].failures == 2
    assert reply.by_node["n2"].latency.count == 0
    assert sum(g.requests for g in reply.by_mode.values()) == sum(g.requests for g in reply.by_node.values()) == 14


def test_reliability_counts_only_what_is_charged_to_the_node() -> None:
    rows = [
        VerdictRow("n1", "m", "success", "", 9, 0.0),
        VerdictRow("n1", "m", "failure", "stalled", 1, 0.0),
        VerdictRow("n1", "m", "cancelled", "", 5, 0.0),
        VerdictRow("n1", "m", "refused", "busy", 5, 0.0),
    ]
    view = reliability_view("n1", "m", rows, [TimeRow(n, 1.0) for n in range(150)], last_seen_at="")
    assert (view.attempts, view.successes, view.failures) == (10, 9, 1)
    assert view.failures_by_code == {"stalled": 1}
    assert view.success_ratio == 0.9
    assert view.success_lower_bound == wilson_lower_bound(9, 10)
    assert view.recent_s == tuple(float(n) for n in range(50, 150))


def test_the_fleet_counts_live_nodes_by_kind() -> None:
    def view(node_id: str, state: NodeState, *, has_gpu: bool, slots: int) -> NodeView:
        cards = (gpu(),) if has_gpu else ()
        return node_view(node_id, state, slots=slots, gpus=cards)

    nodes = (
        view("a", NodeState.UP, has_gpu=True, slots=4),
        view("b", NodeState.DRAINING, has_gpu=False, slots=2),
        view("c", NodeState.DOWN, has_gpu=True, slots=8),
    )
    fleet = fleet_stats(NodesReply(nodes=nodes, queued=3, in_flight=2))
    assert (fleet.nodes_total, fleet.nodes_up, fleet.nodes_gpu, fleet.nodes_cpu) == (3, 1, 1, 1)
    assert (fleet.slots, fleet.queued, fleet.in_flight) == (6, 3, 2)


@pytest.mark.parametrize(
    ("passages", "up_for_s", "ratio"),
    [
        ([], 0.0, 0.0),
        ([(0, "up")], 100.0, 1.0),
        ([(0, "up"), (50, "suspect"), (60, "up")], 100.0, 1.0),
        ([(0, "up"), (20, "down"), (70, "up")], 30.0, 0.5),
        ([(0, "up"), (20, "down"), (40, "down"), (70, "up"), (80, "up")], 30.0, 0.5),
        ([(0, "up"), (75, "down")], 0.0, 0.75),
        ([(0, "down"), (50, "draining")], 50.0, 0.5),
        ([(100, "up")], 0.0, 1.0),
        ([(100, "down")], 0.0, 0.0),
    ],
)
def test_uptime_counts_whatever_is_not_down(passages: list[tuple[float, str]], up_for_s: float, ratio: float) -> None:
    assert uptime_of([Passage(*p) for p in passages], 100.0) == pytest.approx(Uptime(up_for_s, ratio))


@given(st.lists(st.tuples(st.floats(0, 1e6), st.sampled_from([s.value for s in NodeState])), max_size=12))
def test_uptime_is_a_share_whatever_was_recorded(passages: list[tuple[float, str]]) -> None:
    found = uptime_of([Passage(*p) for p in sorted(passages)], 1e6)
    assert 0.0 <= found.ratio <= 1.0
    assert 0.0 <= found.up_for_s <= 1e6


def test_failures_by_a_limit_of_time_are_counted_as_timeouts() -> None:
    rows = [
        VerdictRow("n1", "m", Verdict.SUCCESS, "", 5, 1.0),
        VerdictRow("n1", "m", Verdict.FAILURE, "stalled", 2, 1.0),
        VerdictRow("n1", "m", Verdict.FAILURE, "engine_failed", 1, 1.0),
    ]
    view = reliability_view("n1", "m", rows, [], last_seen_at="")
    assert (view.attempts, view.failures, view.timeouts) == (8, 3, 2)
