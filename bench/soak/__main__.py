"""What grows while the system works: every process, and every store.

    python -m bench.soak [--minutes 30] [--quick] [--json] [--out FILE]

Streams, short calls and jobs, by HTTP and by plain NATS, on two emulated engines; every actor is a process. Slopes are
those of the last two thirds, for each hour. Beside the JSON it draws an SVG.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench.command import parser_of, started
from bench.faults.load import LONG, MODEL, PAUSE_S, SHORT, Caller
from bench.faults.stage import SLOTS, TPS
from bench.soak.slopes import picture, settled, slope
from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_bus.jetstream.api import api
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus

STREAMS, CALLERS, JOBS_PER_S = 10, 4, 5.0
SAMPLES = 180
PER_PROCESS = {"rss_mib": "memory, MiB", "fds": "descriptors", "threads": "threads", "cpu_cores": "processor, cores"}
PER_STORE = {"jetstream_mib": "JetStream, MiB", "sqlite_mib": "SQLite, MiB"}
_ENGINE = ("--preset", "steady", "--decode-tps", TPS, "--model", f"{MODEL}=1", "--preload", MODEL, "--parallel", SLOTS)


class Account(msgspec.Struct):
    """JetStream's account of itself."""

    storage: int = 0
    memory: int = 0


class Samples:
    """What was seen of each process and each store, at every instant."""

    def __init__(self, processes: dict[str, psutil.Process], database: Path, bus: Bus) -> None:
        self.at_s: list[float] = []
        """Seconds since the start."""
        self.requests: list[float] = []
        """Calls and jobs so far."""
        self.of_processes: dict[str, dict[str, list[float]]] = {kind: {} for kind in PER_PROCESS}
        self.of_stores: dict[str, list[float]] = {kind: [] for kind in PER_STORE}
        self._processes = processes
        self._database = database
        self._bus = bus
        self._began = time.monotonic()
        self._cpu_s: dict[str, tuple[float, float]] = {}

    async def take(self, requests: int) -> None:
        """Looks at everything once."""
        now = time.monotonic() - self._began
        self.at_s.append(round(now, 1))
        self.requests.append(requests)
        for name, process in self._processes.items():
            for kind, value in self._seen(name, process, now).items():
                self.of_processes[kind].setdefault(name, []).append(round(value, 3))
        account = msgspec.json.decode(await api(self._bus, "INFO"), type=Account)
        files = await asyncio.to_thread(lambda: sum(f.stat().st_size for f in _files_of(self._database)))
        self.of_stores["jetstream_mib"].append(round((account.storage + account.memory) / 2**20, 3))
        self.of_stores["sqlite_mib"].append(round(files / 2**20, 3))

    def figures(self) -> dict[str, Any]:
        """First and last values, and slopes for each hour."""
        start = settled(self.at_s)
        at_s = self.at_s[start:]
        minutes = round(self.at_s[-1] / 60, 1)
        requests = self.requests[-1] - self.requests[start]
        growth = {kind: values[-1] - values[start] for kind, values in self.of_stores.items()}
        return {
            "minutes": minutes,
            "requests": self.requests[-1],
            "processes": {
                name: {kind: _row(at_s, self.of_processes[kind][name][start:]) for kind in PER_PROCESS}
                for name in self._processes
            },
            "stores": {
                kind: _row(at_s, values[start:]) | {"bytes_a_request": round(growth[kind] * 2**20 / max(1.0, requests))}
                for kind, values in self.of_stores.items()
            },
            "samples": {"at_s": self.at_s, "requests": self.requests, **self.of_processes, **self.of_stores},
        }

    def _seen(self, name: str, process: psutil.Process, now: float) -> dict[str, float]:
        with process.oneshot():
            times = process.cpu_times()
            spent_s = times.user + times.system
            before_s, at = self._cpu_s.get(name, (spent_s, now - 1.0))
            self._cpu_s[name] = (spent_s, now)
            return {
                "rss_mib": process.memory_info().rss / 2**20,
                "fds": process.num_fds(),
                "threads": process.num_threads(),
                "cpu_cores": (spent_s - before_s) / (now - at),
            }


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one run."""
    duration_s = 20.0 if options.quick else 60.0 * options.minutes
    async with AsyncExitStack() as floor:
        store = EmbeddedServerConfig(port=0, store_dir=str(folder / "nats"))
        server = await floor.enter_async_context(EmbeddedServer(store))
        fleet = await floor.enter_async_context(ProcessFleet(folder, server.url))
        http_url = await _start(fleet)
        bus = await Bus.connect(fleet.bus_config("bench"))
        floor.push_async_callback(bus.close)
        processes = {child.name: psutil.Process(child.pid) for child in fleet.children}
        assert server.pid is not None
        samples = Samples({"nats-server": psutil.Process(server.pid), **processes}, folder / "recorder.sqlite3", bus)
        caller = Caller("", http_url, server.url, "soak", itertools.count())
        await caller.connect()
        try:
            await _work(caller, samples, duration_s)
        finally:
            await caller.close()
        figures = samples.figures()
    figures["failed"] = sum(bool(sample.error) for sample in caller.samples)
    if options.out is not None:
        panels = {title: samples.of_processes[kind] for kind, title in PER_PROCESS.items()}
        panels |= {title: {"all": samples.of_stores[kind]} for kind, title in PER_STORE.items()}
        await asyncio.to_thread(options.out.with_suffix(".svg").write_text, picture(samples.at_s, panels))
    return figures


async def _start(fleet: ProcessFleet) -> str:
    """Starts every actor; the gateway's address."""
    await fleet.actor("recorder", "--database", str(fleet.folder / "recorder.sqlite3"))
    await fleet.actor("scorer")
    await fleet.actor("dispatcher")
    port = free_port()
    await fleet.actor("gateway", "--host", "127.0.0.1", "--port", str(port))
    for node_id in ("attic", "cellar"):
        engine = await fleet.emulator(node_id, *_ENGINE)
        await fleet.node(node_id, engine.url, "--slots", SLOTS)
    return f"http://127.0.0.1:{port}"


async def _work(caller: Caller, samples: Samples, duration_s: float) -> None:
    """Calls and stores jobs for so long, and looks at everything now and then."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + duration_s

    async def call(way: str, wanted: int) -> None:
        while loop.time() < ends_at:
            await caller.call(way, wanted)
            await asyncio.sleep(PAUSE_S)

    async def submit() -> None:
        for number in itertools.count():
            if loop.time() >= ends_at:
                return
            await caller.submit(f"soak-{number}")
            await asyncio.sleep(1 / JOBS_PER_S)

    async with asyncio.TaskGroup() as group:
        for number in range(STREAMS + CALLERS):
            group.create_task(call(("http", "nats")[number % 2], LONG if number < STREAMS else SHORT))
        group.create_task(submit())
        while loop.time() < ends_at:
            await samples.take(len(caller.samples) + len(caller.acked))
            await asyncio.sleep(min(10.0, duration_s / SAMPLES * 2))


def _files_of(database: Path) -> list[Path]:
    """The database with its log."""
    return [file for file in (database, database.with_name(f"{database.name}-wal")) if file.exists()]


def _row(at_s: list[float], values: list[float]) -> dict[str, float]:
    mean = sum(values) / len(values)
    return {
        "first": values[0],
        "last": values[-1],
        "mean": round(mean, 3),
        "slope_an_hour": round(slope(at_s, values), 2),
    }


def as_text(figures: dict[str, Any]) -> str:
    """The figures as a table that a person reads."""
    columns = {"MiB": 8, "MiB/h": 9, "fds": 6, "fds/h": 8, "threads": 9, "thr/h": 8, "cores": 8, "cores/h": 9}
    head = f"{'process':16}" + "".join(f"{name:>{width}}" for name, width in columns.items())
    lines = [f"{figures['minutes']} min, {figures['requests']:.0f} requests, {figures['failed']} failed", head]
    for name, row in figures["processes"].items():
        rss, fds, threads, cpu = (row[kind] for kind in PER_PROCESS)
        lines.append(
            f"{name:16}{rss['last']:>8.1f}{rss['slope_an_hour']:>9}{fds['last']:>6.0f}{fds['slope_an_hour']:>8}"
            f"{threads['last']:>9.0f}{threads['slope_an_hour']:>8}{cpu['mean']:>8}{cpu['slope_an_hour']:>9}"
        )
    lines += ["", f"{'store':16}{'MiB':>8}{'MiB/h':>9}{'bytes a request':>17}"]
    for kind, row in figures["stores"].items():
        lines.append(
            f"{kind.removesuffix('_mib'):16}{row['last']:>8.1f}{row['slope_an_hour']:>9}{row['bytes_a_request']:>17}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = parser_of("bench.soak", __doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long it works (default 30)")
    sys.exit(started(parser, measure, as_text))
