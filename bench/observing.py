"""Measures what metrics and tracing cost a request: while they are off, and while they are on.

    python -m bench.observing [--json] [--quick] [--out FILE]

Off, all that is left of them is a look at two attributes here and there: the looks of a request are counted and one is
timed. On, whole requests are timed over three stacks that differ in nothing else, in turns; the engine is emulated
and without any delay, and everything runs in this one process, so that the sum of what all actors do shows.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import timeit
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bench.command import parser_of, started
from bench.overhead.measures import MODEL, percentiles
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.metering.config import MetricsConfig
from sollol_agents.node.config import NodeConfig
from sollol_agents.stack import LocalStack
from sollol_bus.observe.tracing import Tracer, TracingConfig
from sollol_bus.observe.tracing_otel import OtelTracer
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import Bus


def main() -> int:
    """Runs the benchmark and prints its figures; the exit code says only whether it ran."""
    return started(parser_of("bench.observing", __doc__), measure)


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    tracer = OtelTracer(TracingConfig(), service="bench", processor=BatchSpanProcessor(InMemorySpanExporter()))
    figures: dict[str, Any] = {}
    emulated = EmulatorConfig(preset="instant", model=(MODEL,), preload=(MODEL,))
    async with AsyncExitStack() as floor:
        engine = await floor.enter_async_context(EmulatedNode(emulated))

        async def client_of(name: str, metrics: MetricsConfig | None = None, tracer: Tracer | None = None) -> Client:
            node = NodeConfig(node_id="bench", engine="ollama", url=engine.url, slots=16)
            stack = LocalStack(store_dir=folder / name, nodes=(node,), metrics=metrics, tracer=tracer)
            await floor.enter_async_context(stack)
            return await floor.enter_async_context(stack.client())

        clients = {
            "off": await client_of("off"),
            "metrics": await client_of("metrics", metrics=MetricsConfig(port=0)),
            "tracing": await client_of("tracing", tracer=tracer),
        }
        samples = await in_turns(clients, count=40 if options.quick else 2000)
        figures["request"] = {name: percentiles(taken) for name, taken in samples.items()}
        off = figures["request"]["off"]["p50_ms"]
        figures["added_p50_ms"] = {
            name: round(taken["p50_ms"] - off, 3) for name, taken in figures["request"].items() if name != "off"
        }
        figures["off"] = await of_looks(clients["off"])
    await asyncio.to_thread(tracer.close)
    return figures


async def in_turns(clients: dict[str, Client], *, count: int) -> dict[str, list[float]]:
    """Seconds of `count` requests of each client, in turns, after some that do not count."""
    samples: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(20 + count):
        for name, client in clients.items():
            began = time.perf_counter()
            await client.generate(MODEL, "count 0", options={"num_predict": 1})
            if number >= 20:
                samples[name].append(time.perf_counter() - began)
    return samples


async def of_looks(client: Client) -> dict[str, float]:
    """How often a request looks whether somebody counts or traces, and what that costs while nobody does."""
    requests = 50
    with counted_looks() as looks:
        for _ in range(requests):
            await client.generate(MODEL, "count 0", options={"num_predict": 1})
        await asyncio.sleep(0.1)  # decisions and outcomes are told a little later
    loops = 1_000_000
    bus = client.bus
    look_ns = min(timeit.repeat("bus.tracer is not None", globals={"bus": bus}, number=loops, repeat=5)) / loops * 1e9
    per_request = len(looks) / requests
    return {
        "looks_per_request": per_request,
        "look_ns": round(look_ns, 1),
        "per_request_us": round(per_request * look_ns / 1e3, 3),
    }


@contextmanager
def counted_looks() -> Iterator[list[str]]:
    """The names of the attributes `tracer` and `meter` as they are looked at."""
    looks: list[str] = []

    def spy(bus: Bus, name: str) -> object:
        if name in ("tracer", "meter"):
            looks.append(name)
        return object.__getattribute__(bus, name)

    Bus.__getattribute__ = spy  # type: ignore[method-assign, assignment]
    try:
        yield looks
    finally:
        del Bus.__getattribute__


if __name__ == "__main__":
    sys.exit(main())
