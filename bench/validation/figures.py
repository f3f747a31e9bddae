"""What is told of a run: latencies, success, throughput, fairness, isolation of priorities; in uncompressed seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from bench.routing.figures import quantile
from bench.validation.callers import Sample
from bench.validation.scenarios import HIGH, LOW


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One system in one scenario; a failure counts as the callers' patience."""

    scenario: str
    machines: int
    system: str
    compression: float
    requests: int
    mean_s: float
    median_s: float
    p95_s: float
    p99_s: float
    max_s: float
    success_ratio: float
    throughput_rps: float
    """Whole answers a second from the first arrival to the last answer."""
    gini_ratio: float
    """Of the distribution of requests over machines: 0 for equal shares, near 1 when one gets all."""
    by_node: dict[str, int]
    high_mean_s: float | None = None
    """Of requests with priority 9, where there are any."""
    low_mean_s: float | None = None


def row_of(samples: Sequence[Sample], factor: float, *, scenario: str, machines: int, system: str, nodes: int) -> Row:
    """The figures of one run."""
    stretched = sorted(s.latency_s * factor for s in samples)
    served = Counter(s.node for s in samples if not s.is_failed)
    last_s = max(s.arrival_s + s.latency_s for s in samples if not s.is_failed) if served else 0.0
    first_s = min(s.arrival_s for s in samples)
    lasted_s = max(1e-9, (last_s - first_s) * factor)
    return Row(
        scenario=scenario,
        machines=machines,
        system=system,
        compression=factor,
        requests=len(samples),
        mean_s=_mean(stretched) or 0.0,
        median_s=quantile(stretched, 0.5),
        p95_s=quantile(stretched, 0.95),
        p99_s=quantile(stretched, 0.99),
        max_s=stretched[-1],
        success_ratio=sum(not s.is_failed for s in samples) / len(samples),
        throughput_rps=sum(served.values()) / lasted_s,
        gini_ratio=gini([*served.values(), *[0] * (nodes - len(served))]),
        by_node=dict(sorted(served.items())),
        high_mean_s=_mean([s.latency_s * factor for s in samples if s.priority == HIGH]),
        low_mean_s=_mean([s.latency_s * factor for s in samples if s.priority == LOW]),
    )


def gini(counts: Sequence[int]) -> float:
    """The Gini coefficient of a distribution; 0 for equal shares and for nothing at all."""
    ordered, total = sorted(counts), sum(counts)
    if not total:
        return 0.0
    weighted = sum(place * count for place, count in enumerate(ordered, 1))
    return 2.0 * weighted / (len(ordered) * total) - (len(ordered) + 1.0) / len(ordered)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def as_text(rows: Sequence[Row]) -> str:
    """The table that is printed."""
    head = (
        f"{'scenario':<10}{'machines':>9} {'system':<18}{'mean':>8}{'median':>8}{'p95':>8}{'p99':>8}{'max':>8}"
        f"{'success':>9}{'req/s':>8}{'gini':>6}{'high':>8}{'low':>8}"
    )
    return "\n".join([head, *(_line(row) for row in rows)])


def _line(row: Row) -> str:
    high, low = ("-" if x is None else f"{x:.1f}" for x in (row.high_mean_s, row.low_mean_s))
    return (
        f"{row.scenario:<10}{row.machines:>9} {row.system:<18}{row.mean_s:>8.1f}{row.median_s:>8.1f}{row.p95_s:>8.1f}"
        f"{row.p99_s:>8.1f}{row.max_s:>8.1f}{row.success_ratio:>9.4f}{row.throughput_rps:>8.3f}{row.gini_ratio:>6.2f}"
        f"{high:>8}{low:>8}"
    )
