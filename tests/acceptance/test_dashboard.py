"""The dashboard in a real browser, on a fleet that works: what it shows is true, and what it is told is done.

Needs Chromium (`apt-get install chromium`) and Playwright, which drives it. Engines are emulated (fakes); everything
else is real. Screenshots of every view go to `build/screenshots`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
import pytest_asyncio

from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.lab.emulator import Fault
from sollol_agents.lab.emulator.faults import FaultKind
from sollol_agents.lab.testing.dashboard import (
    CHROMIUM,
    CUT,
    HAS_ALL,
    LARGE,
    SMALL,
    System,
    Watched,
    recorded,
    unused,
    watched,
    working_system,
)
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus import Routing
from sollol_bus.errors import SollolError
from sollol_bus.sdk.jobs import make_job
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_schemas.events import BreakerState
from sollol_schemas.jobs import JobState
from sollol_schemas.telemetry import NodeState

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

SCREENSHOTS = Path(os.environ.get("SOLLOL_SCREENSHOTS", "build/screenshots"))

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not HAS_ALL, reason="needs chromium, playwright and nicegui"),
]


@pytest.fixture(scope="module", autouse=True)
def folder_of_screenshots() -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with working_system(tmp_path_factory.mktemp("fleet")) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        made = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tab(system: System, browser: Browser) -> AsyncIterator[Watched]:
    """One for all tests: a browser takes a second of work for each."""
    opened = await watched(browser, system.url)
    yield opened
    await opened.page.context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(system: System, tab: Watched) -> AsyncIterator[Page]:
    """A page that nobody has opened yet, and that remembers nothing of the test before."""
    async with unused(tab, system.url) as opened:
        yield opened


async def turn_to(page: Page, system: System, view: str) -> None:
    if not page.url.startswith(system.url):
        await page.goto(f"{system.url}/#{view}")
    else:
        await page.evaluate("view => { location.hash = view }", view)
    heading = "Latency and throughput" if view == "latency" else view.capitalize()
    await page.get_by_role("region", name=heading, exact=True).wait_for()


@pytest.mark.parametrize(
    ("theme", "width", "height"), [("light", 1280, 800), ("dark", 390, 844)], ids=["desktop", "phone"]
)
async def test_every_view_shows_the_working_fleet(
    system: System, browser: Browser, theme: str, width: int, height: int
) -> None:
    page, wrong = await watched(browser, system.url, width=width, height=height, theme=theme)

    async def shoot(name: str) -> None:
        assert await page.evaluate(CUT) == [], name
        is_whole = name in ("fleet", "latency", "settings")
        await page.screenshot(path=SCREENSHOTS / f"{name}-{theme}-{width}.png", full_page=is_whole)

    await turn_to(page, system, "fleet")
    for node in ("attic", "studio", "cellar"):
        await page.get_by_role("heading", name=node, exact=True).wait_for()
    await page.locator(".slot.writing").first.wait_for()
    await shoot("fleet")
    await page.get_by_role("button", name="Open studio").click()
    await page.get_by_role("dialog").get_by_text("Models on disk").wait_for()
    await page.get_by_role("dialog").get_by_text(LARGE).first.wait_for()
    await shoot("node")
    await page.keyboard.press("Escape")

    await turn_to(page, system, "decisions")
    await page.locator(".decision .state.good").first.wait_for()
    await shoot("decisions")
    await page.locator(".decision", has=page.locator(".state.good")).first.click()
    await page.locator(".drawer .terms").first.wait_for()
    await shoot("explanation")
    await page.keyboard.press("Escape")

    await turn_to(page, system, "latency")
    await page.locator("path.line.s2[d^=M]").first.wait_for(state="attached")
    await shoot("latency")
    await turn_to(page, system, "jobs")
    await page.locator(".job", has_text="nightly-report").wait_for()
    await shoot("jobs")
    await page.get_by_role("button", name="nightly-report").click()
    await page.get_by_role("dialog").get_by_role("region", name="Prompt").get_by_text("x", exact=True).wait_for()
    await page.keyboard.press("Escape")
    await turn_to(page, system, "queue")
    await page.locator(".chart path.line").wait_for(state="attached")
    await shoot("queue")
    await turn_to(page, system, "settings")
    await page.get_by_role("radio", name="Plan").wait_for()
    await shoot("settings")
    await turn_to(page, system, "playground")
    await page.get_by_label("Prompt").fill("Why is the sky blue?")
    await page.get_by_role("button", name="Run").click()
    await page.get_by_role("region", name="Decision").wait_for()
    await page.get_by_text("first token after").wait_for()
    await shoot("playground")
    await page.context.close()
    assert wrong == []


async def test_a_click_on_a_decision_explains_it_with_every_candidate_and_term(system: System, page: Page) -> None:
    answer = await system.client.generate(SMALL, "why is the sky blue?")
    await turn_to(page, system, "decisions")
    assert answer.decision is not None
    why = await recorded(system.client, answer.request_id)
    await page.locator(".decision", has=page.locator(".state.good")).first.wait_for()
    row = page.locator(f"[data-request='{answer.request_id}']").first
    await row.click()
    drawer = page.get_by_role("dialog", name="Why this node?")
    await drawer.get_by_text(answer.decision.reason).wait_for()
    shown = await drawer.locator(".candidate summary b:first-child").all_text_contents()
    assert {c.node_id for c in why[0].candidates} <= set(shown)
    assert "writing" in await drawer.locator(".candidate.chosen .terms").inner_text()


async def test_a_strategy_chosen_on_the_page_is_the_scorers(system: System, page: Page) -> None:
    await turn_to(page, system, "settings")
    await page.get_by_role("radio", name="Round Robin").check()
    await page.get_by_text("Strategy is round_robin (was plan)").wait_for()
    assert (await system.client.strategy()).strategy == "round_robin"
    await system.client.set_strategy("plan")  # changed elsewhere: the page follows without a reload
    await page.locator(".option.chosen", has_text="Plan").wait_for()


async def test_a_threshold_changed_on_the_page_is_the_scorers(system: System, page: Page) -> None:
    await turn_to(page, system, "settings")
    await page.get_by_label("Wait for a better node", exact=True).fill("0.45")
    await page.get_by_text("Then requests take what is free sooner.").wait_for()
    await page.get_by_role("button", name="Apply").click()
    await page.get_by_text("Settings changed: hold = 0.45").first.wait_for()
    assert (await system.client.strategy()).settings["hold"] == 0.45
    await page.get_by_label("Wait for a better node", exact=True).fill("7")
    await page.get_by_text("It must be below 1.").wait_for()
    assert await page.get_by_role("button", name="Apply").is_disabled()
    assert (await system.client.strategy()).settings["hold"] == 0.45
    await system.client.set_strategy(hold=0.3)


async def test_the_lines_that_the_page_offers_to_copy_reach_the_fleet(system: System, page: Page) -> None:
    await turn_to(page, system, "fleet")
    await page.get_by_role("button", name="Connect").click()
    panel = page.get_by_role("dialog", name="Connect")
    await panel.get_by_text("sollol fleet init").wait_for()
    lines = await panel.locator("pre").all_text_contents()
    assert all("\n" not in line for line in lines)
    curl = next(line for line in lines if line.startswith("curl "))
    process = await asyncio.create_subprocess_shell(curl, stdout=asyncio.subprocess.PIPE)
    answer, _ = await asyncio.wait_for(process.communicate(), 30)
    assert b'"done":true' in answer.replace(b" ", b"")
    assert any(f"OLLAMA_HOST={system.up.served['http']} ollama run" in line for line in lines)


async def test_a_node_drained_on_the_page_is_drained(system: System, page: Page) -> None:
    async def has_state(state: NodeState) -> bool:
        return {v.node_id: v.state for v in (await system.client.nodes()).nodes}["cellar"] is state

    await turn_to(page, system, "fleet")
    await page.get_by_role("button", name="Open cellar").click()
    await page.get_by_role("button", name="Drain").click()
    await page.locator(".node.draining", has_text="cellar").wait_for()
    await eventually(lambda: has_state(NodeState.DRAINING), complaint="the scorer knows")
    await page.get_by_role("button", name="Put back into service").click()
    await page.locator(".node.up", has_text="cellar").wait_for()
    await eventually(lambda: has_state(NodeState.UP), complaint="the scorer knows")


async def test_weight_loading_and_pulling_from_the_page_reach_the_node(system: System, page: Page) -> None:
    await turn_to(page, system, "fleet")
    await page.get_by_role("button", name="Open attic").click()
    await page.get_by_label("Weight").fill("0.5")
    await page.get_by_role("button", name="Set", exact=True).click()
    await page.locator(".node", has_text="attic").get_by_text("weight 0.50").wait_for()
    drawer = page.get_by_role("dialog")
    await drawer.get_by_label("Model to pull").fill("nomic-embed-text")
    await drawer.get_by_role("button", name="Pull").click()
    await drawer.get_by_role("progressbar").wait_for()
    row = drawer.locator(".models li", has_text="nomic-embed-text")
    await row.get_by_role("button", name="Load").click(timeout=30_000)
    await row.get_by_role("button", name="Unload").click()
    await row.get_by_role("button", name="Load", exact=True).wait_for()
    views = {v.node_id: v.telemetry for v in (await system.client.nodes()).nodes}
    assert views["attic"].weight == 0.5
    assert "nomic-embed-text:latest" in {m.name for m in views["attic"].installed}
    await system.client.set_node("attic", weight=1.0)


async def test_a_job_is_cancelled_and_a_dead_one_retried_from_the_page(system: System, page: Page) -> None:
    client = system.client
    await turn_to(page, system, "jobs")
    later_on = make_job({"model": SMALL, "prompt": "later"}, not_before="2099-01-01T00:00:00Z")
    await client.jobs.submit(later_on, job_id="later-on")
    await client.jobs.submit(make_job({"model": "nobody-has-it", "prompt": "x"}, max_tries=1), job_id="hopeless")
    later = page.locator(".job", has_text="later-on")
    await later.get_by_role("button", name="Cancel").click()
    await later.locator(".state", has_text="cancelled").wait_for()
    assert (await client.jobs.get("later-on")).state is JobState.CANCELLED
    await page.get_by_role("button", name="Dead letters").click()
    hopeless = page.locator(".job", has_text="hopeless")
    await hopeless.get_by_role("button", name="Retry").click()
    await page.get_by_text("Job hopeless runs again").wait_for()

    async def has_run_twice() -> bool:
        return (await client.jobs.get("hopeless")).run == 2

    await eventually(has_run_twice, complaint="the job was run again")


async def test_an_open_breaker_is_shown_and_reset_from_the_page(system: System, page: Page) -> None:
    engine = system.engines["cellar"]
    await engine.add_fault(Fault(kind=FaultKind.OUT_OF_MEMORY, times=0))
    routing = Routing(node_id="cellar", strict=True)

    async def is_open() -> bool:
        with pytest.raises(SollolError):
            await system.client.generate(SMALL, "x", routing=routing)
        return any(b.state is BreakerState.OPEN for b in (await system.client.breakers()).breakers)

    await eventually(is_open, complaint="the breaker of cellar opens")
    await engine.clear_faults()
    await turn_to(page, system, "fleet")
    await page.locator(".node", has_text="cellar").locator(".state.bad", has_text="breaker open").wait_for()
    await turn_to(page, system, "settings")
    await page.get_by_role("region", name="Circuit breakers").get_by_role("button", name="Reset all").click()
    await page.get_by_text("Every breaker is closed").wait_for()
    assert (await system.client.breakers()).breakers == ()


async def test_the_playground_stops_when_told(system: System, page: Page) -> None:
    await turn_to(page, system, "playground")
    await page.get_by_label("Prompt").fill("tell me a very long story")
    await page.get_by_role("button", name="Run").click()
    await page.get_by_role("button", name="Stop").click()
    await page.get_by_role("alert").get_by_text("stopped").wait_for()
    assert await page.get_by_role("button", name="Run").is_enabled()


async def test_everything_is_reached_by_the_keyboard(system: System, page: Page) -> None:
    await turn_to(page, system, "fleet")
    await page.get_by_role("heading", name="attic", exact=True).wait_for()
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
    await page.get_by_role("link", name="Decisions").focus()
    await page.keyboard.press("Enter")
    await page.get_by_role("region", name="Decisions").wait_for()
    await page.locator(".decision").first.focus()
    await page.keyboard.press("Enter")
    await page.get_by_role("dialog", name="Why this node?").wait_for()
    await page.keyboard.press("Escape")
    await page.get_by_role("dialog").wait_for(state="hidden")


async def test_a_node_that_joins_appears_and_one_that_is_killed_is_down_within_six_seconds(
    system: System, page: Page
) -> None:
    await turn_to(page, system, "fleet")
    await page.evaluate("window.wasNotReloaded = true")
    engine = await system.fleet.emulator("shed", "--preset", "m4-mini", "--model", f"{SMALL}=3.2")
    node = await system.fleet.node("shed", engine.url, is_joined=False)
    await page.locator(".node.up", has_text="shed").wait_for()
    node.kill()
    await page.locator(".node.down", has_text="shed").wait_for(timeout=6000)
    await page.get_by_role("alert").get_by_text("shed is down").wait_for()
    assert await page.evaluate("window.wasNotReloaded")


async def test_a_dashboard_that_was_killed_is_back_and_its_page_with_it(system: System, browser: Browser) -> None:
    page, _ = await watched(browser, system.url)
    await turn_to(page, system, "fleet")
    found = [p for p in psutil.Process(system.up.pid).children() if "dashboard" in p.cmdline()]
    assert len(found) == 1
    await page.evaluate("window.isOfTheKilledOne = true")
    found[0].kill()
    await page.wait_for_function("!window.isOfTheKilledOne", timeout=20_000)
    await page.get_by_role("heading", name="studio", exact=True).wait_for()
    await page.context.close()


async def test_pages_of_other_sites_are_refused(system: System) -> None:
    async with httpx.AsyncClient(base_url=system.url, trust_env=False) as http:
        assert (await http.get("/", headers={"host": "evil.example"})).status_code == 421
        assert (await http.get("/", headers={"origin": "http://evil.example"})).status_code == 403
        polling = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
        assert (await http.get(polling, headers={"origin": "http://evil.example"})).status_code == 403
        answer = await http.get("/")
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]


async def test_with_keys_nobody_looks_without_one_and_only_administrators_operate(
    system: System, browser: Browser
) -> None:
    store = KeyStore(system.client.bus)
    _, looker = await store.create("looker")
    _, boss = await store.create("boss", is_admin=True)
    child = await system.fleet.actor("dashboard", "--port", "0", "--require-key")
    url = child.served["http"]
    page, wrong = await watched(browser, url)
    await page.goto(url)
    assert page.url == f"{url}/login"
    await page.get_by_label("API key").fill("sk-sollol-wrong")
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_text("This key is not known.").wait_for()
    assert [text for text in wrong if "401" not in text] == []
    wrong.clear()
    await page.get_by_label("API key").fill(looker)
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_role("button", name="Open studio").click()
    await page.get_by_text("Looking only").wait_for()
    assert await page.get_by_role("button", name="Drain").is_disabled()
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Log out looker").click()
    await page.get_by_label("API key").fill(boss)
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_role("button", name="Open studio").click()
    assert await page.get_by_role("button", name="Drain").is_enabled()
    await store.revoke("boss")
    await page.get_by_label("API key").wait_for()  # an open page ends with its key
    await page.context.close()
    assert wrong == []
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        assert (await http.get("/_nicegui_ws/socket.io/?EIO=4&transport=polling")).status_code == 401


async def test_without_scorer_and_nodes_the_page_says_what_to_do(browser: Browser, tmp_path: Path) -> None:
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"))
    async with AsyncExitStack() as floor, ProcessFleet(tmp_path) as bare:
        server = await floor.enter_async_context(EmbeddedServer(config))
        bare.nats_url = server.url
        child = await bare.actor("dashboard", "--port", "0")
        page, wrong = await watched(browser, child.served["http"], width=390, height=844)
        await page.goto(child.served["http"])
        await page.get_by_text("No scorer is in office").wait_for()
        await page.get_by_text("No node has joined yet").wait_for()
        await page.screenshot(path=SCREENSHOTS / "empty-light-390.png")
        await page.evaluate("location.hash = 'settings'")
        await page.get_by_text("No scorer answers").wait_for()
        await floor.aclose()
        await page.get_by_text("The connection to NATS is lost").wait_for()
        await page.context.close()
        assert wrong == []
