"""Every event of the bus is one line, and can be told by its node and its request."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sollol_agents.cli.commands.event_lines import Event, concerns, line_of_event
from sollol_agents.lab.testing.messages import decision, outcome
from sollol_schemas.continuation import Cut, CutReason
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import (
    BreakerEvent,
    BreakerState,
    NodeEvent,
    OfficeEvent,
    PreloadEvent,
    ReportedBy,
)
from sollol_schemas.execution import Figures
from sollol_schemas.jobs import JobEvent, JobNews, JobState
from sollol_schemas.steering import StrategyEvent
from sollol_schemas.telemetry import NodeState

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SUMMARY = decision("req-1-1", "attic", model="llama3.2", queue_s=0.25, reason="the least cost", predicted_s=1.5)
DECISION = DecisionEvent(decision=SUMMARY)
FIGURES = Figures(actual_s=2.0, output_tokens=7)
SUCCESS = outcome("req-1-1", "attic", figures=FIGURES, model="llama3.2", predicted_s=1.5)
UNSERVED = outcome("req-2-0", "_none", code=ErrorCode.QUEUE_FULL, by=ReportedBy.DISPATCHER, message="too many wait")
NODE = NodeEvent(node_id="attic", state=NodeState.DOWN, previous=NodeState.UP, reason="no heartbeat for 5 s")
CUT = Cut(
    request_id="req-1",
    attempt_id="req-1-1",
    node_id="attic",
    reason=CutReason.REBALANCE,
    to="cellar",
    text="moved to cellar: 41 s left here, 12 s there, saves 29 s",
)
JOB = JobEvent(
    job_id="req-1",
    news=JobNews.RETRYING,
    state=JobState.QUEUED,
    tries=2,
    node_id="cellar",
    error=ErrorBody(code=ErrorCode.STALLED, message="the engine stalled"),
)


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (DECISION, "[fast] req-1 llama3.2 runs on attic, waited 250 ms, predicted 1.50 s: the least cost"),
        (SUCCESS, "[fast] req-1 llama3.2 success on attic after 2.00 s, predicted 1.50 s, 7 tokens"),
        (
            DecisionEvent(decision=decision("req-1-11", "cellar", model="llama3.2", continued_tokens=1, reason="free")),
            "[fast] req-1 llama3.2 runs on cellar, resumed after 1 token, waited 0 ms, predicted 0 ms: free",
        ),
        (
            outcome("req-1-1", "attic", code=ErrorCode.MOVED, message="attic drains", model="llama3.2"),
            "[fast] req-1 llama3.2 moved on attic: attic drains",
        ),
        (UNSERVED, "[fast] req-2  failed: queue_full too many wait"),
        (NODE, "node attic is down (was up) no heartbeat for 5 s"),
        (
            PreloadEvent(node_id="attic", model="m", reason="asked for often", took_s=2.5),
            "node attic: m was loaded in 2.50 s (asked for often)",
        ),
        (
            PreloadEvent(node_id="attic", model="m", reason="asked for often", error="no room"),
            "node attic: m was not loaded: no room (asked for often)",
        ),
        (BreakerEvent(node_id="attic", state=BreakerState.HALF_OPEN), "breaker of attic is half-open"),
        (
            BreakerEvent(node_id="attic", model="m", state=BreakerState.OPEN, reason="5 failures"),
            "breaker of m on attic is open 5 failures",
        ),
        (
            OfficeEvent(instance="abc", term=7, is_leader=True, reason="took office"),
            "scorer abc took office, term 7: took office",
        ),
        (
            StrategyEvent(strategy="random", previous="plan", settings={"theta_ratio": 0.5}),
            "strategy is random (was plan), theta_ratio = 0.5",
        ),
        (CUT, "req-1 leaves attic: moved to cellar: 41 s left here, 12 s there, saves 29 s"),
        (JOB, "job req-1 retrying, priority 5, on cellar, try 2: stalled the engine stalled"),
    ],
    ids=[
        "decision",
        "success",
        "resumed",
        "moved",
        "unserved",
        "node",
        "preload",
        "failed preload",
        "breaker",
        "model breaker",
        "office",
        "strategy",
        "cut",
        "job",
    ],
)
def test_an_event_is_one_line(event: Event, told: str) -> None:
    assert line_of_event(event, AT) == f"03:04:05 {told}"


@pytest.mark.parametrize(
    ("event", "node_id", "request_id", "is_meant"),
    [
        (DECISION, "", "", True),
        (DECISION, "attic", "req-1", True),
        (DECISION, "cellar", "", False),
        (SUCCESS, "attic", "req-2", False),
        (NODE, "attic", "", True),
        (NODE, "", "req-1", False),
        (JOB, "", "req-1", True),
        (CUT, "attic", "req-1", True),
        (OfficeEvent(instance="abc", term=7, is_leader=True), "attic", "", False),
    ],
)
def test_only_what_concerns_a_node_or_a_request_is_shown(
    event: Event, node_id: str, request_id: str, is_meant: bool
) -> None:
    assert concerns(event, node_id=node_id, request_id=request_id) is is_meant
