"""Measures what a fleet costs that nobody asks anything, and what it costs to look at one.

    python -m bench.idle [--json] [--quick] [--out FILE]

Six nodes on emulated engines, scorer, recorder, dispatcher, gateway and nats-server, each a process; engines and
callers do not count. Then ten requests a second, with `sollol top` in a terminal and with a page of the dashboard in
Chromium without a screen, each view in turn. Shares are processor seconds of the process over seconds of the clock, so
that other work on the machine changes them little.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from bench.browser import Chromium, chromium_path
from bench.command import parser_of, started
from bench.idle.terminal import Terminal
from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig

BARS: Final = {"idle": 0.02, "top": 0.03, "dashboard": 0.03}
NODES: Final = 6
DECISIONS_PER_S: Final = 10.0
MODEL: Final = "llama3.2:3b"
_ENGINE: Final = ("--preset", "steady", "--model", f"{MODEL}=1", "--preload", MODEL, "--parallel", "4")
_SETTLE_S: Final = 5.0
"""After the start, until what is asked at the start is asked and what is kept is kept."""
_VIEWS_OF_TOP: Final = {"fleet": "1", "queue": "2", "decisions": "3"}
_VIEWS_OF_PAGES: Final = ("fleet", "decisions", "queue", "latency", "jobs")


def main() -> int:
    """Runs the benchmark and prints its figures; the exit code says only whether it ran."""
    return started(parser_of("bench.idle", __doc__), measure, as_text)


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    idle_s, view_s = (5.0, 3.0) if options.quick else (30.0, 20.0)
    figures: dict[str, Any] = {"nodes": NODES, "seconds": {"idle": idle_s, "view": view_s}, "bars": BARS}
    async with AsyncExitStack() as floor:
        store = EmbeddedServerConfig(port=0, store_dir=str(folder / "nats"))
        server = await floor.enter_async_context(EmbeddedServer(store))
        fleet = await floor.enter_async_context(ProcessFleet(folder, server.url))
        await start(fleet)
        assert server.pid is not None
        engines = {child.pid for child in fleet.children if child.name.endswith("-engine")}
        actors = {child.name: child.pid for child in fleet.children if child.pid not in engines}
        actors["nats-server"] = server.pid
        await asyncio.sleep(_SETTLE_S)
        figures["idle"] = await shares(actors, idle_s)
        figures["idle_ratio"] = round(sum(figures["idle"].values()), 4)
        figures["decisions_per_s"] = DECISIONS_PER_S
        async with asked(fleet):
            figures["working"] = await shares(actors, view_s)
            figures["top"] = await of_top(fleet, view_s)
            figures["dashboard"] = await of_dashboard(fleet, view_s)
    figures["holds"] = {
        "idle": figures["idle_ratio"] <= BARS["idle"],
        "top": max(figures["top"].values()) <= BARS["top"],
        "dashboard": max(figures["dashboard"].values(), default=1.0) <= BARS["dashboard"],
    }
    return figures


async def start(fleet: ProcessFleet) -> None:
    """Starts every actor, as users do."""
    fleet.starts_anew = True
    await fleet.actor("recorder", "--database", str(fleet.folder / "recorder.sqlite3"))
    await fleet.actor("scorer")
    await fleet.actor("dispatcher")
    await fleet.actor("gateway", "--host", "127.0.0.1", "--port", str(free_port()))
    for number in range(NODES):
        engine = await fleet.emulator(f"engine-{number}", *_ENGINE)
        await fleet.node(f"node-{number}", engine.url, "--slots", "4")


async def shares(pids: Mapping[str, int], seconds: float) -> dict[str, float]:
    """The share of one core that each process uses."""
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    before = {name: _cpu_s(process) for name, process in processes.items()}
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took_s = time.perf_counter() - began
    return {name: round((_cpu_s(process) - before[name]) / took_s, 4) for name, process in processes.items()}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def asked(fleet: ProcessFleet) -> AsyncIterator[None]:
    """The fleet is asked for answers of some tokens, ten times a second; each lasts half a second."""
    async with fleet.client() as client, asyncio.TaskGroup() as group:
        flow = group.create_task(_flow(client))
        try:
            yield
        finally:
            flow.cancel()


async def _flow(client: Client) -> None:
    due = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(client.generate(MODEL, "count 20"))
            due += 1 / DECISIONS_PER_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def of_top(fleet: ProcessFleet, seconds: float) -> dict[str, float]:
    """The share of `sollol top`, by the view that is seen."""
    found: dict[str, float] = {}
    async with Terminal("sollol_agents.cli", "top", "--nats", fleet.nats_url) as terminal:
        await terminal.drawn()
        for view, key in _VIEWS_OF_TOP.items():
            terminal.press(key)
            await asyncio.sleep(_SETTLE_S)
            found |= await shares({view: terminal.pid}, seconds)
    return found


async def of_dashboard(fleet: ProcessFleet, seconds: float) -> dict[str, float]:
    """The share of the dashboard's server, by the view that one page shows; nothing without a browser."""
    if chromium_path() is None:
        return {}
    child = await fleet.actor("dashboard", "--port", "0")
    found: dict[str, float] = {}
    async with Chromium() as browser:
        found |= await shares({"no page": child.pid}, seconds)
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        await page.goto(child.served["http"])
        await page.locator(".node").nth(NODES - 1).wait_for(state="attached", timeout=30_000)
        for view in _VIEWS_OF_PAGES:
            await page.evaluate("view => { location.hash = view }", view)
            await page.locator("section.view").wait_for()
            await asyncio.sleep(_SETTLE_S)
            found |= await shares({view: child.pid}, seconds)
        await page.close()
    return found


def as_text(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'share of a core':20}{'idle':>8}{'working':>10}"]
    lines += [f"  {name:18}{share:>8.2%}{figures['working'][name]:>10.2%}" for name, share in figures["idle"].items()]
    lines.append(f"  {'all':18}{figures['idle_ratio']:>8.2%}{sum(figures['working'].values()):>10.2%}")
    lines += [f"top, {view:21}{share:>12.2%}" for view, share in figures["top"].items()]
    lines += [f"dashboard, {view:15}{share:>12.2%}" for view, share in figures["dashboard"].items()]
    if not figures["dashboard"]:
        lines.append("dashboard: not measured, there is no Chromium")
    lines.append(", ".join(f"{name} {'holds' if held else 'DOES NOT HOLD'}" for name, held in figures["holds"].items()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
