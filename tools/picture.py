"""The README's picture: `python -m tools.picture` runs a fleet and keeps what its dashboard shows in Chromium.

The system is the real one; of the engines one is a real llama.cpp with the generated model, the others are emulated.
Needs the extras `dashboard` and `engine`, Playwright and Chromium.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from playwright.async_api import async_playwright

from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_bus import Client, Routing
from sollol_schemas.routing import RoutingMode

PICTURE: Final = Path(__file__).parents[1] / "docs" / "images" / "dashboard.png"
_CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome")
_EMULATED: Final = {
    "desk-4090": ("rtx4090-24", {"llama3.2:3b": "3.2", "llama3.1:8b": "8"}),
    "attic-3060": ("rtx3060-12", {"llama3.2:3b": "3.2", "llama3.1:8b": "8"}),
}
"""Machines that are emulated, with their models in billions of parameters."""
_WORK_S: Final = 60.0
"""How long the fleet works before the picture is taken: the curves show ten minutes."""
_REQUESTS_PER_S: Final = 2.5
_WIDTH, _HEIGHT = 1280, 640


async def take(path: Path) -> None:
    """Runs a fleet for a while and writes the picture."""
    with tempfile.TemporaryDirectory() as folder:
        async with ProcessFleet(Path(folder)) as fleet:
            up = await fleet.up()
            await _nodes(fleet)
            async with fleet.client() as client, asyncio.TaskGroup() as group:
                work = group.create_task(_work(client))
                await _photograph(up.served["dashboard"], path)
                work.cancel()


async def _nodes(fleet: ProcessFleet) -> None:
    real = await fleet.sollol("engine", "--port", "0", "--slots", "4")
    await fleet.node("tiny-llama-cpp", real.served["engine"], "--slots", "4", engine="openai")
    for name, (preset, models) in _EMULATED.items():
        flags = [text for model, billions in models.items() for text in ("--model", f"{model}={billions}")]
        flags += [text for model in models for text in ("--preload", model)]
        engine = await fleet.emulator(name, "--preset", preset, "--parallel", "4", "--decode-tps", "25", *flags)
        await fleet.node(name, engine.url, "--slots", "4")


async def _work(client: Client) -> None:
    """Requests of every mode and of several sizes, for ever; and a few jobs."""
    draw = random.Random(3)

    async def one() -> None:
        model = draw.choice(("llama3.2:3b", "llama3.2:3b", "llama3.1:8b", "countdown"))
        prompt = (
            f"count {draw.randint(100, 900)}" if model == "countdown" else "why is the sky blue? " * draw.randint(1, 60)
        )
        routing = Routing(
            priority=draw.choice((5, 5, 8, 2)), routing_mode=draw.choice((RoutingMode.FAST, RoutingMode.RELIABLE))
        )
        await client.generate(model, prompt, routing=routing, options={"num_predict": draw.randint(100, 600)})

    for number in range(6):
        await client.generate_async("llama3.2:3b", f"summarise page {number}", priority=1)
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(one())
            await asyncio.sleep(draw.expovariate(_REQUESTS_PER_S))


async def _photograph(url: str, path: Path) -> None:
    chromium = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = await browser.new_page(
            viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="dark", reduced_motion="reduce"
        )
        await page.goto(url)
        await page.locator("section.view").wait_for()
        await asyncio.sleep(_WORK_S)
        path.parent.mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=path)
        await browser.close()


def main() -> int:
    """Takes the picture."""
    asyncio.run(take(PICTURE))
    print(f"wrote {PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
