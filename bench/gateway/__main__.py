"""Measures what the HTTP gateway adds to a request, against no gateway and against LiteLLM's proxy.

    python -m bench.gateway [--json] [--quick] [--litellm build/litellm/bin/litellm] [--out FILE]

The engine is the emulated one without any delay; every actor is a process; LiteLLM runs with one worker from a
virtual environment of its own, in front of the same engine; the caller is this process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.command import parser_of, started
from bench.gateway.caller import Caller, delay_of
from bench.overhead.measures import percentiles
from bench.processes import Process, fleet, instant_engine, running
from sollol_agents.lab.testing.ports import free_port
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig

BARS = {"added_p50_ms": 2.5, "added_p99_ms": 6.0, "requests_per_s": 650.0, "added_per_token_p99_ms": 3.0}
MODEL = "bench"
CHAT = "/v1/chat/completions"
GENERATE = "/api/generate"
SLOTS = 128
_CHAT_BODY = msgspec.json.encode(
    {"model": MODEL, "messages": [{"role": "user", "content": "count 0"}], "max_tokens": 1, "stream": True}
)
_GENERATE_BODY = msgspec.json.encode({"model": MODEL, "prompt": "count 0", "options": {"num_predict": 1}})
_LITELLM_READY_WITHIN_S = 90.0
_LITELLM_ENVIRONMENT = {
    "LITELLM_LOG": "ERROR",
    # no key on either side: what is compared is the way of a request, on a loopback address
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}


def main() -> int:
    """Runs the benchmark and prints its figures; the exit code says only whether it ran."""
    parser = parser_of("bench.gateway", __doc__)
    parser.add_argument("--litellm", type=Path, help="the `litellm` command of its own virtual environment")
    return started(parser, measure, as_text)


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    count, seconds, tokens = (50, 0.5, 20) if options.quick else (1000, 5.0, 200)
    figures: dict[str, Any] = {}
    instant = instant_engine(MODEL)
    paced = ["steady" if word == "instant" else word for word in instant]
    paced += ["--parallel", "64", "--preload", MODEL, "--decode-tps", "40"]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(folder / "nats")))
        )
        engine = (await stack.enter_async_context(running("engine", instant, log_dir=folder))).address("engine")
        async with served(server.url, engine, SLOTS, folder) as (processes, gateway):
            ways = {"direct": (engine, CHAT), "gateway": (gateway, CHAT), "gateway_native": (gateway, GENERATE)}
            if options.litellm is not None:
                proxy = await stack.enter_async_context(litellm_proxy(options.litellm, engine, folder))
                ways["litellm"] = (proxy, CHAT)
            figures["one_caller"] = await latency(ways, count)
            figures["requests_per_s"] = {}
            for callers in (16, 64):
                figures["requests_per_s"][str(callers)] = await rates(ways, callers, seconds, processes)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(folder / "nats2")))
        )
        engine = (await stack.enter_async_context(running("paced-engine", paced, log_dir=folder))).address("engine")
        async with served(server.url, engine, 64, folder) as (_, gateway):
            figures["per_token_50_streams"] = await per_token(engine, gateway, tokens)
    figures["bars"] = BARS
    return figures


@asynccontextmanager
async def served(
    nats_url: str, engine_url: str, slots: int, folder: Path
) -> AsyncIterator[tuple[dict[str, Process], str]]:
    """The actors of one fleet and a gateway, each a process, once a request has been answered."""
    command = ["sollol_agents.cli", "gateway", "--nats", nats_url, "--port", "0", "--log-level", "warning"]
    async with (
        fleet(nats_url, engine_url, slots=slots, log_dir=folder) as processes,
        running("gateway", command, log_dir=folder) as gateway,
    ):
        async with Caller(gateway.address("http")) as caller:
            await caller.post(GENERATE, _GENERATE_BODY)
        yield {**processes, "gateway": gateway}, gateway.address("http")


@asynccontextmanager
async def litellm_proxy(command: Path, engine_url: str, folder: Path) -> AsyncIterator[str]:
    """LiteLLM's proxy in front of the engine, one worker, nothing logged; its address."""
    config = folder / "litellm.yaml"
    config.write_text(
        f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n"
        f"      api_base: {engine_url}/v1\n      api_key: none\n"
        "litellm_settings:\n  telemetry: false\n  num_retries: 0\n"
    )
    port = free_port()  # LiteLLM cannot choose a port itself
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with (folder / "litellm.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(command), *arguments, stdout=log, stderr=log, env={**os.environ, **_LITELLM_ENVIRONMENT}
        )
    try:
        url = f"http://127.0.0.1:{port}"
        await _answers(url, process, folder / "litellm.log")
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _answers(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + _LITELLM_READY_WITHIN_S
    while True:
        try:
            async with Caller(url) as caller:
                await caller.post(CHAT, _CHAT_BODY)
        except (OSError, RuntimeError, EOFError) as error:
            if process.returncode is not None or time.monotonic() > deadline:
                said = log.read_text()[-4000:]  # noqa: ASYNC240 the run is over
                raise RuntimeError(f"LiteLLM was not ready: {error}\n{said}") from error
            await asyncio.sleep(0.2)
        else:
            return


def body_for(path: str) -> bytes:
    """A request that makes one token, as a stream."""
    return _CHAT_BODY if path == CHAT else _GENERATE_BODY


async def latency(ways: dict[str, tuple[str, str]], count: int) -> dict[str, Any]:
    """Latency of one caller, the ways taken in turn so that drift of the machine hits all alike."""
    whole: dict[str, list[float]] = {name: [] for name in ways}
    first: dict[str, list[float]] = {name: [] for name in ways}
    rounds = 10
    for _ in range(rounds):
        for name, (url, path) in ways.items():
            async with Caller(url) as caller:
                for number in range(5 + count // rounds):
                    to_first, to_last = await caller.post(path, body_for(path))
                    if number >= 5:
                        first[name].append(to_first)
                        whole[name].append(to_last)
    found: dict[str, Any] = {}
    for name in ways:
        found[name] = percentiles(whole[name]) | {"first_byte_p50_ms": percentiles(first[name])["p50_ms"]}
    for name in found.keys() - {"direct"}:
        for figure in ("p50_ms", "p99_ms", "first_byte_p50_ms"):
            found[name][f"added_{figure}"] = round(found[name][figure] - found["direct"][figure], 3)
    return found


async def rates(
    ways: dict[str, tuple[str, str]], callers: int, seconds: float, processes: dict[str, Process]
) -> dict[str, Any]:
    """Requests per second of closed-loop callers; for our own, the processor time that each actor spends on one."""
    found: dict[str, Any] = {}
    for name, (url, path) in ways.items():
        before = {p.name: p.cpu_s for p in processes.values()}
        rate = await throughput(url, path, callers, seconds)
        found[name] = {"rate": round(rate, 1)}
        if name.startswith("gateway"):
            spent = {
                p.name: round(1e6 * (p.cpu_s - before[p.name]) / max(1, rate * seconds)) for p in processes.values()
            }
            found[name]["cpu_us_per_request"] = spent
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


async def per_token(engine: str, gateway: str, tokens: int) -> dict[str, Any]:
    """Delay of native tokens at 50 streams of 40 tokens/s, from the engine's stamp to the arrival."""
    found: dict[str, Any] = {}
    for name, url in (("direct", engine), ("gateway", gateway)):
        delays: list[float] = []
        await asyncio.gather(*(_stream(url, tokens, delays) for _ in range(50)))
        found[name] = percentiles(delays)
    for figure in ("p50_ms", "p99_ms"):
        found[f"added_{figure}"] = round(found["gateway"][figure] - found["direct"][figure], 3)
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
    lines = [
        f"{'one caller, one token':24}{'p50 ms':>9}{'p99 ms':>9}{'added p50':>11}{'added p99':>11}{'first byte':>12}"
    ]
    for name, v in figures["one_caller"].items():
        added = (v.get("added_p50_ms", ""), v.get("added_p99_ms", ""))
        lines.append(
            f"  {name:22}{v['p50_ms']:>9}{v['p99_ms']:>9}{added[0]:>11}{added[1]:>11}{v['first_byte_p50_ms']:>12}"
        )
    for callers, found in figures["requests_per_s"].items():
        shown = ", ".join(f"{name} {v['rate']}" for name, v in found.items())
        lines.append(f"requests/s, {callers} callers: {shown}")
        lines.append(f"  processor us per request: {found['gateway']['cpu_us_per_request']}")
    token = figures["per_token_50_streams"]
    lines.append(f"per token, 50 streams of 40/s: added p50 {token['added_p50_ms']} ms, p99 {token['added_p99_ms']} ms")
    lines.append(f"bars: {figures['bars']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
