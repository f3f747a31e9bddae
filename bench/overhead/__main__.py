"""Measures what the bus adds to a request.

    python -m bench.overhead [--members | --readiness | --embeddings] [--json] [--quick] [--out FILE]

The engine is the emulated one without any delay; every actor is a process; the caller is this process.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from bench.command import parser_of, started
from bench.overhead import embeddings, measures, members, readiness
from bench.processes import Process, fleet, instant_engine, launch, running
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig

BARS = {
    "added_p50_round_trips": 4.5,
    "added_p99_ms": 3.0,
    "added_per_token_p99_ms": 2.0,
    "requests_per_s": {"16": 2500.0, "64": 3000.0},
    "cpu_us_per_request": 450.0,
    "ready_s": 0.7,
    "rss_mib": 60.0,
}
SLOTS = 128


def main() -> int:
    """Runs the benchmark and prints its figures; the exit code says only whether it ran."""
    parser = parser_of("bench.overhead", __doc__)
    parser.add_argument("--members", action="store_true", help="compare an open bus with one that knows its members")
    parser.add_argument("--readiness", action="store_true", help="compare answers that could go on with others")
    parser.add_argument("--embeddings", action="store_true", help="measure embeddings of small texts")
    arguments = parser.parse_args()
    if arguments.embeddings:
        return started(parser, embeddings.measure, embeddings.as_text)
    if arguments.members:
        return started(parser, members.measure, members.as_text)
    if arguments.readiness:
        return started(parser, readiness.measure, readiness.as_text)
    return started(parser, measure, as_text)


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    count, seconds, tokens = (50, 0.5, 20) if options.quick else (1000, 5.0, 200)
    figures: dict[str, Any] = {}
    instant = instant_engine(measures.MODEL)
    paced = [*instant]
    paced[paced.index("instant")] = "steady"
    paced += ["--parallel", "64", "--preload", measures.MODEL, "--decode-tps", "40"]
    server = EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(folder / "nats")))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    async with server, httpx.AsyncClient(timeout=60, limits=limits) as http:
        async with running("engine", instant, log_dir=folder) as engine:
            url = engine.address("engine")
            async with fleet(server.url, url, slots=SLOTS, log_dir=folder) as processes:
                figures["rss_mib"] = {p.name: round(p.rss_mib, 1) for p in processes.values()}
                async with Client(BusConfig(url=server.url, name="bench")) as client:
                    await until_served(client)
                    figures |= await latency(http, url, server.url, client, count=count)
                    figures |= await rates(http, url, client, seconds=seconds, processes=processes)
        async with running("paced-engine", paced, log_dir=folder) as engine:
            url = engine.address("engine")
            async with fleet(server.url, url, slots=64, log_dir=folder), Client(server.url) as client:
                await until_served(client)
                figures["per_token"] = await per_token(http, url, client, tokens=tokens)
    figures["startup"] = await startup(folder)
    figures["bars"] = BARS
    return figures


async def until_served(client: Client) -> None:
    """Waits until the fleet answers its first request."""
    await client.generate(measures.MODEL, "count 0")


async def latency(
    http: httpx.AsyncClient, engine_url: str, nats_url: str, client: Client, *, count: int
) -> dict[str, Any]:
    """Latency of one caller, the ways taken in turn so that drift of the machine hits all alike."""
    echo = await Bus.connect(BusConfig(url=nats_url, name="bench-echo"))
    echo.subscribe("bench.echo", lambda m: echo.publish(m.reply, m.data))
    await echo.flush()
    ways = {
        "direct": measures.direct_call(http, engine_url),
        "nats_round_trip": lambda: client.bus.request("bench.echo", b"x" * 128),
        "full_path": measures.bus_call(client),
        "full_path_plain": measures.plain_call(client.bus),
    }
    samples: dict[str, list[float]] = {name: [] for name in ways}
    rounds = 10
    for _ in range(rounds):
        for name, call in ways.items():
            samples[name] += await measures.sequential(call, count=count // rounds, warm_up=5)
    await echo.close()
    found: dict[str, Any] = {name: measures.percentiles(s) for name, s in samples.items()}
    for name in ("full_path", "full_path_plain"):
        found[name]["added_p50_ms"] = round(found[name]["p50_ms"] - found["direct"]["p50_ms"], 3)
        found[name]["added_p99_ms"] = round(found[name]["p99_ms"] - found["direct"]["p99_ms"], 3)
    return {"latency": found}


async def rates(
    http: httpx.AsyncClient, engine_url: str, client: Client, *, seconds: float, processes: dict[str, Process]
) -> dict[str, Any]:
    """Requests per second, and the processor time that each actor spends on one."""
    found: dict[str, Any] = {}
    for callers in (16, 64):
        direct = await measures.throughput(measures.direct_call(http, engine_url), callers=callers, seconds=seconds)
        before = {p.name: p.cpu_s for p in processes.values()}
        full = await measures.throughput(measures.bus_call(client), callers=callers, seconds=seconds)
        cpu_us = {p.name: round(1e6 * (p.cpu_s - before[p.name]) / (full * seconds)) for p in processes.values()}
        found[str(callers)] = {"direct": round(direct, 1), "full_path": round(full, 1), "cpu_us_per_request": cpu_us}
    return {"requests_per_s": found}


async def per_token(http: httpx.AsyncClient, engine_url: str, client: Client, *, tokens: int) -> dict[str, Any]:
    """Delay of tokens at 50 streams of 40 tokens/s."""
    direct = measures.percentiles(await measures.token_delays_direct(http, engine_url, streams=50, tokens=tokens))
    full = measures.percentiles(await measures.token_delays_bus(client, streams=50, tokens=tokens))
    return {
        "direct": direct,
        "full_path": full,
        "added_p50_ms": round(full["p50_ms"] - direct["p50_ms"], 3),
        "added_p99_ms": round(full["p99_ms"] - direct["p99_ms"], 3),
    }


async def startup(folder: Path) -> dict[str, float]:
    """Seconds from the start of `sollol up` to `ready`, and to the first routed answer."""
    instant = instant_engine(measures.MODEL)
    async with running("startup-engine", instant, log_dir=folder) as engine:
        began = time.perf_counter()
        command = ["sollol_agents.cli", "up", "--nats-port", "0", "--http-port", "0"]
        command += ["--store-dir", str(folder / "up"), "--log-level", "warning"]
        up = await launch("up", command, log_dir=folder, environment={"SOLLOL_NODE_URL": engine.address("engine")})
        try:
            ready = time.perf_counter() - began
            async with Client(up.address("nats")) as client:
                await until_served(client)
            answered = time.perf_counter() - began
            rss = up.rss_mib
        finally:
            await up.stop()
    return {"ready_s": round(ready, 3), "first_answer_s": round(answered, 3), "rss_mib": round(rss, 1)}


def _bar(name: str) -> Any:  # noqa: ANN401 a figure, or one for each number of callers
    return BARS[name]


def as_text(figures: dict[str, Any]) -> str:
    """The figures as lines that a person reads."""
    latency_ms, per_token_ms = figures["latency"], figures["per_token"]
    lines = [f"{'one caller':24}{'p50 ms':>10}{'p99 ms':>10}"]
    lines += [f"  {name:22}{v['p50_ms']:>10}{v['p99_ms']:>10}" for name, v in latency_ms.items()]
    added, round_trip = latency_ms["full_path"], latency_ms["nats_round_trip"]["p50_ms"]
    p50, p99 = added["added_p50_ms"], added["added_p99_ms"]
    lines.append(f"  {'added by the bus':22}{p50:>10}{p99:>10}   (bar {_bar('added_p99_ms')} ms)")
    trips = added["added_p50_ms"] / round_trip
    lines.append(f"  {'in its round trips':22}{trips:>10.1f}   (bar {_bar('added_p50_round_trips')})")
    for callers, rate in figures["requests_per_s"].items():
        spent = rate["cpu_us_per_request"]
        lines.append(
            f"requests/s, {callers} callers: {rate['full_path']} over the bus, {rate['direct']} direct "
            f"(bar {_bar('requests_per_s')[callers]:g}); processor us per request: {sum(spent.values())} "
            f"(bar {_bar('cpu_us_per_request')}): {spent}"
        )
    lines.append(
        f"per token, 50 streams of 40/s: added p50 {per_token_ms['added_p50_ms']} ms, "
        f"p99 {per_token_ms['added_p99_ms']} ms (bar {_bar('added_per_token_p99_ms')})"
    )
    started = figures["startup"]
    lines.append(
        f"sollol up: ready after {started['ready_s']} s (bar {_bar('ready_s')}), first answer after "
        f"{started['first_answer_s']} s, {started['rss_mib']} MiB (bar {_bar('rss_mib')})"
    )
    lines.append(f"memory of idle processes, MiB: {figures['rss_mib']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
