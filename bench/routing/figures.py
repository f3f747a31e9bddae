"""From latencies to the table: one cell per scenario, load, policy and seed, and ratios between policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import msgspec

from bench.routing.workloads import Request

WARM_UP_SHARE = 0.1


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What counts of a batch besides its latencies."""

    makespan_s: float
    """From the first request to the last answer."""
    bound_s: float
    """What no schedule can beat."""
    wait_ratio: float
    """The longest wait for an engine over the median of those that waited at all; 0 when none did."""
    idle_slot_s: float
    """Seconds of slots without work, on machines that load nothing, beside requests that wait."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy did in one run; latencies count failures and time-outs as 300 s."""

    scenario: str
    fleet: str
    load: float
    policy: str
    seed: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    ttft_mean_s: float
    success_ratio: float
    throughput_rps: float
    requests: int
    loads: int
    by_priority_mean_s: dict[str, float]
    by_priority_max_s: dict[str, float] = {}
    batch: Batch | None = None


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie."""
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def cell(
    requests: list[Request],
    *,
    scenario: str,
    fleet: str,
    load: float,
    policy: str,
    seed: int,
    loads: int,
    batch: Batch | None = None,
) -> Cell:
    """The figures of one run; without its first tenth, unless it is a batch."""
    counted = requests if batch is not None else requests[int(WARM_UP_SHARE * len(requests)) :]
    latencies = sorted(r.latency_s for r in counted if r.latency_s is not None)
    first = [r.ttft_s for r in counted if r.ttft_s is not None]
    return Cell(
        scenario=scenario,
        fleet=fleet,
        load=load,
        policy=policy,
        seed=seed,
        mean_s=_mean(latencies),
        p50_s=quantile(latencies, 0.50),
        p95_s=quantile(latencies, 0.95),
        p99_s=quantile(latencies, 0.99),
        ttft_mean_s=_mean(first),
        success_ratio=1.0 - sum(r.is_failed for r in counted) / max(1, len(counted)),
        throughput_rps=_throughput(counted),
        requests=len(counted),
        loads=loads,
        by_priority_mean_s=_by_priority(counted, _mean),
        by_priority_max_s=_by_priority(counted, max),
        batch=batch,
    )


def _throughput(requests: list[Request]) -> float:
    """Answers per second from the first answer until the last request came."""
    last = max((r.arrival_s for r in requests if math.isfinite(r.arrival_s)), default=0.0)
    ends = sorted(r.done_at for r in requests if not r.is_failed and r.done_at <= last)
    return (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 and ends[-1] > ends[0] else 0.0


def _by_priority(requests: list[Request], figure: Callable[[Sequence[float]], float]) -> dict[str, float]:
    levels = sorted({r.priority for r in requests})
    if len(levels) < 2:
        return {}
    return {str(p): figure([r.latency_s for r in requests if r.priority == p and r.latency_s]) for p in levels}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean of positive values; 0 of none."""
    logs = [math.log(v) for v in values if v > 0]
    return math.exp(sum(logs) / len(logs)) if logs else 0.0


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """A policy against another, as ratios of the seeds' mean figures."""

    mean: float
    p95: float
    throughput: float
    p9: float = 0.0
    """Mean of the requests of priority 9; 0 where there are none."""
    p99: float = 0.0


def _averages(cells: Sequence[Cell]) -> dict[tuple[str, str, float, str], tuple[float, ...]]:
    groups: dict[tuple[str, str, float, str], list[Cell]] = {}
    for c in cells:
        groups.setdefault((c.scenario, c.fleet, c.load, c.policy), []).append(c)
    return {
        k: (
            _mean([c.mean_s for c in g]),
            _mean([c.p95_s for c in g]),
            _mean([c.throughput_rps for c in g]),
            _mean([c.by_priority_mean_s.get("9", 0.0) for c in g]),
            _mean([c.p99_s for c in g]),
        )
        for k, g in groups.items()
    }


def against(cells: Sequence[Cell], base: str) -> dict[str, dict[str, Ratio]]:
    """For every policy and scenario cell (`scenario@fleet/load`), its ratio to the policy `base`."""
    averages = _averages(cells)
    ratios: dict[str, dict[str, Ratio]] = {}
    for (scenario, fleet, load, policy), own in averages.items():
        other = averages.get((scenario, fleet, load, base))
        if other is not None and policy != base and min(other[:3]) > 0:
            mean, p95, throughput, p9, p99 = (x / y if y else 0.0 for x, y in zip(own, other, strict=True))
            name = f"{scenario}@{fleet}/{load:g}"
            ratios.setdefault(policy, {})[name] = Ratio(mean=mean, p95=p95, throughput=throughput, p9=p9, p99=p99)
    return ratios


def overall(ratios: dict[str, dict[str, Ratio]]) -> dict[str, Ratio]:
    """Geometric means over all scenario cells."""
    return {
        policy: Ratio(
            mean=geometric_mean(r.mean for r in of.values()),
            p95=geometric_mean(r.p95 for r in of.values()),
            throughput=geometric_mean(r.throughput for r in of.values()),
        )
        for policy, of in ratios.items()
    }


def batch_means(cells: Sequence[Cell]) -> dict[str, float]:
    """Means over the seeds of one cell of a batch, and the largest ratio of waits."""
    batches = [c.batch for c in cells if c.batch is not None]
    return {
        "makespan": _mean([b.makespan_s for b in batches]),
        "bound": _mean([b.bound_s for b in batches]),
        "mean": _mean([c.mean_s for c in cells]),
        "idle": _mean([b.idle_slot_s for b in batches]),
        "wait": max(b.wait_ratio for b in batches),
    }
