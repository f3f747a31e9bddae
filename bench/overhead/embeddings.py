"""Embeddings of small texts: what the bus leaves of the engine's own rate, with requests made one and without.

32 callers each ask for one vector after another, straight of the engine and over the bus: of actors that are
processes each, and of all of them in one.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx

from bench.overhead.measures import throughput
from bench.processes import Process, fleet, instant_engine, running
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.routing import Routing

CALLERS: Final = 32
SHARE_BAR: Final = 0.8
_MODEL: Final = "nomic-embed-text"
_SIZE: Final = f"{_MODEL}=0.137"
_SLOTS: Final = 16
_ENGINES: Final = {"instant": (), "steady": ("--parallel", str(_SLOTS), "--preload", _MODEL)}
"""One without any delay, and one that reads at the speed of a small GPU."""


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Texts per second of each way, medians over rounds by turns, and processor time of the actors for one text."""
    rounds, seconds = (2, 0.5) if options.quick else (5, 3.0)
    found: dict[str, Any] = {}
    for preset, more in _ENGINES.items():
        command = instant_engine("unused", "--model", _SIZE, *more)
        command[command.index("instant")] = preset
        for name, served in {f"{preset} engine": _by_processes, f"{preset} engine, one process": _by_one}.items():
            place = folder / name.replace(" ", "-")
            place.mkdir()
            async with running("engine", command, log_dir=place) as engine:
                url = engine.address("engine")
                async with (
                    served(place, url) as (bus_url, processes),
                    Client(BusConfig(url=bus_url, name="bench")) as client,
                    httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=CALLERS)) as http,
                ):
                    await client.embed(_MODEL, "first")
                    found[name] = await _by_turns(_ways(client, http, url), processes, rounds=rounds, seconds=seconds)
    return {"callers": CALLERS, "texts_per_s": found, "bars": {"share": SHARE_BAR}}


@asynccontextmanager
async def _by_processes(place: Path, engine_url: str) -> AsyncIterator[tuple[str, dict[str, Process]]]:
    """A fleet of which every actor is a process."""
    async with (
        EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(place / "nats"))) as server,
        fleet(server.url, engine_url, slots=_SLOTS, log_dir=place) as processes,
    ):
        yield server.url, processes


@asynccontextmanager
async def _by_one(place: Path, engine_url: str) -> AsyncIterator[tuple[str, dict[str, Process]]]:
    """A fleet in one process."""
    command = ["sollol_agents.cli", "up", "--nats-port", "0", "--http-port", "0", "--store-dir", str(place / "up")]
    known = {"SOLLOL_NODE_URL": engine_url, "SOLLOL_NODE_SLOTS": str(_SLOTS)}
    async with running("up", [*command, "--log-level", "warning"], log_dir=place, environment=known) as up:
        yield up.address("nats"), {"up": up}


def _ways(client: Client, http: httpx.AsyncClient, engine_url: str) -> dict[str, Callable[[], Awaitable[object]]]:
    numbers = itertools.count()

    async def direct() -> object:
        body = {"model": _MODEL, "input": f"count down from {next(numbers)}"}
        return (await http.post(f"{engine_url}/api/embed", json=body)).raise_for_status().content

    async def together() -> object:
        return await client.embed(_MODEL, f"count down from {next(numbers)}")

    async def alone() -> object:
        return await client.embed(_MODEL, f"count down from {next(numbers)}", routing=Routing(auto_batch=False))

    return {"direct": direct, "together": together, "alone": alone}


async def _by_turns(
    ways: dict[str, Callable[[], Awaitable[object]]], processes: dict[str, Process], *, rounds: int, seconds: float
) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in ways}
    spent_us: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            before = sum(p.cpu_s for p in processes.values())
            rate = await throughput(call, callers=CALLERS, seconds=seconds)
            spent_us[name].append(1e6 * (sum(p.cpu_s for p in processes.values()) - before) / (rate * seconds))
            rates[name].append(rate)
    return {
        name: {
            "per_s": round(median(rates[name]), 1),
            "share": round(median(rates[name]) / median(rates["direct"]), 3),
            "cpu_us_per_text": round(median(spent_us[name])),
        }
        for name in ways
    }


def as_text(figures: dict[str, Any]) -> str:
    """The figures as lines that a person reads."""
    lines = [f"{'texts/s, 32 callers':32}{'direct':>10}{'together':>10}{'alone':>10}{'share':>8}   (bar {SHARE_BAR})"]
    for name, found in figures["texts_per_s"].items():
        rates = "".join(f"{found[way]['per_s']:>10}" for way in ("direct", "together", "alone"))
        lines.append(f"  {name:30}{rates}{found['together']['share']:>8}")
    return "\n".join(lines)
