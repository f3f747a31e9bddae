"""Loads nats-py without aiohttp, which it takes for websockets alone: half the time that a command needs to start.

Only the command line may do so: in a program of somebody else's the library keeps its websockets.
"""

from __future__ import annotations

import sys


def load_nats() -> None:
    """Imports nats-py; aiohttp can still be imported by whoever wants it."""
    if "aiohttp" in sys.modules:
        return
    sys.modules["aiohttp"] = None  # type: ignore[assignment]  # what Python takes for "not installed"
    try:
        import nats.aio.client  # noqa: F401, PLC0415  only here is it without aiohttp
    finally:
        del sys.modules["aiohttp"]


load_nats()
