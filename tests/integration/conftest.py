"""A real nats-server for each test, on a free port and in the test's own directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest

from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig


class Eventually(Protocol):
    """Waits until a condition, plain or async, holds; fails the test when it does not within the time given."""

    def __call__(self, holds: Callable[[], bool | Awaitable[bool]], *, within_s: float = 20.0) -> Awaitable[None]: ...


@pytest.fixture
def eventually() -> Eventually:
    async def wait(holds: Callable[[], bool | Awaitable[bool]], *, within_s: float = 20.0) -> None:
        async with asyncio.timeout(within_s):
            while True:
                answer = holds()
                if answer if isinstance(answer, bool) else await answer:
                    return
                await asyncio.sleep(0.01)  # the state of another process sends no signal

    return wait


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"))
    async with EmbeddedServer(config) as server:
        yield server


@pytest.fixture
async def bus(nats_server: EmbeddedServer) -> AsyncIterator[Bus]:
    connected = await Bus.connect(BusConfig(url=nats_server.url, name="test"))
    try:
        yield connected
    finally:
        await connected.close()
