"""Statistics over recorded outcomes: pure functions of rows that were read.

Reliability is told with the lower end of the 95 % Wilson score interval, which is 0 without history and stays
honest for few attempts, where a plain ratio says 100 % after one success (Wilson 1927; Brown, Cai and DasGupta 2001).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from sollol_agents.recorder.rows import Verdict
from sollol_agents.recorder.uptime import Uptime
from sollol_schemas.errors import ErrorCode
from sollol_schemas.instants import instant
from sollol_schemas.queries import (
    Baseline,
    CategoryStats,
    FleetStats,
    GroupStats,
    HostHour,
    Latency,
    NodesReply,
    Pattern,
    ReliabilityView,
    StatsReply,
)
from sollol_schemas.telemetry import NodeState

_Z_95 = 1.959964
_TIMEOUTS = (ErrorCode.STALLED, ErrorCode.DEADLINE_EXCEEDED)
_NO_CATEGORY = "unknown"
_CATEGORIES_MAX = 64
_PATTERNS_MAX = 64
_BASELINES_MAX = 256
HOUR_S = 3600
HOURS_MAX = 512
"""Hours of nodes that are told at most."""
RECENT_MAX = 100
"""Attempts per node and model whose times are told."""


class CountRow(NamedTuple):
    """How many outcomes of one kind there are in one mode on one node."""

    mode: str
    node_id: str
    verdict: str
    outcomes: int
    output_tokens: int
    decode_s: float
    firsts: int = 0
    """Those that were the first attempt of their request."""


class LatencyRow(NamedTuple):
    """How long one success took from arrival to the complete answer, and to its first token where that is known."""

    mode: str
    node_id: str
    latency_s: float
    first_token_s: float | None = None


class VerdictRow(NamedTuple):
    """How many outcomes of one kind a model has on one node, and when the last one came."""

    node_id: str
    model: str
    verdict: str
    code: str
    outcomes: int
    last_at: float


class TimeRow(NamedTuple):
    """Actual and predicted seconds of one success."""

    actual_s: float
    predicted_s: float


def wilson_lower_bound(successes: int, attempts: int, z: float = _Z_95) -> float:
    """Lower end of the Wilson score interval of a success ratio; 0 to 1, and 0 without attempts."""
    assert 0 <= successes <= attempts
    if attempts == 0:
        return 0.0
    p = successes / attempts
    z2 = z * z
    centre = p + z2 / (2 * attempts)
    spread = z * math.sqrt(p * (1 - p) / attempts + z2 / (4 * attempts * attempts))
    return min(p, max(0.0, (centre - spread) / (1 + z2 / attempts)))  # rounding may leave 1e-18 either way


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of an ascending sequence lies, interpolated; 0 when it is empty."""
    assert 0 <= share <= 1
    if not ordered:
        return 0.0
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def latency_of(values: Iterable[float]) -> Latency:
    """Percentiles of some durations in seconds."""
    ordered = sorted(values)
    if not ordered:
        return Latency()
    return Latency(
        count=len(ordered),
        mean_s=math.fsum(ordered) / len(ordered),
        p50_s=percentile(ordered, 0.50),
        p95_s=percentile(ordered, 0.95),
        p99_s=percentile(ordered, 0.99),
    )


def dispersion(times: Sequence[TimeRow]) -> float | None:
    """Standard deviation of actual divided by predicted time; None with fewer than two usable pairs."""
    ratios = [t.actual_s / t.predicted_s for t in times if t.predicted_s > 0 and math.isfinite(t.actual_s)]
    if len(ratios) < 2:
        return None
    mean = math.fsum(ratios) / len(ratios)
    return math.sqrt(math.fsum((r - mean) ** 2 for r in ratios) / (len(ratios) - 1))


def stats_reply(
    counts: Sequence[CountRow], latencies: Sequence[LatencyRow], *, fleet: FleetStats | None, window_s: float
) -> StatsReply:
    """Statistics of everything, of each mode and of each node."""
    by_mode: dict[str, list[CountRow]] = defaultdict(list)
    by_node: dict[str, list[CountRow]] = defaultdict(list)
    mode_times: dict[str, list[LatencyRow]] = defaultdict(list)
    node_times: dict[str, list[LatencyRow]] = defaultdict(list)
    for row in counts:
        by_mode[row.mode].append(row)
        by_node[row.node_id].append(row)
    for time in latencies:
        mode_times[time.mode].append(time)
        node_times[time.node_id].append(time)
    return StatsReply(
        total=group_stats(counts, latencies),
        by_mode={mode: group_stats(rows, mode_times[mode]) for mode, rows in by_mode.items()},
        by_node={node_id: group_stats(rows, node_times[node_id]) for node_id, rows in by_node.items()},
        fleet=fleet,
        window_s=window_s,
    )


def group_stats(counts: Iterable[CountRow], latencies: Sequence[LatencyRow]) -> GroupStats:
    """Statistics of one group of attempts; refusals that cost nobody anything are left out."""
    by_verdict: dict[str, int] = defaultdict(int)
    output_tokens, decode_s, firsts = 0, 0.0, 0
    for row in counts:
        firsts += row.firsts
        by_verdict[row.verdict] += row.outcomes
        output_tokens += row.output_tokens
        decode_s += row.decode_s
    successes, failures = by_verdict[Verdict.SUCCESS], by_verdict[Verdict.FAILURE]
    cancelled, client_errors = by_verdict[Verdict.CANCELLED], by_verdict[Verdict.CLIENT_ERROR]
    return GroupStats(
        first_attempts=firsts,
        requests=successes + failures + cancelled + client_errors,
        successes=successes,
        failures=failures,
        cancelled=cancelled,
        client_errors=client_errors,
        success_ratio=_ratio(successes, successes + failures),
        latency=latency_of(row.latency_s for row in latencies),
        first_token=latency_of(row.first_token_s for row in latencies if row.first_token_s is not None),
        output_tokens=output_tokens,
        tokens_per_second=output_tokens / decode_s if decode_s > 0 else 0.0,
    )


def reliability_view(
    node_id: str,
    model: str,
    rows: Iterable[VerdictRow],
    times: Sequence[TimeRow],
    *,
    last_seen_at: str,
    uptime: Uptime | None = None,
) -> ReliabilityView:
    """The record of a node, or of a model on it; `times` come newest last."""
    successes, failures = 0, 0
    by_code: dict[str, int] = defaultdict(int)
    for row in rows:
        if row.verdict == Verdict.SUCCESS:
            successes += row.outcomes
        elif row.verdict == Verdict.FAILURE:
            failures += row.outcomes
            by_code[row.code or "unknown"] += row.outcomes
    attempts = successes + failures
    return ReliabilityView(
        node_id=node_id,
        model=model,
        attempts=attempts,
        successes=successes,
        failures=failures,
        failures_by_code=dict(by_code),
        success_ratio=_ratio(successes, attempts),
        success_lower_bound=wilson_lower_bound(successes, attempts),
        recent_s=tuple(round(t.actual_s, 4) for t in times[-RECENT_MAX:]),
        dispersion=dispersion(times),
        last_seen_at=last_seen_at,
        timeouts=sum(by_code[code] for code in _TIMEOUTS if code in by_code),
        up_for_s=round(uptime.up_for_s, 3) if uptime is not None else None,
        uptime_ratio=round(uptime.ratio, 9) if uptime is not None else None,
    )


def fleet_stats(nodes: NodesReply) -> FleetStats:
    """The fleet now, counted from the scorer's view."""
    live = [view for view in nodes.nodes if view.state is not NodeState.DOWN]
    return FleetStats(
        nodes_total=sum(not view.has_left for view in nodes.nodes),
        nodes_up=sum(view.condition == "up" for view in live),
        nodes_gpu=sum(view.telemetry.has_gpu for view in live),
        nodes_cpu=sum(not view.telemetry.has_gpu for view in live),
        slots=sum(view.telemetry.slots for view in live),
        in_flight=nodes.in_flight,
        queued=nodes.queued,
    )


class PatternRow(NamedTuple):
    """How many of the latest attempts were of one category and model on one node, and how long successes took."""

    category: str
    model: str
    node_id: str
    requests: int
    successes: int
    seconds: float


class HourRow(NamedTuple):
    """What a node did in one hour, counted from 1970."""

    node_id: str
    hour: int
    requests: int
    failures: int
    mean_s: float | None


def with_patterns(
    reply: StatsReply, rows: Sequence[PatternRow], hours: Iterable[HourRow], nodes: NodesReply | None
) -> StatsReply:
    """The statistics with what was learnt: where which work goes, and what nodes are held against."""
    by_category: dict[str, list[PatternRow]] = defaultdict(list)
    for row in rows:
        by_category[row.category or _NO_CATEGORY].append(row)
    total = sum(row.requests for row in rows)
    categories = {name: _category(members, total) for name, members in by_category.items()}
    frequent = sorted(rows, key=lambda row: (-row.requests, row.category, row.model, row.node_id))[:_PATTERNS_MAX]
    views = nodes.nodes if nodes is not None else ()
    return msgspec.structs.replace(
        reply,
        categories=dict(sorted(categories.items(), key=lambda item: -item[1].requests)[:_CATEGORIES_MAX]),
        patterns=tuple(map(_pattern, frequent)),
        baselines=tuple(
            Baseline(
                node_id=view.node_id,
                model=speed.model,
                prompt_tps=speed.prompt_tps,
                decode_tps=speed.decode_tps,
                load_s=speed.load_s,
                samples=speed.samples,
            )
            for view in views
            if view.state is not NodeState.DOWN
            for speed in view.telemetry.speeds
        )[:_BASELINES_MAX],
        history=tuple(
            HostHour(
                node_id=row.node_id,
                begins_at=instant(row.hour * HOUR_S),
                requests=row.requests,
                failures=row.failures,
                mean_s=row.mean_s or 0.0,
            )
            for row in hours
        ),
    )


def _category(rows: Sequence[PatternRow], total: int) -> CategoryStats:
    requests, successes = sum(row.requests for row in rows), sum(row.successes for row in rows)
    return CategoryStats(
        requests=requests,
        share_ratio=_ratio(requests, total),
        successes=successes,
        mean_s=math.fsum(row.seconds for row in rows) / successes if successes else 0.0,
    )


def _pattern(row: PatternRow) -> Pattern:
    mean_s = row.seconds / row.successes if row.successes else 0.0
    return Pattern(
        category=row.category or _NO_CATEGORY,
        model=row.model,
        node_id=row.node_id,
        requests=row.requests,
        successes=row.successes,
        mean_s=mean_s,
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
