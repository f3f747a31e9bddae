"""What simulation and live run gave, side by side; every second stretched back to uncompressed time."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.live.replay import Sample
from bench.routing.figures import WARM_UP_SHARE, quantile
from bench.routing.scenarios import TIMEOUT_S
from bench.routing.workloads import Request


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies of one run without its first tenth, in uncompressed seconds; a failure counts as 300 s."""

    mean_s: float
    p50_s: float
    p95_s: float
    success_ratio: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One strategy."""

    strategy: str
    simulated: Side
    live: Side
    difference_ratio: float
    """Live mean over simulated mean, minus one."""
    overhead_ratio: float
    """Time that neither queue nor engine took, as a share of the mean service time; of the compressed run."""
    overhead_ms: float
    service_s: float
    """Mean service time in uncompressed seconds."""
    wall_s: float
    cpu_cores: float
    """Processor cores that all processes together kept busy."""
    by_node: dict[str, int]


def simulated_side(requests: Sequence[Request], stretch: float) -> Side:
    """The figures of a simulation in compressed time."""
    counted = requests[int(WARM_UP_SHARE * len(requests)) :]
    latencies = [r.latency_s for r in counted if r.latency_s is not None]
    return _side(latencies, [r.is_failed for r in counted], stretch)


def live_side(samples: Sequence[Sample], stretch: float) -> Side:
    """The figures of a live run."""
    counted = _counted(samples)
    return _side([s.latency_s for s in counted], [s.is_failed for s in counted], stretch)


def row_of(
    strategy: str, simulated: Sequence[Request], live: Sequence[Sample], stretch: float, *, wall_s: float, cpu_s: float
) -> Row:
    """Both sides of one strategy, and what the live run cost."""
    sim, real = simulated_side(simulated, stretch), live_side(live, stretch)
    counted = [s for s in _counted(live) if not s.is_failed]
    service_s = sum(s.service_s for s in counted) / max(1, len(counted))
    overhead_s = sum(s.overhead_s for s in counted) / max(1, len(counted))
    names = sorted({s.node_id for s in counted})
    return Row(
        strategy=strategy,
        simulated=sim,
        live=real,
        difference_ratio=real.mean_s / sim.mean_s - 1.0,
        overhead_ratio=overhead_s / service_s if service_s else 0.0,
        overhead_ms=1000.0 * overhead_s,
        service_s=service_s * stretch,
        wall_s=wall_s,
        cpu_cores=cpu_s / wall_s,
        by_node={name: sum(s.node_id == name for s in counted) for name in names},
    )


def order(rows: Sequence[Row], side: str) -> list[str]:
    """The strategies from the lowest mean to the highest, on one side."""
    return [r.strategy for r in sorted(rows, key=lambda r: getattr(r, side).mean_s)]


def _counted(samples: Sequence[Sample]) -> list[Sample]:
    ordered = sorted(samples, key=lambda s: s.number)
    return ordered[int(WARM_UP_SHARE * len(ordered)) :]


def _side(latencies: Sequence[float], failed: Sequence[bool], stretch: float) -> Side:
    stretched = sorted(
        TIMEOUT_S if is_failed else latency * stretch for latency, is_failed in zip(latencies, failed, strict=True)
    )
    return Side(
        mean_s=sum(stretched) / max(1, len(stretched)),
        p50_s=quantile(stretched, 0.50),
        p95_s=quantile(stretched, 0.95),
        success_ratio=1.0 - sum(failed) / max(1, len(failed)),
    )


def as_text(rows: Sequence[Row], compression: float) -> str:
    """The table that is printed."""
    columns = ["simulated", "live", "differs", "sim p95", "live p95", "ok", "overhead"]
    head = f"{'strategy':<14}" + "".join(f"{c:>10}" for c in columns)
    lines = [f"time compression {compression:g}; latencies in uncompressed seconds", head]
    lines += [
        f"{r.strategy:<14}{r.simulated.mean_s:>10.2f}{r.live.mean_s:>10.2f}{r.difference_ratio:>+10.1%}"
        f"{r.simulated.p95_s:>10.2f}{r.live.p95_s:>10.2f}{r.live.success_ratio:>10.3f}{r.overhead_ratio:>10.2%}"
        for r in rows
    ]
    for side in ("simulated", "live"):
        lines.append(f"order {side + ':':<11}{' < '.join(order(rows, side))}")
    return "\n".join(lines)
