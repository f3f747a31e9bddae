"""The README's table of measured numbers, read from what the benchmarks wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

RESULTS: Final = Path(__file__).parents[1] / "bench" / "results"


class Number(msgspec.Struct, frozen=True):
    """One row: what was measured, in which file of results, how its figures are read, and what was aimed at."""

    what: str
    file: str
    text: Callable[[dict[str, Any]], str]
    aim: str = ""
    command: str = ""


NUMBERS: Final = (
    Number(
        "added latency of a whole request, caller to engine and back, p50 / p99",
        "overhead",
        lambda run: _both(run["latency"]["full_path"]),
        "0.6 / 3 ms",
        "make bench-overhead",
    ),
    Number("requests per second, 16 / 64 callers", "overhead", lambda run: _rates(run, "full_path"), "2,500 / 3,000"),
    Number(
        "added delay per token, 50 streams of 40 tokens/s, p99",
        "overhead",
        lambda run: f"{max(0.0, run['per_token']['added_p99_ms']):.1f} ms",
        "2 ms",
    ),
    Number(
        "`sollol up` to the first routed answer / memory of the largest idle actor",
        "overhead",
        lambda run: f"{run['startup']['first_answer_s']:.1f} s / {max(run['rss_mib'].values()):.0f} MiB",
        "0.7 s / 60 MiB",
    ),
    Number(
        "the same latency through the HTTP gateway; in brackets LiteLLM's proxy in the same run",
        "gateway",
        lambda run: f"{_both(run['one_caller']['gateway'])} ({_both(run['one_caller']['litellm'])})",
        "1.9 / 4.5 ms",
        "make bench-gateway",
    ),
    Number(
        "durable jobs stored / completed per second",
        "jobs",
        lambda run: f"{run['submitted_per_s']:,.0f} / {run['completed_per_s']:,.0f}",
        "5,000 / 1,500",
        "make bench-jobs",
    ),
    Number(
        "mean latency over that of a clairvoyant scheduler, in simulation; in brackets round robin",
        "routing",
        lambda run: "{plan:.2f} ({round_robin:.1f})".format(
            **{name: ratio["mean"] for name, ratio in run["geomean_vs_oracle"].items()}
        ),
        "1.10",
        "make bench-routing",
    ),
)


def markdown() -> str:
    """The table, with the machine above it."""
    runs = {number.file: _read(number.file) for number in NUMBERS}
    machine = runs["overhead"]["machine"]
    where = f"{machine['cores']} shared virtual cores ({machine['cpu']})"
    rows = [
        f"Figures of one run each, on {where}, every actor a process of its own.",
        "",
        "| what | measured | aim | again with |",
        "|---|---|---|---|",
    ]
    for number in NUMBERS:
        command = f"`{number.command}`" if number.command else ""
        rows.append(f"| {number.what} | {number.text(runs[number.file])} | {number.aim} | {command} |")
    return "\n".join(rows)


def _read(name: str) -> dict[str, Any]:
    return msgspec.json.decode((RESULTS / f"{name}.json").read_bytes(), type=dict[str, Any])


def _both(latency: dict[str, float]) -> str:
    return f"{latency['added_p50_ms']:.1f} / {latency['added_p99_ms']:.1f} ms"


def _rates(run: dict[str, Any], path: str) -> str:
    return " / ".join(f"{run['requests_per_s'][callers][path]:.0f}" for callers in ("16", "64"))
