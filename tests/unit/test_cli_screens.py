"""Every table of the command line as it looks at five widths, kept in `screens/` for people to read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sollol_agents.cli.commands import (
    accounts,
    batch_views,
    capacity,
    discover,
    doctor,
    explaining,
    jobs_views,
    keys,
    listings,
    steering,
)
from sollol_agents.cli.commands.findings import Finding, Level
from sollol_agents.cli.output import Form, on_screen
from sollol_agents.cli.table import width_of
from sollol_agents.lab.testing.messages import engine, gpu, loaded, outcome, telemetry
from sollol_agents.node.engines.probing import Probed
from sollol_bus.trust.callers import Roster
from sollol_schemas.acts import Act, Operator
from sollol_schemas.batch_progress import BatchListReply, BatchReason, BatchStage, BatchView
from sollol_schemas.decision import CandidateCost, Decision, DecisionEvent, Forecast, Rejection, RejectionReason
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import BreakerState
from sollol_schemas.execution import Figures
from sollol_schemas.feedback import FeedbackView
from sollol_schemas.jobs import JobListReply, JobState, JobStatus
from sollol_schemas.keys import ApiKey
from sollol_schemas.queries import (
    FleetStats,
    GroupStats,
    Latency,
    ModelsReply,
    ModelView,
    NodesReply,
    NodeView,
    ReliabilityReply,
    ReliabilityView,
    StatsReply,
    Usage,
    UsageBy,
    WhyReply,
)
from sollol_schemas.scaling import ScaleReply, ScaleVerdict, ScaleView, SleepersReply, SleeperView, SleepNews
from sollol_schemas.steering import BreakersReply, BreakerView, StrategyReply
from sollol_schemas.telemetry import EngineKind, NodeState

WIDTHS = (60, 80, 100, 120, 200)
COMMAND = "  sollol "
"""A line that is to be copied stays one line."""


def node(node_id: str, state: NodeState = NodeState.UP, **more: Any) -> NodeView:
    of_view = {name: more.pop(name) for name in ("attempts", "success_ratio", "has_left", "in_flight") if name in more}
    usual = {"cpu_count": 16, "cpu_load_ratio": 0.17, "ram_total_mib": 65536, "ram_available_mib": 41000}
    told = telemetry(node_id, **{**usual, "engine": engine(version="0.33.0"), "slots": 4, **more})
    return NodeView(node_id=node_id, state=state, heartbeat_age_s=0.457, telemetry=told, **of_view)


NODES = NodesReply(
    nodes=(
        node(
            "gaming-pc",
            gpus=(gpu("NVIDIA GeForce RTX 4090", 24, 11.5),),
            loaded=(loaded("llama3.1:8b"), loaded("qwen2.5-coder:32b-instruct-q4_K_M")),
            attempts=72,
            success_ratio=0.9867,
            in_flight=3,
        ),
        node(
            "den", gpus=(gpu("NVIDIA H200", 141, 120), gpu("NVIDIA H200", 141, 141)), labels={"site": "den"}, weight=2.0
        ),
        node("laptop", slots=1, attempts=3, engine=engine(version="0.33.0", is_reachable=False, detail="refused")),
        node("attic-server-behind-the-chimney", NodeState.DOWN, attempts=9, success_ratio=0.4, has_left=True),
    ),
    queued=2,
    in_flight=3,
)
ONE_NODE = NodesReply(nodes=(node("desk", slots=1, cpu_count=0, ram_total_mib=0),))
MODELS = ModelsReply(
    models=(
        ModelView(
            name="countdown:latest", size_bytes=700_000, installed_on=("desk",), family="llama", quantization="F16"
        ),
        ModelView(
            name="qwen2.5-coder:32b-instruct-q4_K_M",
            size_bytes=19_851_349_856,
            installed_on=("den", "gaming-pc", "laptop", "attic-server-behind-the-chimney"),
            loaded_on=("gaming-pc",),
            family="qwen2",
            quantization="Q4_K_M",
            context_length=32768,
            variants={"Q4_K_M 4bd6cbf2d094": ("den", "gaming-pc"), "Q8_0 f6ca27a91c25": ("laptop",)},
        ),
    )
)
BUSY = GroupStats(
    requests=1042,
    first_attempts=1017,
    successes=1001,
    failures=12,
    cancelled=29,
    success_ratio=0.98815,
    latency=Latency(count=1001, p50_s=1.84, p95_s=14.2, p99_s=95.5),
    first_token=Latency(count=1001, p50_s=0.213, p95_s=2.41),
    output_tokens=512_345,
    tokens_per_second=41.25,
)
ONLY_CANCELLED = GroupStats(requests=1, first_attempts=1, cancelled=1)
STATS = StatsReply(
    total=BUSY,
    by_mode={"fast": BUSY, "async": ONLY_CANCELLED},
    by_node={"gaming-pc": BUSY, "_none": GroupStats()},
    fleet=FleetStats(nodes_total=1, nodes_up=1, nodes_gpu=1, slots=1, in_flight=1),
)
RELIABILITY = ReliabilityReply(
    entries=(
        ReliabilityView(node_id="den", up_for_s=90_000.0, uptime_ratio=0.9991),
        ReliabilityView(
            node_id="gaming-pc",
            model="llama3.1:8b",
            attempts=120,
            successes=113,
            failures=7,
            failures_by_code={"stalled": 4, "engine_error": 2, "connection_lost": 1},
            success_ratio=0.9417,
            success_lower_bound=0.8846,
            recent_s=(1.2, 1.4, 9.9),
            dispersion=0.23,
            timeouts=4,
        ),
    )
)
CHOSEN = CandidateCost(node_id="gaming-pc", total_s=1.53, completion_s=1.41, prefill_s=0.2, decode_s=1.21, risk_s=0.12)
DECISION = DecisionEvent(
    decision=Decision(
        request_id="d955c98695e90364",
        attempt_id="d955c98695e90364-1",
        node_id="gaming-pc",
        model="llama3.1:8b",
        queue_s=0.25,
        reason="1.2 s before den; laptop would load 7 s",
        forecast=Forecast(first_token_s=0.2, total_s=1.41, prompt_tokens=512, output_tokens=219.4),
    ),
    candidates=(
        CHOSEN,
        CandidateCost(
            node_id="den",
            total_s=2.73,
            completion_s=2.6,
            wait_s=1.1,
            prefill_s=0.2,
            decode_s=1.3,
            rtt_s=0.13,
            is_busy=True,
        ),
        CandidateCost(node_id="laptop", total_s=13.25),
    ),
    rejections=(
        Rejection(node_id="attic", reason=RejectionReason.MODEL_MISSING),
        Rejection(
            node_id="barn",
            reason=RejectionReason.DOES_NOT_FIT,
            detail="it needs 21.3 GiB, and all of its memory is 7.8 GiB",
        ),
    ),
    queued=1,
)
WHY = WhyReply(
    request_id="d955c98695e90364",
    decisions=(DECISION,),
    outcomes=(
        outcome("d955c98695e90364-1", "gaming-pc", figures=Figures(actual_s=1.62), predicted_s=1.41, queue_s=0.25),
        outcome(
            "d955c98695e90364-2",
            "den",
            code=ErrorCode.STALLED,
            message="the engine sent nothing for 30 s after the 12th token; it is taken for hung",
            predicted_s=2.6,
            attempt=2,
        ),
    ),
    feedback=(FeedbackView(request_id="r", model="llama3.1:8b", category="testing", score=0.9, comment="2 of 3 run"),),
)
JOBS = JobListReply(
    jobs=(
        JobStatus(job_id="01JDK3ZC9PM8", state=JobState.QUEUED, priority=2, model="llama3.1:8b"),
        JobStatus(
            job_id="nightly-summary-of-2026-11-29", state=JobState.RUNNING, node_id="gaming-pc", tries=1, tokens=812
        ),
        JobStatus(
            job_id="01JDK3ZC9PM9",
            state=JobState.DEAD,
            model="qwen2.5-coder:32b-instruct-q4_K_M",
            tries=3,
            error=ErrorBody(
                code=ErrorCode.UNKNOWN_MODEL, message="model 'qwen2.5-coder:32b-instruct-q4_K_M' not found"
            ),
        ),
    ),
    waiting={"2": 1},
)
BREAKERS = BreakersReply(
    breakers=(
        BreakerView(node_id="gaming-pc", model="llama3.1:8b", state=BreakerState.OPEN, failures=5, opens_for_s=12.5),
        BreakerView(node_id="den", state=BreakerState.CLOSED, failures=1),
    )
)
FINDINGS = [
    Finding(check="python", level=Level.OK, found="CPython 3.11.7, sollol-bus 0.1.0, uvloop"),
    Finding(
        check="engine",
        level=Level.WARNING,
        found="nothing answers at http://127.0.0.1:11434, where an Ollama would be, and no other address is named",
        remedy="start an engine, or name the address of one: sollol node --url http://HOST:PORT",
    ),
]
REPORT = discover.Report(
    engines=(
        discover.Engine(
            engine=Probed(url="http://192.168.1.20:8080", kind=EngineKind.OPENAI, version="b4719", models=1),
            command="sollol node --id node-192-168-1-20 --url http://192.168.1.20:8080",
        ),
    ),
    others=(),
)
BATCH = BatchView(
    batch_id="3f2a91bc0d4e5f60718293a4",
    stage=BatchStage.RUNNING,
    total=200,
    submitted=180,
    done=96,
    failed=4,
    running=8,
    waiting=72,
    tokens=25_410,
    work_s=612.4,
    by_node={"den": 36, "gaming-pc": 60},
    reasons=(
        BatchReason(code="engine_rejected", message="the prompt is longer than the context of 4096 tokens", count=3),
        BatchReason(code="unknown_model", message="no node has nonesuch", count=1),
    ),
    requests="/home/ada/work/questions-of-november.jsonl",
    answers="/home/ada/work/answers-of-november.jsonl",
    host="den",
    rate_per_s=4.1,
    left_s=24.4,
)
BATCHES = BatchListReply(
    batches=(
        BATCH,
        BatchView(batch_id="batch_5d1e0a77c2", stage=BatchStage.DONE, total=31_000, done=31_000, is_of_gateway=True),
        BatchView(
            batch_id="alice=a7b2-3f2a91bc0d4e5f60718293a4", stage=BatchStage.STOPPED, total=9, submitted=2, done=2
        ),
    )
)
ENDING = batch_views.Ending(view=BATCH, answers="answers.jsonl", written=12, earlier=13, earlier_at="", took_s=62.0)
SPENT = (Usage(node="rent", requests=3, slot_s=3.0, expenses={"EUR": 1.5}, unpriced_s=1.0, energy_j=8e4),)
USED = (
    Usage(
        team="research",
        caller="laptop",
        day="2026-11-29",
        requests=1042,
        failed=12,
        prompt_tokens=1_250_331,
        output_tokens=512_345,
        slot_s=12_345.6,
    ),
    Usage(team="everybody-else-in-the-house", caller="key-3f9a77c1", title="home automation", requests=1, slot_s=0.4),
)
ACTS = (
    Act(
        act="fleet.limit",
        by=Operator(who="control", host="gaming-pc", address="192.168.1.20"),
        target="laptop",
        details={"per_minute": "60", "team": "research"},
        at="2026-11-29T23:05:12.123456Z",
    ),
    Act(
        act="node.drain",
        by=Operator(who="control"),
        target="attic-server-behind-the-chimney",
        at="2026-11-29T09:00:00Z",
    ),
)
KEYS = (
    ApiKey(key_id="3f9a77c1", name="home automation", secret_sha256="0" * 64, created_at="2026-11-29T23:05:12Z"),
    ApiKey(key_id="77c13f9a", name="me", secret_sha256="1" * 64, created_at="2026-11-29T23:05:12Z", is_admin=True),
)
SCALE = ScaleReply(
    models=(
        ScaleView(
            model="llama3.1:8b",
            verdict=ScaleVerdict.TOO_FEW,
            slots=4,
            asleep_slots=4,
            busy_slots=6.5,
            waiting=3,
            waiting_s=41.2,
            saved_s=12.5,
        ),
        ScaleView(model="qwen2.5-coder:14b-instruct-q4_K_M", verdict=ScaleVerdict.TOO_MANY, slots=12, idle_s=4520.0),
        ScaleView(model="nomic-embed-text:latest", slots=4, busy_slots=0.2),
    )
)
SLEEPERS = SleepersReply(
    sleepers=(
        SleeperView(node_id="attic", news=SleepNews.ASLEEP, for_s=7200.0, wake_s=112.0, reason="nobody needs it"),
        SleeperView(
            node_id="gaming-pc",
            news=SleepNews.FAILED,
            for_s=12.0,
            wake_s=64.5,
            failures=2,
            retry_in_s=108.0,
            reason="woken 194 s ago, and did not come",
        ),
    )
)
SCREENS: dict[str, Callable[[], None]] = {
    "nodes": partial(listings.show_nodes, NODES),
    "nodes_one": partial(listings.show_nodes, ONE_NODE),
    "models": partial(listings.show_models, MODELS),
    "stats": partial(listings.show_stats, STATS),
    "reliability": partial(listings.show_reliability, RELIABILITY),
    "why": partial(explaining.show_why, WHY),
    "jobs": partial(jobs_views.show_jobs, JOBS),
    "job": partial(jobs_views.show_status, JOBS.jobs[2]),
    "batches": partial(batch_views.show_batches, BATCHES),
    "batch": partial(batch_views.show_batch, BATCH, "laptop"),
    "batch_summary": partial(batch_views.show_summary, ENDING),
    "usage": partial(accounts.show_usage, accounts.usage_rows(USED, (UsageBy.CALLER,))),
    "usage_costs": partial(accounts.show_usage, accounts.usage_rows(SPENT, (UsageBy.NODE,))),
    "usage_by_day": partial(accounts.show_usage, accounts.usage_rows(USED[:1], (UsageBy.TEAM, UsageBy.DAY))),
    "audit": partial(accounts.show_acts, accounts.act_rows(ACTS)),
    "keys": partial(keys.show_keys, KEYS, Roster()),
    "scale": partial(capacity.show_scale, SCALE),
    "sleepers": partial(capacity.show_sleepers, SLEEPERS),
    "breakers": partial(steering.show_breakers, BREAKERS),
    "strategy": partial(
        steering.show_strategy, StrategyReply(strategy="plan", settings={"hold": 0.3}, available=("plan",))
    ),
    "discover": partial(discover.show, REPORT, 1),
    "doctor": partial(doctor.show_findings, FINDINGS),
}


def drawn(show: Callable[[], None], width: int | None, capsys: pytest.CaptureFixture[str]) -> str:
    with on_screen(Form.TABLE if width else Form.WIDE, width):
        show()
    return capsys.readouterr().out


@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_looks_as_it_was_kept(
    name: str, capsys: pytest.CaptureFixture[str], assert_kept: Callable[[str, str], None]
) -> None:
    parts = [f"{f' {width} ':=^{width}}\n{drawn(SCREENS[name], width, capsys)}" for width in WIDTHS]
    assert_kept(name, "\n".join([*parts, f"{' -o wide ':=^60}\n{drawn(SCREENS[name], None, capsys)}"]))


@pytest.mark.parametrize("width", [30, *range(40, 201, 8)])
@pytest.mark.parametrize("name", SCREENS)
def test_no_line_is_longer_than_the_terminal(name: str, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert [
        line
        for line in drawn(SCREENS[name], width, capsys).splitlines()
        if width_of(line) > width and not line.startswith(COMMAND)
    ] == []


@pytest.mark.parametrize(
    ("show", "command"),
    [
        pytest.param(partial(listings.show_nodes, NodesReply(nodes=())), "sollol node", id="nodes"),
        pytest.param(partial(listings.show_models, ModelsReply(models=())), "sollol pull", id="models"),
        pytest.param(
            partial(listings.show_reliability, ReliabilityReply(entries=())), "sollol generate", id="reliability"
        ),
        pytest.param(partial(jobs_views.show_jobs, JobListReply(jobs=())), "sollol jobs submit", id="jobs"),
        pytest.param(partial(batch_views.show_batches, BatchListReply()), "sollol batch run", id="batches"),
        pytest.param(partial(keys.show_keys, (), Roster()), "sollol keys create", id="keys"),
    ],
)
def test_a_table_without_rows_says_how_to_get_the_first(
    show: Callable[[], None], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show()
    assert f"`{command}" in capsys.readouterr().err
