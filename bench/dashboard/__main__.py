"""Measures what the dashboard costs: 200 nodes and 50 decisions a second, made up by a fake fleet.

    python -m bench.dashboard [--json] [--quick] [--out FILE]

Real are the NATS server, the dashboard's process and the browser (Chromium without a screen). Frame times are measured
in the page between animation frames; the processor's share is that of the dashboard's process; memory is watched while
ten minutes of such a fleet pass in one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.browser import Chromium
from bench.command import parser_of, started
from bench.dashboard.fake_fleet import FakeFleet
from sollol_agents.children import Child
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

BARS = {"cpu_per_page_ratio": 0.20, "frame_p95_ms": 50.0, "rss_growth_ratio": 0.05}
NODES, DECISIONS_PER_S, HASTE = 200, 50.0, 10.0
VIEWS = ("fleet", "decisions", "queue", "latency", "jobs", "settings", "playground")
FRAMES = """seconds => new Promise(done => {
    const times = []; let last = performance.now(); const end = last + seconds * 1000;
    const step = now => { times.push(now - last); last = now; now < end ? requestAnimationFrame(step) : done(times); };
    requestAnimationFrame(step);
})"""


def main() -> int:
    """Runs the benchmark and prints its figures; the exit code says only whether it ran."""
    return started(parser_of("bench.dashboard", __doc__), measure, as_text)


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    view_s, hasty_s = (3.0, 6.0) if options.quick else (15.0, 60.0)
    figures: dict[str, Any] = {
        "fleet": "fake: no node, scorer or engine exists",
        "nodes": NODES,
        "decisions_per_s": DECISIONS_PER_S,
        "bars": BARS,
    }
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(folder / "nats")))
        )
        bus = await Bus.connect(BusConfig(url=server.url, name="fake-fleet"))
        stack.push_async_callback(bus.close)
        fake = FakeFleet(bus, nodes=NODES, decisions_per_s=DECISIONS_PER_S)
        fake.answer()
        argv = ("sollol_agents.cli", "dashboard", "--nats", server.url, "--port", "0")
        child = await stack.enter_async_context(Child("dashboard", *argv, log_file=folder / "dashboard.log"))
        browser = await stack.enter_async_context(Chromium())
        group = await stack.enter_async_context(asyncio.TaskGroup())
        flow = group.create_task(fake.run())
        process = psutil.Process(child.pid)
        await asyncio.sleep(3.0)
        sent = fake.sent
        without = await cpu_ratio(process, view_s)
        figures["messages_per_s"] = round((fake.sent - sent) / view_s)
        figures["cpu_without_pages_ratio"] = without
        figures["views"] = await each_view(browser, child.served["http"], process, view_s, without)
        figures["cpu_per_page_ratio"] = max(row["cpu_ratio"] for row in figures["views"].values())
        figures["frame_p95_ms"] = max(row["frame_p95_ms"] for row in figures["views"].values())
        figures |= await many_pages(browser, child.served["http"], process, view_s, without)
        figures |= await memory(browser, child.served["http"], process, fake, hasty_s)
        flow.cancel()
    figures["holds"] = {name: figures[name] <= bar for name, bar in BARS.items()}
    return figures


async def each_view(
    browser: Browser, url: str, process: psutil.Process, seconds: float, without: float
) -> dict[str, dict[str, float]]:
    """For one open page at a time: frame times in the browser, and the share of a core of the server."""
    page = await opened(browser, url)
    found = {}
    for view in VIEWS:
        await page.evaluate("view => { location.hash = view }", view)
        await page.locator("section.view").wait_for()
        await asyncio.sleep(1.5)
        cpu, frames = await asyncio.gather(cpu_ratio(process, seconds), page.evaluate(FRAMES, seconds))
        frames.sort()
        shown = await page.locator(".pulse > div", has_text="decisions").locator("dd").inner_text()
        found[view] = {
            "cpu_ratio": cpu,
            "cpu_of_page_ratio": round(max(0.0, cpu - without), 4),
            "frame_p50_ms": round(frames[len(frames) // 2], 1),
            "frame_p95_ms": round(frames[int(len(frames) * 0.95)], 1),
            "frame_max_ms": round(frames[-1], 1),
            "frames_per_s": round(len(frames) / seconds, 1),
            "decisions_shown_per_s": float(shown.split()[0]),
        }
    await page.context.close()
    return found


async def many_pages(
    browser: Browser, url: str, process: psutil.Process, seconds: float, without: float
) -> dict[str, float]:
    """What four pages of the fleet cost the server."""
    pages = [await opened(browser, url) for _ in range(4)]
    cpu = await cpu_ratio(process, seconds)
    for page in pages:
        await page.context.close()
    return {"cpu_four_pages_ratio": cpu, "cpu_of_each_of_four_ratio": round(max(0.0, cpu - without) / 4, 4)}


async def memory(
    browser: Browser, url: str, process: psutil.Process, fake: FakeFleet, seconds: float
) -> dict[str, Any]:
    """How memory grows while a page is open and time is compressed; the first fifth fills what is bounded."""
    page = await opened(browser, url)
    fake.haste = HASTE
    samples: list[float] = []
    sent = fake.sent
    for _ in range(10):
        await asyncio.sleep(seconds / 10)
        samples.append(round(process.memory_info().rss / 2**20, 1))
    fake.haste = 1.0
    passed = (fake.sent - sent) / (NODES + 3.1 * DECISIONS_PER_S)
    await page.context.close()
    return {
        "compressed_s": round(passed),
        "rss_mib": samples,
        "rss_growth_ratio": round(max(samples[2:]) / samples[2] - 1, 4),
    }


async def opened(browser: Browser, url: str) -> Page:
    """A page that shows the fleet."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    page = await context.new_page()
    await page.goto(url)
    await page.locator(".node").nth(NODES - 1).wait_for(state="attached", timeout=30_000)
    return page


async def cpu_ratio(process: psutil.Process, seconds: float) -> float:
    """The share of one core that the process uses."""
    before, began = process.cpu_times(), time.perf_counter()
    await asyncio.sleep(seconds)
    after, took = process.cpu_times(), time.perf_counter() - began
    return round((after.user + after.system - before.user - before.system) / took, 4)


def as_text(figures: dict[str, Any]) -> str:
    """The figures for people."""
    rate = figures["messages_per_s"]
    lines = [f"{NODES} fake nodes, {DECISIONS_PER_S:g} decisions and {rate} messages a second", ""]
    lines.append(f"{'view':<12}{'server CPU':>12}{'frame p50':>12}{'p95':>10}{'max':>10}")
    for view, row in figures["views"].items():
        lines.append(
            f"{view:<12}{row['cpu_ratio']:>12.1%}{row['frame_p50_ms']:>9.1f} ms{row['frame_p95_ms']:>7.1f} ms"
            f"{row['frame_max_ms']:>7.1f} ms"
        )
    lines.append(f"no page     {figures['cpu_without_pages_ratio']:>12.1%}")
    lines.append(f"four pages  {figures['cpu_four_pages_ratio']:>12.1%}")
    lines.append(f"memory over {figures['compressed_s']} s of such a fleet, MiB: {figures['rss_mib']}")
    lines.append(", ".join(f"{name} {'holds' if held else 'DOES NOT HOLD'}" for name, held in figures["holds"].items()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
