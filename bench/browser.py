"""Chromium without a screen, for benchmarks that look at pages."""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.async_api import Browser


def chromium_path() -> str | None:
    """Where the browser lies; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Chromium:
    """A browser that ends with its context."""

    async def __aenter__(self) -> Browser:
        from playwright.async_api import async_playwright  # noqa: PLC0415 only here

        self._floor = AsyncExitStack()
        playwright = await self._floor.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        self._floor.push_async_callback(browser.close)
        return browser

    async def __aexit__(self, *_: object) -> None:
        await self._floor.aclose()
