"""What every test needs."""

from __future__ import annotations

import asyncio

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    """Says that there is no event loop outside of async tests.

    Else looptime, which asks for the current loop around every plain test, would make one that nobody closes, and
    warnings are errors here.
    """
    asyncio.set_event_loop(None)
