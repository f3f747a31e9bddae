"""The tables of docs/performance.md, read from what the benchmarks wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from tools.numbers_table import RESULTS


class Bar(msgspec.Struct, frozen=True):
    """One row: what was measured, in which file of results, how it is read, and the most or least that is aimed at."""

    what: str
    file: str
    measured: Callable[[dict[str, Any]], float]
    aim: float
    unit: str
    is_least: bool = False

    def row(self, run: dict[str, Any]) -> str:
        """The row as Markdown."""
        measured = self.measured(run)
        is_met = measured >= self.aim if self.is_least else measured <= self.aim
        sign = "≥" if self.is_least else "≤"
        return (
            f"| {self.what} | {_number(measured)} {self.unit} | {sign} {_number(self.aim)} {self.unit} "
            f"| {'met' if is_met else '**missed**'} |"
        )


def _round_trips(run: dict[str, Any]) -> float:
    latency = run["latency"]
    return float(latency["full_path"]["added_p50_ms"] / latency["nats_round_trip"]["p50_ms"])


def _gateway(run: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = run["one_caller"]["gateway"]
    return found


def _work_us(run: dict[str, Any]) -> float:
    return float(sum(run["requests_per_s"]["16"]["cpu_us_per_request"].values()))


BARS: Final = (
    Bar("bus: added to a request, one caller, p50", "overhead", _round_trips, 4.5, "round trips of the bus"),
    Bar("the same, p99", "overhead", lambda run: run["latency"]["full_path"]["added_p99_ms"], 3.0, "ms"),
    Bar("processor time of all actors for a request, 16 callers", "overhead", _work_us, 450, "µs"),
    Bar(
        "bus: 16 callers",
        "overhead",
        lambda run: run["requests_per_s"]["16"]["full_path"],
        2500,
        "requests/s",
        is_least=True,
    ),
    Bar(
        "bus: 64 callers",
        "overhead",
        lambda run: run["requests_per_s"]["64"]["full_path"],
        3000,
        "requests/s",
        is_least=True,
    ),
    Bar(
        "bus: added to a token, 50 streams of 40 tokens/s, p99",
        "overhead",
        lambda run: max(0.0, run["per_token"]["added_p99_ms"]),
        2.0,
        "ms",
    ),
    Bar(
        "gateway: added to a request, p50",
        "gateway",
        lambda run: run["one_caller"]["gateway"]["added_p50_ms"],
        1.9,
        "ms",
    ),
    Bar("the same, p99", "gateway", lambda run: run["one_caller"]["gateway"]["added_p99_ms"], 4.5, "ms"),
    Bar(
        "gateway: 16 callers",
        "gateway",
        lambda run: run["requests_per_s"]["16"]["gateway"]["rate"],
        2000,
        "requests/s",
        is_least=True,
    ),
    Bar(
        "gateway: added to a token, 50 streams of 40 tokens/s, p99",
        "gateway",
        lambda run: run["per_token_50_streams"]["gateway"]["added_p99_ms"],
        3.0,
        "ms",
    ),
    Bar(
        "`sollol up`, all in one process: added to a request over HTTP, p50",
        "gateway",
        lambda run: run["one_caller"]["up"]["added_p50_ms"],
        1.9,
        "ms",
    ),
    Bar(
        "`sollol up`: 16 callers over HTTP",
        "gateway",
        lambda run: run["requests_per_s"]["16"]["up"]["rate"],
        2000,
        "requests/s",
        is_least=True,
    ),
    Bar(
        "vectors of small texts, of what the engine gives alone",
        "embeddings",
        lambda run: 100 * min(found["together"]["share"] for found in run["texts_per_s"].values()),
        80,
        "%",
        is_least=True,
    ),
    Bar("durable jobs completed", "jobs", lambda run: run["completed_per_s"], 1500, "jobs/s", is_least=True),
    Bar("`sollol up`: ready", "overhead", lambda run: run["startup"]["ready_s"], 0.7, "s"),
    Bar("`sollol up`: memory", "overhead", lambda run: run["startup"]["rss_mib"], 60, "MiB"),
    Bar(
        "a fleet of six nodes that nobody asks anything", "idle", lambda run: 100 * run["idle_ratio"], 2, "% of a core"
    ),
    Bar("`sollol top`, ten decisions a second", "idle", lambda run: 100 * max(run["top"].values()), 3, "% of a core"),
    Bar(
        "the dashboard's server with one page, ten decisions a second",
        "idle",
        lambda run: 100 * max(run["dashboard"].values()),
        3,
        "% of a core",
    ),
    Bar(
        "processor time of a command until its first line, the slowest",
        "start",
        lambda run: max(ms for name, ms in run["median_ms"].items() if name.startswith("sollol")),
        150,
        "ms",
    ),
)
_WAYS: Final = {
    "direct": "straight to the engine",
    "nginx": "nginx, one worker",
    "haproxy": "haproxy, one worker",
    "gateway": "gateway, every actor a process",
    "up": "`sollol up`, all in one process",
    "up_apart": "`sollol up` with its gateway apart",
    "sglang_router": "sglang-router",
    "litellm": "LiteLLM's proxy, one worker",
}


def bars() -> str:
    """Each bar beside what was measured."""
    runs = {bar.file: _read(bar.file) for bar in BARS}
    rows = ["| what | measured | bar | |", "|---|---:|---:|---|"]
    return "\n".join(rows + [bar.row(runs[bar.file]) for bar in BARS])


def floor() -> str:
    """One request at one caller: the system beside hops that only pass it on."""
    run = _read("profile")
    floor, system = run["floor"], run["system"]
    engine, round_trip = floor["engine"]["p50_ms"], floor["nats_round_trip"]["p50_ms"]
    callers = f"{run['callers']} callers"
    heads = ("p50, ms", "added, ms", "in round trips", f"requests/s, {callers}", "µs of all processes but the engine")
    rows = [
        f"`{run['command']}`; a round trip of the bus takes {round_trip:.2f} ms.",
        "",
        f"| one caller | {' | '.join(heads)} |",
        "|---|" + len(heads) * "---:|",
        f"| the engine alone | {engine:.2f} | | | | |",
    ]
    for name, p50, found in (
        ("hops that only pass it on", floor["bare_path"]["p50_ms"], floor),
        ("the system", system["one_caller"]["p50_ms"], system),
    ):
        added, us, rate = p50 - engine, sum(found["us_per_request"].values()), found["requests_per_s"]
        rows.append(f"| {name} | {p50:.2f} | {added:.2f} | {added / round_trip:.1f} | {rate:,.0f} | {us:.0f} |")
    return "\n".join(rows)


def work() -> str:
    """The processor time of a request by actor and part."""
    run = _read("profile")
    rows = ["| actor | µs a request | of it, by part |", "|---|---:|---|"]
    for name, actor in run["actors"].items():
        parts = ", ".join(f"{area} {us:.0f}" for area, us in actor["areas_us"].items() if us >= 1)
        rows.append(f"| {name} | {actor['us_per_request']:.0f} | {parts} |")
    others = {name: us for name, us in run["system"]["us_per_request"].items() if name not in run["actors"]}
    rows += [f"| {name} | {us:.0f} | |" for name, us in others.items()]
    return "\n".join(rows)


def peers() -> str:
    """What else may stand before an engine, in the same run."""
    run = _read("gateway")
    one, rates = run["one_caller"], run["requests_per_s"]
    rows = [
        f"`{run['command']}`",
        "",
        "| a chat completion of one token | p50, ms | p99, ms | requests/s, 16 callers | 64 callers | µs a request |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for way, name in _WAYS.items():
        if way in one:
            spent = rates["16"][way].get("cpu_us_per_request", {})
            us = f"{sum(spent.values()):.0f}" if spent else ""
            per_s = " | ".join(f"{rates[callers][way]['rate']:,.0f}" for callers in ("16", "64"))
            rows.append(f"| {name} | {one[way]['p50_ms']:.2f} | {one[way]['p99_ms']:.2f} | {per_s} | {us} |")
    return "\n".join(rows)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 20 else f"{value:.2g}" if abs(value) < 10 else f"{value:.1f}"


def _read(name: str) -> dict[str, Any]:
    return msgspec.json.decode((RESULTS / f"{name}.json").read_bytes(), type=dict[str, Any])
