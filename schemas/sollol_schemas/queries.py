"""Answers to questions about nodes, models, statistics, reliability and single decisions."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from sollol_schemas.continuation import Cut
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.events import NodeEvent, Outcome
from sollol_schemas.feedback import FeedbackView
from sollol_schemas.telemetry import NodeState, Telemetry
from sollol_schemas.units import (
    BusId,
    Bytes,
    Count,
    Instant,
    Joules,
    Money,
    NodeName,
    Priority,
    Ratio,
    Seconds,
    SignedSeconds,
    Term,
    TokensPerSecond,
)


class NodeView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node as the scorer sees it."""

    node_id: BusId
    state: NodeState
    heartbeat_age_s: Seconds
    telemetry: Telemetry
    in_flight: Count = 0
    """Attempts granted or running, by the scorer's own count."""
    success_ratio: Ratio = 1.0
    attempts: Count = 0
    """Attempts that the ratio rests on, old ones counted for less; 0: it is a guess."""
    serialised: dict[str, Count] = {}
    """Models of which the engine runs fewer requests at a time than its slots promise, with how many."""
    has_left: bool = False
    """It is down because it ended in order, not because it is missing."""
    is_asleep: bool = False
    """It is down because it sleeps, and can be woken."""
    wake_s: Seconds = 0.0
    """How long waking it would take, or still takes; 0 while it is awake."""
    is_waking: bool = False
    """It is being woken."""
    pace_ratio: Annotated[float, Meta(ge=0, le=2)] = 1.0
    """How fast its streams run now, held against what was learnt of it; 1: as usual."""
    clock_ahead_s: SignedSeconds = 0.0
    """How far its machine's clock is ahead of the NATS server's; 0 while that is less than 2 s, or not known."""

    @property
    def condition(self) -> str:
        """What a person would call its state: a node without its engine is of no use, however well it is."""
        if self.is_asleep:
            return "waking" if self.is_waking else "asleep"
        if self.has_left:
            return "left"
        if self.state is NodeState.UP and not self.telemetry.engine.is_reachable:
            return "no engine"
        return self.state.value


class NodesRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask for the fleet, for its queue alone, or for one node."""

    is_queue_only: bool = False
    """Without the nodes, which makes a short answer in a large fleet."""
    node: NodeName | None = None
    """The one node that is called so; an error says when none is, or several are."""


class WaitingShare(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Requests of one model and priority that wait for a slot."""

    model: str
    priority: Priority
    count: Count
    oldest_s: Seconds
    """How long the first of them has waited."""
    is_jobs: bool = False
    """Whether they are durable jobs."""


class NodesReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="nodes.v1"):
    """The fleet as the scorer in office sees it."""

    nodes: tuple[NodeView, ...]
    queued: Count = 0
    waiting: tuple[WaitingShare, ...] = ()
    """What waits, the most first; at most 32 kinds."""
    in_flight: Count = 0
    term: Term = 0
    scorer: str = ""
    strategy: str = "plan"

    def without_addresses(self) -> NodesReply:
        """The same, but for where engines listen."""
        nodes = []
        for node in self.nodes:
            engine = msgspec.structs.replace(node.telemetry.engine, url="")
            telemetry = msgspec.structs.replace(node.telemetry, engine=engine, addresses=())
            nodes.append(msgspec.structs.replace(node, telemetry=telemetry))
        return msgspec.structs.replace(self, nodes=tuple(nodes))


class ModelView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model of the fleet."""

    name: str
    size_bytes: Bytes = 0
    installed_on: tuple[str, ...] = ()
    loaded_on: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    family: str = ""
    quantization: str = ""
    context_length: Count = 0
    variants: dict[str, tuple[str, ...]] = {}
    """Nodes by what they have under this name (quantization and digest); empty where all have the same."""
    members: tuple[str, ...] = ()
    """Of a group: those of its models that are there; empty for a model."""


class ModelsReply(msgspec.Struct, frozen=True, kw_only=True, tag="models.v1"):
    """Every model that a node of the fleet has, and behind them every group of which a model is there."""

    models: tuple[ModelView, ...]


class Latency(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Percentiles of a time from arrival on, in seconds: to the complete answer unless it is said otherwise."""

    count: Count = 0
    mean_s: Seconds = 0.0
    p50_s: Seconds = 0.0
    p95_s: Seconds = 0.0
    p99_s: Seconds = 0.0


class GroupStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Statistics of one group of attempts (a mode, a node, or everything)."""

    requests: Count = 0
    """Attempts that counted for something: those of one request count each."""
    first_attempts: Count = 0
    """Requests, however many attempts each took: those whose first attempt is in this group."""
    successes: Count = 0
    failures: Count = 0
    cancelled: Count = 0
    client_errors: Count = 0
    success_ratio: Ratio = 1.0
    latency: Latency = Latency()
    first_token: Latency = Latency()
    """The same of the time from arrival to the first token, where it is known."""
    output_tokens: Count = 0
    tokens_per_second: TokensPerSecond = 0.0


class FleetStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fleet now."""

    nodes_total: Count = 0
    nodes_up: Count = 0
    nodes_gpu: Count = 0
    nodes_cpu: Count = 0
    slots: Count = 0
    in_flight: Count = 0
    queued: Count = 0


class StatsRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which statistics are wanted."""

    window_s: Seconds = 0.0
    """Only what finished within so many seconds; 0: everything kept."""
    with_patterns: bool = False
    """Also what was learnt: categories, patterns, baselines, and each node's last day."""


class CategoryStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Attempts of one category of work."""

    requests: Count = 0
    share_ratio: Ratio = 0.0
    """Of all attempts that were looked at."""
    successes: Count = 0
    mean_s: Seconds = 0.0
    """From arrival to the complete answer, of successes."""


class Pattern(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where work of one category and model goes."""

    category: str
    model: str
    node_id: BusId
    requests: Count = 0
    successes: Count = 0
    mean_s: Seconds = 0.0


class Baseline(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was measured of a model on a node, alone in its slot: what it is held against."""

    node_id: BusId
    model: str
    prompt_tps: TokensPerSecond = 0.0
    decode_tps: TokensPerSecond = 0.0
    load_s: Seconds = 0.0
    samples: Count = 0


class HostHour(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One hour of a node."""

    node_id: BusId
    begins_at: Instant
    requests: Count = 0
    failures: Count = 0
    mean_s: Seconds = 0.0


class StatsReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="stats.v1"):
    """Statistics of the cluster, from the recorder's database and the scorer's memory."""

    total: GroupStats
    by_mode: dict[str, GroupStats] = {}
    by_node: dict[str, GroupStats] = {}
    fleet: FleetStats | None = None
    """None when no scorer is in office."""
    window_s: Seconds = 0.0
    categories: dict[str, CategoryStats] = {}
    """Of the latest attempts, by category of their work: a task type, or a kind of coding."""
    patterns: tuple[Pattern, ...] = ()
    """Of the same attempts, the most frequent first."""
    baselines: tuple[Baseline, ...] = ()
    """Of the nodes that are here."""
    history: tuple[HostHour, ...] = ()
    """Hours of the last day in which a node did something, the latest first."""


class ReliabilityRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whose reliability is wanted; empty: everybody's."""

    node_id: str = ""
    model: str = ""


class ReliabilityView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of one node, or of one model on one node."""

    node_id: str
    model: str = ""
    """Empty: all models of the node."""
    attempts: Count = 0
    successes: Count = 0
    failures: Count = 0
    failures_by_code: dict[str, int] = {}
    success_ratio: Ratio = 1.0
    success_lower_bound: Ratio = 0.0
    """Lower end of the 95 % Wilson interval of the success ratio."""
    recent_s: tuple[float, ...] = ()
    """Actual seconds of the last attempts, newest last, at most 100."""
    dispersion: float | None = None
    """Standard deviation of actual divided by predicted time."""
    timeouts: Count = 0
    """Failures that were a limit of time running out: before the first token, between tokens, or the deadline."""
    up_for_s: Seconds | None = None
    """How long the node has been there without being down, as far back as events are kept; 0 while it is down."""
    uptime_ratio: Ratio | None = None
    """Share of the time since the node was first seen in which it was not down. None for a model."""
    last_seen_at: Instant = ""


class ReliabilityReply(msgspec.Struct, frozen=True, kw_only=True, tag="reliability.v1"):
    """Reliability per node and per (node, model)."""

    entries: tuple[ReliabilityView, ...]


class WhyReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="why.v1"):
    """Everything recorded about one request: its decisions with candidates, and its attempts' outcomes."""

    request_id: str
    decisions: tuple[DecisionEvent, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    cuts: tuple[Cut, ...] = ()
    """How its answer was moved in its middle, oldest first."""
    gave_way: tuple[Cut, ...] = ()
    """How answers to other requests were moved so that it got their slot, oldest first."""
    feedback: tuple[FeedbackView, ...] = ()
    """What was said of the answer: of a job's, of each try that was rated."""


class UsageBy(StrEnum):
    """What usage is told by."""

    TEAM = "team"
    CALLER = "caller"  # and its team
    MODEL = "model"
    DAY = "day"  # in UTC
    NODE = "node"  # a request that ran on two counts on each


class UsageRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much was used, since when, and what it is told by."""

    since_s: Seconds = 0.0
    """Only what ended within so many seconds; 0: everything kept."""
    by: tuple[UsageBy, ...] = (UsageBy.CALLER,)


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was used. Tries of a job count as one request, and so do attempts of one."""

    team: str = ""
    caller: str = ""
    """Its name, or its opaque word where nobody knows the name; empty: whoever asked without one, or all of them."""
    title: str = ""
    """What people call the caller: the name of its API key."""
    model: str = ""
    day: str = ""
    requests: Count = 0
    failed: Count = 0
    """Requests that nothing served, and that nobody cancelled."""
    prompt_tokens: Count = 0
    output_tokens: Count = 0
    slot_s: Seconds = 0.0
    """Seconds in which a slot of a node was taken."""
    node: str = ""
    energy_j: Joules = 0.0
    """What it took of the energy that nodes drew, as far as that is known."""
    expenses: dict[str, Money] = {}
    """What it cost, by currency, as far as that is known."""
    unpriced_s: Seconds = 0.0
    """Seconds of slots of which nobody knows what they cost."""
    unmetered_s: Seconds = 0.0
    """Seconds of slots of which nobody knows what they drew."""


class UsageReply(msgspec.Struct, frozen=True, kw_only=True, tag="usage.v1"):
    """What was used, as far as outcomes are kept."""

    entries: tuple[Usage, ...]


class RecentRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many of the latest outcomes are wanted."""

    limit: Count = 50
    per_model: Count = 0
    """At most so many of each model on each node, so that the busy ones do not crowd out the rest; 0: no such limit."""


class RecentReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="recent.v1"):
    """The latest outcomes and node events, newest first."""

    outcomes: tuple[Outcome, ...] = ()
    node_events: tuple[NodeEvent, ...] = ()
