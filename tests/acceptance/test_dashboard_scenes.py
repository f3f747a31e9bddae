"""The dashboard's page in what people see first and fear most: nothing, work, a death, a queue, a batch, silence.

One fleet is led through all of it before one page, which is looked at in both sizes and both themes. NATS, the
dashboard's process and Chromium are real; what nodes, scorer, recorder and dispatcher would say is made up, because no
real fleet stands still to be looked at. Pictures go to `build/screenshots`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import pytest_asyncio

from bench.dashboard.fake_fleet import MODELS, FakeFleet
from sollol_agents.children import Child
from sollol_agents.lab.testing.dashboard import CHROMIUM, CUT, HAS_ALL, PALE, Watched, watched
from sollol_agents.lab.testing.warm_start import WarmChild
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_schemas import subjects
from sollol_schemas.batch_progress import BatchListReply, BatchReason, BatchStage, BatchView
from sollol_schemas.instants import instant
from sollol_schemas.jobs import JobListReply, JobState, JobStatus
from sollol_schemas.queries import NodesReply, WaitingShare

if TYPE_CHECKING:
    from playwright.async_api import Page

SCREENSHOTS = Path(os.environ.get("SOLLOL_SCREENSHOTS", "build/screenshots"))
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not HAS_ALL, reason="needs chromium, playwright and nicegui"),
]


class Stage(NamedTuple):
    """Before one page a fleet of which nobody is there."""

    watched: Watched
    bus: Bus
    server: EmbeddedServer
    dashboard: Child
    floor: AsyncExitStack

    @property
    def page(self) -> Page:
        return self.watched.page

    async def fleet(self, nodes: int, decisions_per_s: float) -> FakeFleet:
        """A fleet that works from now on."""
        made = FakeFleet(self.bus, nodes=nodes, decisions_per_s=decisions_per_s)
        made.failing_ratio = 0.0
        working = asyncio.create_task(made.run(), name="fake fleet")  # noqa: TID251 its owner is the floor
        self.floor.callback(working.cancel)
        return made

    async def look(self, name: str) -> None:
        """In both sizes and both themes nothing is cut, nothing leaves the page, and all can be read."""
        for size, (width, height) in SIZES.items():
            await self.page.set_viewport_size({"width": width, "height": height})
            for theme in ("light", "dark"):
                await self.page.emulate_media(color_scheme=theme)
                await self.page.locator(f":root[data-theme={theme}]").wait_for()
                what = f"{name}-{theme}-{size}"
                await self.page.screenshot(path=SCREENSHOTS / f"{what}.png")
                if theme == "light":
                    assert await self.page.evaluate(CUT) == [], what
                    assert await self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), what
                if size == "desktop":
                    assert await self.page.evaluate(PALE) == [], what

    async def turn_to(self, view: str) -> None:
        await self.page.evaluate("view => { location.hash = view }", view)
        heading = "Latency and throughput" if view == "latency" else view.capitalize()
        await self.page.get_by_role("region", name=heading, exact=True).wait_for()


@pytest.fixture(scope="module", autouse=True)
def folder_of_screenshots() -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    from playwright.async_api import async_playwright

    folder = tmp_path_factory.mktemp("scenes")
    async with AsyncExitStack() as floor:
        config = EmbeddedServerConfig(port=0, store_dir=str(folder / "nats"))
        server = await floor.enter_async_context(EmbeddedServer(config))
        bus = await Bus.connect(BusConfig(url=server.url, name="fake-fleet"))
        floor.push_async_callback(bus.close)
        argv = ("sollol_agents.cli", "dashboard", "--nats", server.url, "--port", "0")
        dashboard = await floor.enter_async_context(WarmChild("dashboard", *argv, log_file=folder / "dashboard.log"))
        playwright = await floor.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        floor.push_async_callback(browser.close)
        url = dashboard.served["http"]
        seen = await watched(browser, url)
        await seen.page.goto(url)
        yield Stage(seen, bus, server, dashboard, floor)
        assert seen.wrong == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def six(stage: Stage) -> FakeFleet:
    made = await stage.fleet(6, 6.0)
    made.answer()
    return made


async def test_an_empty_fleet_says_what_to_do_first(stage: Stage) -> None:
    page = stage.page
    await page.get_by_role("heading", name="No node has joined yet").wait_for()
    await page.get_by_role("link", name="No scorer is in office").wait_for()
    connect = page.get_by_role("region", name="Connect")
    await connect.get_by_text("No gateway answers").wait_for()
    await connect.get_by_text(f"nats --server {stage.server.url} req sollol.v1.generate").wait_for()
    await stage.look("empty")


async def test_forty_that_wait_have_a_view_of_their_own(stage: Stage, six: FakeFleet) -> None:
    page = stage.page
    shares = (
        WaitingShare(model=MODELS[0], priority=5, count=31, oldest_s=41.5),
        WaitingShare(model="nobody-has-it:70b", priority=8, count=6, oldest_s=12.0),
        WaitingShare(model=MODELS[1], priority=1, count=3, oldest_s=3.2, is_jobs=True),
    )
    six.queued = 40
    six.replies[subjects.NODES] = NodesReply(nodes=(), scorer="fake", queued=40, waiting=shares)
    await stage.turn_to("queue")
    await page.get_by_role("heading", name="40 requests wait").wait_for()
    await page.get_by_text("no node that is up has the model").wait_for()
    await page.get_by_role("alert").get_by_text("40 requests wait, and").wait_for()
    assert await page.locator(".shares > li").count() == 3
    await stage.look("forty-wait")
    six.queued = 0
    six.replies[subjects.NODES] = NodesReply(nodes=(), scorer="fake")


async def test_a_batch_is_one_row_with_its_progress(stage: Stage, six: FakeFleet) -> None:
    page = stage.page
    states = [*[JobState.DONE] * 120, *[JobState.FAILED] * 3, *[JobState.RUNNING] * 4, *[JobState.QUEUED] * 73]
    now = wall_s()
    at = instant(now - 75)
    jobs = [
        JobStatus(job_id=f"reviews-{n}", state=state, model=MODELS[0], priority=1, submitted_at=at, node_id="node-001")
        for n, state in enumerate(states)
    ]
    alone = JobStatus(
        job_id="story",
        state=JobState.DONE,
        model=MODELS[1],
        node_id="node-002",
        submitted_at=at,
        started_at=at,
        finished_at=instant(now - 67.5),
    )
    reviews = BatchView(
        batch_id="reviews",
        stage=BatchStage.RUNNING,
        total=200,
        submitted=200,
        done=120,
        failed=3,
        running=4,
        waiting=73,
        by_node={"node-001": 70, "node-002": 50},
        reasons=(BatchReason(code="context_too_small", message="the prompt has 9,000 tokens, 8,192 fit", count=3),),
        began_at=at,
        rate_per_s=1.6,
        left_s=48.0,
    )
    six.replies[subjects.JOB_LIST] = JobListReply(jobs=(alone, *jobs), waiting={"1": 77})
    six.replies[subjects.BATCH_LIST] = BatchListReply(batches=(reviews,))
    await stage.turn_to("jobs")
    batch = page.get_by_role("progressbar", name="Batch reviews")
    await batch.wait_for()
    assert await batch.get_attribute("aria-valuetext") == "123 of 200, 3 failed, 4 running"
    story = page.locator(".job", has_text="story")
    for said in ("node-002", "7.5 s"):
        await story.get_by_text(said).wait_for()
    assert await page.locator(".job", has_text="reviews-").count() == 0, "its jobs are not listed one by one"
    await page.locator(".tile", has_text="wait or run").get_by_text("77").wait_for()
    await stage.look("batch")
    await page.get_by_role("button", name="reviews", exact=True).click()
    await page.locator(".job", has_text="reviews-199").wait_for()


async def test_six_nodes_at_work_stand_in_rows_with_their_curves(stage: Stage, six: FakeFleet) -> None:
    page = stage.page
    await stage.turn_to("fleet")
    for number in range(6):
        await page.get_by_role("button", name=f"Open node-00{number}").wait_for()
    await page.locator(".pulse .spark polyline").first.wait_for(state="attached", timeout=30_000)
    await page.locator(".node-row .spark polyline").first.wait_for(state="attached")
    await page.get_by_role("alert").get_by_text("No scorer").wait_for(state="hidden")
    assert await page.locator("ul[aria-label=Nodes] > li").count() == 6
    await stage.look("six")
    await stage.turn_to("latency")
    labels = await page.locator(".chart").first.locator("text[text-anchor=middle]").all_text_contents()
    assert labels
    assert all(re.fullmatch(r"\d\d:\d\d(:[0-5][05])?", label) for label in labels), "round times"
    assert await page.locator(".chart").first.locator("path.line").count() == 4, "every mode in one chart"
    await stage.look("latency")


async def test_a_death_is_said_above_all_and_stands_first(stage: Stage, six: FakeFleet) -> None:
    page = stage.page
    await stage.turn_to("fleet")
    six.kill("node-004")
    await page.get_by_role("alert").get_by_text("node-004 is down.").wait_for()
    first = page.locator("ul[aria-label=Nodes] > li").first
    await first.get_by_text("no heartbeat for 5 s").wait_for()
    assert await first.get_by_role("heading").inner_text() == "node-004"
    await stage.look("death")


@contextmanager
def frozen(pid: int | None) -> Iterator[None]:
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_bus_that_stands_still_is_said(stage: Stage, six: FakeFleet) -> None:
    page = stage.page
    with frozen(stage.server.pid):
        await page.get_by_role("alert").get_by_text("The NATS server does not answer").wait_for()
    await page.get_by_text("The NATS server does not answer").wait_for(state="hidden")


async def test_two_hundred_nodes_are_seen_at_a_glance_without_holes(stage: Stage, six: FakeFleet) -> None:
    page = stage.page
    many = await stage.fleet(200, 10.0)
    many.queued = 0
    await stage.turn_to("fleet")
    await page.locator("ul[aria-label=Nodes] > li").nth(199).wait_for(state="attached", timeout=30_000)
    assert await page.locator(".map-cells .cell").count() == 200
    many.kill("node-150")
    await page.locator(".map-cells .cell.bad[title^=node-150]").wait_for()
    await stage.look("two-hundred")


async def test_a_server_that_stands_still_is_said(stage: Stage, six: FakeFleet) -> None:
    page = stage.page
    assert stage.watched.wrong == []
    with frozen(stage.dashboard.pid):
        await page.get_by_role("alert").get_by_text("The dashboard does not answer").wait_for()
        await page.locator("main.stale").wait_for()
        await stage.look("frozen")
    await page.get_by_text("The dashboard does not answer").wait_for(state="hidden")
    stage.watched.wrong.clear()  # the browser complains of what did not answer
