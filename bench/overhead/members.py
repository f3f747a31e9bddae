"""What it costs that the server knows everybody: an open fleet and one of members, asked by turns in one run.

Members show signed claims, and each may say and hear what its role may; encryption is left out of the comparison.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from bench.overhead import measures
from bench.processes import actor, control, instant_engine, node, running
from sollol_agents.lab.testing.members import Members
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.subjects import Role

_ROLES = {"control": Role.CONTROL, "bench": Role.NODE, "laptop": Role.CLIENT}
_SLOTS = 128


@asynccontextmanager
async def _asked(folder: Path, engine_url: str, *, knows: bool) -> AsyncIterator[tuple[Client, str]]:
    """A client of a fleet of processes, and the address of its gateway."""
    await asyncio.to_thread(folder.mkdir)
    members = Members(folder, _ROLES)
    extra = members.server_config if knows else ""
    shown = {name: members.creds_file(name) if knows else "" for name in _ROLES}
    async with AsyncExitStack() as floor:
        config = EmbeddedServerConfig(port=0, store_dir=str(folder / "nats"), extra_config=extra)
        url = (await floor.enter_async_context(EmbeddedServer(config))).url
        await floor.enter_async_context(control(url, log_dir=folder, creds_file=shown["control"]))
        await floor.enter_async_context(node(url, engine_url, slots=_SLOTS, log_dir=folder, creds_file=shown["bench"]))
        command = ["gateway", "--port", "0"]
        gateway = await floor.enter_async_context(actor(command, url, folder, creds_file=shown["control"]))
        laptop = BusConfig(url=url, name="laptop", creds_file=shown["laptop"] or None)
        client = await floor.enter_async_context(Client(laptop))
        await client.generate(measures.MODEL, "count 0")
        yield client, gateway.address("http")


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Medians over rounds: p50 of one caller over the bus and over HTTP, and requests per second of 16 callers."""
    rounds, count, seconds = (2, 30, 0.5) if options.quick else (7, 200, 3.0)
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    async with AsyncExitStack() as floor:
        engine = await floor.enter_async_context(running("engine", instant_engine(measures.MODEL), log_dir=folder))
        url = engine.address("engine")
        http = await floor.enter_async_context(httpx.AsyncClient(timeout=60))
        fleets = {}
        for name in ("open", "members"):
            fleets[name] = await floor.enter_async_context(_asked(folder / name, url, knows=name == "members"))
        for _ in range(rounds):
            for name, (client, gateway) in fleets.items():
                for way, call in (("bus", measures.bus_call(client)), ("http", measures.direct_call(http, gateway))):
                    one = await measures.sequential(call, count=count, warm_up=5)
                    samples[name][f"{way}_p50_ms"].append(measures.percentiles(one)["p50_ms"])
                    rate = await measures.throughput(call, callers=16, seconds=seconds)
                    samples[name][f"{way}_requests_per_s"].append(round(rate, 1))
    found: dict[str, Any] = {name: {k: round(median(v), 3) for k, v in of.items()} for name, of in samples.items()}
    found["ratio"] = {k: round(found["members"][k] / found["open"][k], 3) for k in found["open"]}
    return found


def as_text(figures: dict[str, Any]) -> str:
    """The figures as lines that a person reads."""
    lines = [f"{'median of rounds':24}{'open':>10}{'members':>10}{'ratio':>8}"]
    for name, ratio in figures["ratio"].items():
        lines.append(f"  {name:22}{figures['open'][name]:>10}{figures['members'][name]:>10}{ratio:>8}")
    return "\n".join(lines)
