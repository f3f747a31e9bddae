"""Everything that a page about the fleet shows, at once: `/api/dashboard`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from sollol_agents.fleet_view.alerts import Alert, AlertLevel, alerts
from sollol_schemas.queries import CategoryStats, GroupStats, NodesReply, NodeView, Pattern, StatsReply
from sollol_schemas.telemetry import NodeState

_MIB_PER_GIB: Final = 1024.0
_UNKNOWN: Final = "unknown"
"""The category of what was recorded before categories were."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How the system is."""

    healthy: bool
    """A node is up, and nothing is critical."""
    available_hosts: int
    total_hosts: int
    queued: int
    in_flight: int
    strategy: str


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """How well it works, in what is kept or within the window that was asked for."""

    total_requests: int
    success_rate: float
    avg_latency_ms: float
    p50_latency_ms: float
    p95_latency_ms: float
    p99_latency_ms: float
    tokens_per_second: float


class Learnt(msgspec.Struct, frozen=True, kw_only=True):
    """What routing has learnt."""

    task_types_learned: tuple[str, ...]
    task_distribution: dict[str, CategoryStats]
    patterns_available: int
    patterns: tuple[Pattern, ...]
    baselines: int
    """Pairs of model and node whose speeds were measured."""


class HostHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One node, as far as its health goes."""

    node_id: str
    host: str
    status: str
    """up, suspect, down, draining, left, or `no engine`."""
    available: bool
    success_rate: float
    pace_ratio: float
    requests: int
    failures: int
    avg_latency_ms: float
    in_flight: int
    slots: int
    vram_total_gb: float
    vram_free_gb: float
    models_loaded: tuple[str, ...]
    alerts: tuple[str, ...]


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What `/api/dashboard` answers: a summary first, then what it is made of."""

    status: Status
    performance: Performance
    routing_intelligence: Learnt
    hosts: tuple[HostHealth, ...]
    alerts: tuple[Alert, ...]
    nodes: NodesReply
    stats: StatsReply


def overview(nodes: NodesReply, stats: StatsReply) -> Overview:
    """The summary of a fleet and of what was recorded of it."""
    found = alerts(nodes.nodes)
    return Overview(
        status=_status(nodes, found),
        performance=_performance(stats.total),
        routing_intelligence=Learnt(
            task_types_learned=tuple(name for name in stats.categories if name != _UNKNOWN),
            task_distribution=stats.categories,
            patterns_available=len(stats.patterns),
            patterns=stats.patterns,
            baselines=len(stats.baselines),
        ),
        hosts=tuple(_host(view, stats.by_node.get(view.node_id, GroupStats()), found) for view in nodes.nodes),
        alerts=found,
        nodes=nodes,
        stats=stats,
    )


def _is_available(view: NodeView) -> bool:
    return view.state is NodeState.UP and view.telemetry.engine.is_reachable


def _status(nodes: NodesReply, found: Sequence[Alert]) -> Status:
    available = sum(map(_is_available, nodes.nodes))
    return Status(
        healthy=available > 0 and all(alert.level is not AlertLevel.CRITICAL for alert in found),
        available_hosts=available,
        total_hosts=sum(not view.has_left for view in nodes.nodes),
        queued=nodes.queued,
        in_flight=nodes.in_flight,
        strategy=nodes.strategy,
    )


def _performance(total: GroupStats) -> Performance:
    latency = total.latency
    return Performance(
        total_requests=total.first_attempts,
        success_rate=total.success_ratio,
        avg_latency_ms=_ms(latency.mean_s),
        p50_latency_ms=_ms(latency.p50_s),
        p95_latency_ms=_ms(latency.p95_s),
        p99_latency_ms=_ms(latency.p99_s),
        tokens_per_second=round(total.tokens_per_second, 2),
    )


def _host(view: NodeView, done: GroupStats, found: Sequence[Alert]) -> HostHealth:
    told = view.telemetry
    return HostHealth(
        node_id=view.node_id,
        host=told.host,
        status=view.condition,
        available=_is_available(view),
        success_rate=view.success_ratio,
        pace_ratio=view.pace_ratio,
        requests=done.requests,
        failures=done.failures,
        avg_latency_ms=_ms(done.latency.mean_s),
        in_flight=view.in_flight,
        slots=told.slots,
        vram_total_gb=round(sum(gpu.memory_total_mib for gpu in told.gpus) / _MIB_PER_GIB, 2),
        vram_free_gb=round(sum(gpu.memory_free_mib for gpu in told.gpus) / _MIB_PER_GIB, 2),
        models_loaded=tuple(model.name for model in told.loaded),
        alerts=tuple(alert.text for alert in found if alert.node_id == view.node_id),
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000.0, 3)
