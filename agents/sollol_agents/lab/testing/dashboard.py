"""A working fleet with its dashboard, and pages of it in a real browser that tell what went wrong on them."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from sollol_agents.children import Child
from sollol_agents.lab.testing.processes import Emulator, ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus import Client, Routing
from sollol_bus.errors import SollolError
from sollol_bus.sdk.jobs import make_job
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.routing import RoutingMode

if TYPE_CHECKING:
    from playwright.async_api import Browser, ConsoleMessage, Page, Request, Response

CHROMIUM: Final = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), "")
HAS_ALL: Final = bool(CHROMIUM) and all(importlib.util.find_spec(name) for name in ("playwright", "nicegui"))
SMALL: Final = "llama3.2:3b"
LARGE: Final = "llama3.1:8b"
PATIENT_MS: Final = 30_000


class System(NamedTuple):
    """A working fleet with its dashboard."""

    fleet: ProcessFleet
    up: Child
    client: Client
    engines: dict[str, Emulator]

    @property
    def url(self) -> str:
        """Where the dashboard is."""
        return self.up.served["dashboard"]


async def keep_asking(client: Client) -> None:
    """Requests of every mode and several priorities, for as long as the tests run."""
    draw = random.Random(7)

    async def one() -> None:
        routing = Routing(priority=draw.choice((5, 5, 8, 2)), routing_mode=draw.choice((*RoutingMode,)[:3]))
        prompt = "why is the sky blue? " * draw.randint(1, 40)
        try:
            model, options = draw.choice((SMALL, SMALL, LARGE)), {"num_predict": draw.randint(20, 160)}
            await client.generate(model, prompt, routing=routing, options=options)
        except SollolError:
            return  # nodes are killed on purpose

    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(one())
            await asyncio.sleep(draw.expovariate(2.0))


@asynccontextmanager
async def working_system(folder: Path) -> AsyncIterator[System]:
    """Three nodes that are asked without a pause, and jobs that end, that wait for long and that fail."""
    async with ProcessFleet(folder) as fleet:
        up = await fleet.up()

        async def start(name: str, preset: str, *models: str) -> Emulator:
            flags = [text for model in models for text in ("--model", model)]
            preload = [text for model in models for text in ("--preload", model.partition("=")[0])]
            # slow enough that slots are seen at work
            pace = ("--parallel", "4", "--decode-tps", "40", "--download-gbps", "0.1")
            engine = await fleet.emulator(name, "--preset", preset, *pace, *flags, *preload)
            await fleet.node(name, engine.url, "--slots", "4", "--label", "room=upstairs")
            return engine

        engines = await asyncio.gather(
            start("attic", "rtx3060-12", f"{SMALL}=3.2"),
            start("studio", "rtx4090-24", f"{SMALL}=3.2", f"{LARGE}=8"),
            start("cellar", "laptop-cpu", f"{SMALL}=3.2"),
        )
        by_name = dict(zip(("attic", "studio", "cellar"), engines, strict=True))
        async with fleet.client() as client, asyncio.TaskGroup() as group:
            flow = group.create_task(keep_asking(client))
            for number, priority in enumerate((5, 8, 1, 5)):
                await client.generate_async(SMALL, "a story", job_id=f"story-{number}", priority=priority)
            await client.jobs.submit(
                make_job({"model": "mistral:7b", "prompt": "x"}, max_tries=1), job_id="unknown-model"
            )
            tomorrow = make_job({"model": SMALL, "prompt": "x"}, not_before="2099-01-01T06:00:00Z")
            await client.jobs.submit(tomorrow, job_id="nightly-report")
            yield System(fleet, up, client, by_name)
            flow.cancel()


class Watched(NamedTuple):
    """A page, and everything that went wrong on it."""

    page: Page
    wrong: list[str]


async def watched(browser: Browser, url: str, *, width: int = 1280, height: int = 800, theme: str = "light") -> Watched:
    """A new page; whatever it complains of or fetches from elsewhere is noted."""
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if theme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = await context.new_page()
    page.set_default_timeout(PATIENT_MS)
    wrong: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            wrong.append(f"{message.type}: {message.text}")

    def on_request(request: Request) -> None:
        if not request.url.startswith((url, url.replace("http", "ws", 1), "data:", "blob:")):
            wrong.append(f"fetched from elsewhere: {request.url}")

    def on_response(response: Response) -> None:
        if response.status >= 400:
            wrong.append(f"{response.status} {response.url}")

    page.on("console", on_console)
    page.on("request", on_request)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", on_response)
    return Watched(page, wrong)


@asynccontextmanager
async def unused(opened: Watched, url: str) -> AsyncIterator[Page]:
    """A page that nobody has used yet, in a tab that is opened once; what went wrong on it is an error at the end."""
    page, wrong = opened
    wrong.clear()
    yield page
    told = [*wrong]
    if page.url.startswith(url):
        await page.evaluate("() => { localStorage.clear(); sessionStorage.clear() }")
    await page.context.clear_cookies()
    await page.goto("about:blank")
    assert told == []


async def recorded(client: Client, request_id: str) -> tuple[DecisionEvent, ...]:
    """What the recorder has of a request, once it has it."""
    decisions: tuple[DecisionEvent, ...] = ()

    async def is_there() -> bool:
        nonlocal decisions
        try:
            decisions = (await client.why(request_id)).decisions
        except SollolError:
            return False
        return bool(decisions)

    await eventually(is_there, complaint="the decision is recorded")
    return decisions


CUT: Final = """() => [...document.querySelectorAll('.shell *')].filter(e => {
    const style = getComputedStyle(e);
    const hides = ['hidden', 'clip'].includes(style.overflowX) && e.scrollWidth > e.clientWidth + 1;
    const box = e.getBoundingClientRect();
    const frame = e.parentElement.closest('.panel, .card, .rows, .node-table');
    const edge = Math.min(innerWidth, frame ? frame.getBoundingClientRect().right : innerWidth);
    const leaves = box.width > 0 && box.right > edge + 1 && !e.closest('.scroll') && !e.closest('.skip');
    return (hides || leaves) && e.textContent.trim() && !e.closest('svg');
}).map(e => e.className + ': ' + e.textContent.trim().slice(0, 60))"""
"""Elements whose text is cut, or that stand outside the page or their panel."""
PALE: Final = """() => {
    const context = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const known = new Map();
    const rgba = colour => {
        if (!known.has(colour)) {
            context.clearRect(0, 0, 1, 1);
            context.fillStyle = colour;
            context.fillRect(0, 0, 1, 1);
            known.set(colour, [...context.getImageData(0, 0, 1, 1).data]);
        }
        return known.get(colour);
    };
    const behind = e => {
        for (; e; e = e.parentElement) {
            const colour = rgba(getComputedStyle(e).backgroundColor);
            if (colour[3] === 255) return colour;
        }
        return [255, 255, 255, 255];
    };
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const isFaded = e => { for (; e; e = e.parentElement) if (getComputedStyle(e).opacity < 1) return true; };
    const seen = new Map();
    return [...document.querySelectorAll('.shell *')].filter(e => {
        const above = e.parentElement;
        const alike = `${e.tagName} ${e.className} ${above.className} ${above.parentElement.className}`;
        seen.set(alike, (seen.get(alike) ?? 0) + 1);
        if (seen.get(alike) > 3) return false;
        const says = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!says || e.closest('svg, :disabled') || !e.checkVisibility() || isFaded(e)) return false;
        const style = getComputedStyle(e), size = parseFloat(style.fontSize);
        const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
        const [one, two] = [light(rgba(style.color)), light(behind(e))];
        return (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05) < needed;
    }).map(e => e.className + ': ' + e.textContent.trim().slice(0, 60));
}"""
"""Elements whose text stands out too little from what is behind it: less than 4.5 to 1, or 3 to 1 of large text."""
