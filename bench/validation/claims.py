"""What such systems claim of themselves, each beside what was measured. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.validation.curves import Block, Size
from bench.validation.figures import Row

OURS, RIVAL = "plan", "nginx"
_SETTLED_RATIO = 1.1
_LEARNT_AFTER = 20


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One claim, its bar and what came out."""

    text: str
    bar: str
    measured: str
    is_met: bool


def claims_of(rows: Sequence[Row], sizes: Sequence[Size], cold: Sequence[Block]) -> list[Claim]:
    """The claims that the figures can speak to; whatever was not measured is left out."""
    found: list[Claim] = []
    pairs = {(r.scenario, r.machines): r for r in rows if r.system == RIVAL}
    for row in rows:
        rival = pairs.get((row.scenario, row.machines))
        if row.system == OURS and rival is not None:
            found += _against(row, rival)
    if sizes:
        worst = min(sizes, key=lambda s: s.of_linear_ratio)
        found.append(
            Claim(
                text="throughput grows linearly with the number of machines",
                bar="≥ 90 % of linear up to 16",
                measured=f"{worst.of_linear_ratio:.0%} at {worst.machines}, the worst",
                is_met=worst.of_linear_ratio >= 0.9,
            )
        )
    late = [b for b in cold if b.first > _LEARNT_AFTER]
    if late:
        worst_ratio = max(b.over_warm_ratio for b in late)
        found.append(
            Claim(
                text="a cold start is over after 10 to 20 requests",
                bar=f"≤ {_SETTLED_RATIO} times warm after 20",
                measured=f"{cold[0].over_warm_ratio:.2f} at first, at most {worst_ratio:.2f} after 20",
                is_met=worst_ratio <= _SETTLED_RATIO,
            )
        )
    return found


def _against(row: Row, rival: Row) -> list[Claim]:
    where = f"{row.scenario}, {row.machines} machines"
    match row.scenario:
        case "uniform":
            change = row.mean_s / rival.mean_s - 1.0
            return [_claim(f"{where}: as good as round robin", "within 5 %", f"mean {change:+.1%}", change <= 0.05)]
        case "faults":
            text = f"{where}: callers notice nothing"
            measured = f"{row.success_ratio:.4f} (nginx {rival.success_ratio:.4f})"
            return [_claim(text, "success ≥ 0.999", measured, row.success_ratio >= 0.999)]
        case "priority":
            assert row.high_mean_s is not None
            assert rival.high_mean_s is not None
            high = row.high_mean_s / rival.high_mean_s - 1.0
            return [_claim(f"{where}: high priority is faster", "mean -50 %", f"{high:+.0%}", high <= -0.5)]
        case "mixed":
            mean, p95 = row.mean_s / rival.mean_s - 1.0, row.p95_s / rival.p95_s - 1.0
            faster = row.throughput_rps / max(rival.throughput_rps, 1e-9) - 1.0
            return [
                _claim(f"{where}: mean latency", "-30 %", f"{mean:+.0%}", mean <= -0.3),
                _claim(f"{where}: P95", "-50 %", f"{p95:+.0%}", p95 <= -0.5),
                _claim(f"{where}: throughput", "+15 %", f"{faster:+.0%}", faster >= 0.15),
            ]
        case _:
            mean = row.mean_s / rival.mean_s - 1.0
            return [_claim(f"{where}: mean latency", "-30 %", f"{mean:+.0%}", mean <= -0.3)]


def _claim(text: str, bar: str, measured: str, is_met: bool) -> Claim:
    return Claim(text=text, bar=bar, measured=measured, is_met=is_met)


def as_text(claims: Sequence[Claim]) -> str:
    """The list that is printed."""
    return "\n".join(
        f"{'met   ' if claim.is_met else 'MISSED'} {claim.text}: {claim.measured} (bar: {claim.bar})"
        for claim in claims
    )
