"""Nodes and the cluster in the flat shapes of the documents. Pure."""

from __future__ import annotations

import statistics
from typing import Final

from sollol_bus.compat.results import Result, host_of
from sollol_schemas.queries import NodesReply, NodeView, StatsReply
from sollol_schemas.telemetry import NodeState

_MIB_PER_GIB: Final = 1024.0


def is_healthy(view: NodeView) -> bool:
    """Whether a node takes work and its engine answers."""
    return view.state is NodeState.UP and view.telemetry.engine.is_reachable


def meets_floor(reply: NodesReply, floor: float | None) -> bool:
    """Whether no node that is there has failed more often than that, so that a floor leaves out nobody.

    In the documents a node counts as good until it fails; the fleet asks for proof, which nobody has at first.
    """
    there = [view for view in reply.nodes if not view.has_left]
    return floor is not None and bool(there) and all(view.success_ratio >= floor for view in there)


def node_row(view: NodeView) -> Result:
    """One node: `id, url, healthy, type, vram_…, models_loaded, models_loaded_count`, and what it does."""
    told = view.telemetry
    free_mib = sum(gpu.memory_free_mib for gpu in told.gpus)
    total_mib = sum(gpu.memory_total_mib for gpu in told.gpus)
    loaded = [model.name for model in told.loaded]
    return Result(
        id=view.node_id,
        url=told.engine.url,
        host=host_of(told.engine.url) or told.host,
        healthy=is_healthy(view),
        type="gpu" if told.has_gpu else "cpu",
        vram_available_gb=free_mib / _MIB_PER_GIB,
        vram_available_mb=free_mib,
        vram_total_mb=total_mib,
        vram_total_gb=total_mib / _MIB_PER_GIB,
        models_loaded=loaded,
        models_loaded_count=len(loaded),
        models_installed=[model.name for model in told.installed],
        status=view.condition,
        active_tasks=view.in_flight,
        slots=told.slots,
        cpu_load=told.cpu_load_ratio,
        ram_available_mb=told.ram_available_mib,
        success_rate=view.success_ratio,
    )


def node_rows(reply: NodesReply) -> list[Result]:
    """Every node that has not left, by its id."""
    return [node_row(view) for view in sorted(reply.nodes, key=lambda view: view.node_id) if not view.has_left]


def cluster_of(reply: NodesReply) -> Result:
    """`total_nodes, healthy_nodes, gpu_nodes, cpu_nodes`, and what runs and waits."""
    rows = node_rows(reply)
    return Result(
        total_nodes=len(rows),
        healthy_nodes=sum(row["healthy"] for row in rows),
        gpu_nodes=sum(row["type"] == "gpu" for row in rows),
        cpu_nodes=sum(row["type"] == "cpu" for row in rows),
        active_tasks=reply.in_flight,
        queued_tasks=reply.queued,
        vram_available_mb=sum(row["vram_available_mb"] for row in rows),
        vram_total_mb=sum(row["vram_total_mb"] for row in rows),
        strategy=reply.strategy,
    )


def health_of(reply: NodesReply) -> Result:
    """`status` with how many hosts are there: healthy, degraded (some are missing) or unhealthy (all are)."""
    rows = node_rows(reply)
    available = sum(row["healthy"] for row in rows)
    status = "unhealthy" if not available else "healthy" if available == len(rows) else "degraded"
    health = {row["host"]: "healthy" if row["healthy"] else row["status"] for row in rows}
    return Result(status=status, total_hosts=len(rows), available_hosts=available, hosts=Result(health))


def stats_of(nodes: NodesReply, stats: StatsReply) -> Result:
    """Requests, success and latency of all, and of each host under `hosts`."""
    hosts = []
    for row in node_rows(nodes):
        made = stats.by_node.get(row["id"])
        hosts.append(
            Result(
                host=row["host"],
                node_id=row["id"],
                available=row["healthy"],
                latency_ms=made.latency.mean_s * 1000.0 if made is not None else 0.0,
                success_rate=row["success_rate"],
                total_requests=made.requests if made is not None else 0,
                active_tasks=row["active_tasks"],
                cpu_load=row["cpu_load"],
                gpu_free_mem=row["vram_available_mb"],
            )
        )
    total = stats.total
    return Result(
        hosts=hosts,
        total_requests=total.requests,
        successful_requests=total.successes,
        failed_requests=total.failures,
        success_rate=total.success_ratio,
        avg_latency_ms=total.latency.mean_s * 1000.0,
        p95_latency_ms=total.latency.p95_s * 1000.0,
        p99_latency_ms=total.latency.p99_s * 1000.0,
        by_mode=Result({mode: made.requests for mode, made in stats.by_mode.items()}),
        mean_cpu_load=statistics.fmean(host["cpu_load"] for host in hosts) if hosts else 0.0,
    )
