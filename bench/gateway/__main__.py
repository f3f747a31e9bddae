"""Measures what the HTTP gateway adds to a request: of single actors, of `sollol up`, and of what else may stand there.

    python -m bench.gateway [--litellm CMD] [--sglang-router CMD] [--json] [--quick] [--out FILE]

The engine is the emulated one without any delay; the caller is this process. Every way is measured in the same run:

direct          the caller at the engine
gateway         every actor a process, and a gateway before them; `_native` speaks Ollama's dialect in place of OpenAI's
up              `sollol up`: all of it in one process
up_apart        `sollol up --no-gateway` and `sollol gateway`: two processes
nginx, haproxy  where they are installed: one worker, connections to the engine kept open; they choose no node by load
sglang_router   a router for OpenAI's dialect, written in Rust
litellm         LiteLLM's proxy, one worker
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.command import parser_of, started
from bench.gateway import peers
from bench.gateway.caller import CHAT, GENERATE, MODEL, Caller, body_for, delay_of
from bench.overhead.measures import percentiles
from bench.processes import Process, fleet, instant_engine, running
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig

BARS = {"added_p50_ms": 1.9, "added_p99_ms": 4.5, "requests_per_s": 2000.0, "added_per_token_p99_ms": 3.0}
SLOTS = 128
_FLOOR = {CHAT: "direct", GENERATE: "direct_native"}


class Way(NamedTuple):
    """One way to the engine."""

    url: str
    path: str
    spent: dict[str, Callable[[], float]]
    """Processor seconds of those that stand between, by name."""


def main() -> int:
    """Runs the benchmark and prints its figures; the exit code says only whether it ran."""
    parser = parser_of("bench.gateway", __doc__)
    parser.add_argument("--litellm", type=Path, help="the `litellm` command of its own virtual environment")
    parser.add_argument("--sglang-router", type=Path, help="the `sglang-router` command, likewise")
    return started(parser, measure, as_text)


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    count, seconds, tokens = (50, 0.5, 20) if options.quick else (1000, 5.0, 200)
    figures: dict[str, Any] = {}
    instant = instant_engine(MODEL)
    paced = ["steady" if word == "instant" else word for word in instant]
    paced += ["--parallel", "64", "--preload", MODEL, "--decode-tps", "40"]
    async with AsyncExitStack() as stack:
        engine = (await stack.enter_async_context(running("engine", instant, log_dir=folder))).address("engine")
        ways = await standing(stack, engine, folder, peers.installed(options))
        figures["one_caller"] = await latency(ways, count)
        figures["requests_per_s"] = {}
        for callers in (16, 64):
            figures["requests_per_s"][str(callers)] = await rates(ways, callers, seconds)
    async with AsyncExitStack() as stack:
        engine = (await stack.enter_async_context(running("paced-engine", paced, log_dir=folder))).address("engine")
        (folder / "paced").mkdir()
        ours = await standing(stack, engine, folder / "paced", [])
        urls = {name: way.url for name, way in ours.items() if way.path == CHAT}
        figures["per_token_50_streams"] = await per_token(urls, tokens)
    figures["bars"] = BARS
    return figures


async def standing(stack: AsyncExitStack, engine: str, folder: Path, others: list[peers.Peer]) -> dict[str, Way]:
    """Every way to an engine, open until the stack is closed."""
    ways = {"direct": Way(engine, CHAT, {}), "direct_native": Way(engine, GENERATE, {})}
    store = EmbeddedServerConfig(port=0, store_dir=str(folder / "nats"))
    server = await stack.enter_async_context(EmbeddedServer(store))
    for name, opened in (
        ("gateway", served(server.url, engine, folder)),
        ("up", up(engine, folder, is_gateway_apart=False)),
        ("up_apart", up(engine, folder, is_gateway_apart=True)),
    ):
        processes, url = await stack.enter_async_context(opened)
        spent = {name: _meter(process) for name, process in processes.items()}
        ways |= {name: Way(url, CHAT, spent), f"{name}_native": Way(url, GENERATE, spent)}
    for peer in others:
        found = await stack.enter_async_context(peers.standing(peer, engine, folder))
        ways[peer.name] = Way(found.url, CHAT, {peer.name: _meter(found)})
    return ways


def _meter(process: Process | peers.Running) -> Callable[[], float]:
    return lambda: process.cpu_s


@asynccontextmanager
async def served(nats_url: str, engine_url: str, folder: Path) -> AsyncIterator[tuple[dict[str, Process], str]]:
    """The actors of one fleet and a gateway, each a process, once a request has been answered."""
    async with (
        fleet(nats_url, engine_url, slots=SLOTS, log_dir=folder) as processes,
        gateway_of(nats_url, folder) as gateway,
    ):
        async with Caller(gateway.address("http")) as caller:
            await caller.post(GENERATE, body_for(GENERATE))
        yield {**processes, "gateway": gateway}, gateway.address("http")


@asynccontextmanager
async def up(engine_url: str, folder: Path, *, is_gateway_apart: bool) -> AsyncIterator[tuple[dict[str, Process], str]]:
    """`sollol up` with its gateway, or with one that is a process of its own."""
    name = "up_apart" if is_gateway_apart else "up"
    command = ["sollol_agents.cli", "up", "--nats-port", "0", "--http-port", "0", "--no-dashboard"]
    command += ["--store-dir", str(folder / name), "--log-level", "error"]
    if is_gateway_apart:
        command.append("--no-gateway")
    engine = {"SOLLOL_NODE_URL": engine_url, "SOLLOL_NODE_ID": "bench", "SOLLOL_NODE_SLOTS": str(SLOTS)}
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(running(name, command, log_dir=folder, environment=engine))
        processes = {"up": house}
        if is_gateway_apart:
            processes["gateway"] = await stack.enter_async_context(gateway_of(house.address("nats"), folder, name))
        url = processes["gateway" if is_gateway_apart else "up"].address("http")
        async with Caller(url) as caller:
            await caller.post(GENERATE, body_for(GENERATE))
        yield processes, url


def gateway_of(nats_url: str, folder: Path, name: str = "fleet") -> AbstractAsyncContextManager[Process]:
    """A gateway, as a process."""
    command = ["sollol_agents.cli", "gateway", "--nats", nats_url, "--port", "0", "--log-level", "warning"]
    return running(f"gateway_of_{name}", command, log_dir=folder)


async def latency(ways: dict[str, Way], count: int) -> dict[str, Any]:
    """Latency of one caller, the ways taken in turn so that drift of the machine hits all alike."""
    whole: dict[str, list[float]] = {name: [] for name in ways}
    first: dict[str, list[float]] = {name: [] for name in ways}
    rounds = 10
    for _ in range(rounds):
        for name, way in ways.items():
            async with Caller(way.url) as caller:
                for number in range(5 + count // rounds):
                    to_first, to_last = await caller.post(way.path, body_for(way.path))
                    if number >= 5:
                        first[name].append(to_first)
                        whole[name].append(to_last)
    found: dict[str, Any] = {}
    for name in ways:
        found[name] = percentiles(whole[name]) | {"first_byte_p50_ms": percentiles(first[name])["p50_ms"]}
    for name in found.keys() - _FLOOR.values():
        floor = found[_FLOOR[ways[name].path]]
        for figure in ("p50_ms", "p99_ms", "first_byte_p50_ms"):
            found[name][f"added_{figure}"] = round(found[name][figure] - floor[figure], 3)
    return found


async def rates(ways: dict[str, Way], callers: int, seconds: float) -> dict[str, Any]:
    """Requests per second of closed-loop callers, and the processor time that each process between spends on one."""
    found: dict[str, Any] = {}
    for name, way in ways.items():
        before = {who: spent() for who, spent in way.spent.items()}
        rate = await throughput(way.url, way.path, callers, seconds)
        each = {who: round(1e6 * (spent() - before[who]) / max(1, rate * seconds)) for who, spent in way.spent.items()}
        found[name] = {"rate": round(rate, 1)} | ({"cpu_us_per_request": each} if each else {})
    return found


async def throughput(url: str, path: str, callers: int, seconds: float) -> float:
    """Requests per second that `callers` closed-loop callers complete."""
    ends_at = time.perf_counter() + seconds
    done = 0

    async def one() -> None:
        nonlocal done
        async with Caller(url) as caller:
            while time.perf_counter() < ends_at:
                await caller.post(path, body_for(path))
                done += 1

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(callers)))
    return done / (time.perf_counter() - began)


async def per_token(urls: dict[str, str], tokens: int) -> dict[str, Any]:
    """Delay of native tokens at 50 streams of 40 tokens/s, from the engine's stamp to the arrival."""
    found: dict[str, Any] = {}
    for name, url in urls.items():
        delays: list[float] = []
        await asyncio.gather(*(_stream(url, tokens, delays) for _ in range(50)))
        found[name] = percentiles(delays)
        for figure in ("p50_ms", "p99_ms") if name != "direct" else ():
            found[name][f"added_{figure}"] = round(found[name][figure] - found["direct"][figure], 3)
    return found


async def _stream(url: str, tokens: int, delays: list[float]) -> None:
    body = msgspec.json.encode({"model": MODEL, "prompt": f"count {tokens}"})
    async with Caller(url) as caller:
        rest = b""
        async for piece in caller.pieces(GENERATE, body):
            arrived = time.time()
            *lines, rest = (rest + piece).split(b"\n")
            delays.extend(delay_of(line, arrived) for line in lines if line)


def as_text(figures: dict[str, Any]) -> str:
    """The figures as lines that a person reads."""
    heading = f"{'one token':18}{'p50 ms':>9}{'p99 ms':>9}{'added p50':>11}{'added p99':>11}"
    lines = [f"{heading}{'/s at 16':>11}{'/s at 64':>11}{'CPU us':>9}  of which, at 16 callers"]
    rates_ = figures["requests_per_s"]
    for name, v in figures["one_caller"].items():
        each = rates_["16"][name].get("cpu_us_per_request", {})
        parts = ", ".join(f"{who} {us}" for who, us in each.items()) if len(each) > 1 else ""
        lines.append(
            f"{name:18}{v['p50_ms']:>9}{v['p99_ms']:>9}{v.get('added_p50_ms', ''):>11}{v.get('added_p99_ms', ''):>11}"
            f"{rates_['16'][name]['rate']:>11}{rates_['64'][name]['rate']:>11}{sum(each.values()) or '':>9}  {parts}"
        )
    for name, v in figures["per_token_50_streams"].items():
        if name != "direct":
            added = f"added p50 {v['added_p50_ms']} ms, p99 {v['added_p99_ms']} ms"
            lines.append(f"per token through {name}, 50 streams of 40/s: {added}")
    lines.append(f"bars: {figures['bars']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
