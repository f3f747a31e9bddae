"""The tables of docs/validation.md, read from what the validation wrote."""

from __future__ import annotations

from typing import Final

import msgspec

from bench.validation.claims import Claim
from bench.validation.curves import Block, Size
from bench.validation.figures import Row
from tools.numbers_table import RESULTS

_COLUMNS: Final = (
    ("scenario", "machines", "system", "mean", "median", "P95", "P99", "max", "success", "requests/s", "Gini"),
    ("---", "---:", "---", "---:", "---:", "---:", "---:", "---:", "---:", "---:", "---:"),
)


class Results(msgspec.Struct):
    """The part of the result files that is told."""

    command: str
    rows: list[Row]
    claims: list[Claim]
    sizes: list[Size]
    cold_start: list[Block]


def claims() -> str:
    """Each claim beside what was measured."""
    rows = ["| claim | bar | measured | |", "|---|---|---|---|"]
    rows += [
        f"| {claim.text} | {claim.bar} | {claim.measured} | {'met' if claim.is_met else '**missed**'} |"
        for results in (_results("validation"), _results("validation-curves"))
        for claim in results.claims
    ]
    return "\n".join(rows)


def rows() -> str:
    """Every run."""
    results = _results("validation")
    lines = [f"`{results.command}`; seconds are those of the machines that are emulated, not compressed.", ""]
    lines += ["| " + " | ".join(columns) + " |" for columns in _COLUMNS]
    lines += [
        f"| {r.scenario} | {r.machines} | {r.system} | {r.mean_s:.1f} | {r.median_s:.1f} | {r.p95_s:.1f} "
        f"| {r.p99_s:.1f} | {r.max_s:.1f} | {r.success_ratio:.3f} | {r.throughput_rps:.2f} | {r.gini_ratio:.2f} |"
        for r in results.rows
    ]
    return "\n".join(lines)


def curves() -> str:
    """Throughput by number of machines, and a cold start."""
    results = _results("validation-curves")
    lines = [f"`{results.command}`", "", "| machines | requests/s | of linear |", "|---:|---:|---:|"]
    lines += [f"| {s.machines} | {s.throughput_rps:.2f} | {s.of_linear_ratio:.0%} |" for s in results.sizes]
    lines += ["", "| requests after a cold start | latency over that of a warm system |", "|---|---:|"]
    lines += [f"| {b.first} to {b.last} | {b.over_warm_ratio:.2f} |" for b in results.cold_start]
    return "\n".join(lines)


def _results(name: str) -> Results:
    return msgspec.json.decode((RESULTS / f"{name}.json").read_bytes(), type=Results)
