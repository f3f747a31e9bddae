"""The client for programs without `async`, against a whole system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus import BusConfig, NotConnected, UnknownModel, sync


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[EmulatedSystem]:
    async with EmulatedSystem(tmp_path, decode_tps=200.0) as running:
        yield running


def used(url: str) -> tuple[str, str, int, list[str]]:
    """What a plain program does with it."""
    with sync.Client(url) as client:
        whole = client.generate("m", "hello", max_tokens=5).text
        parts = "".join(client.stream("m", "hello", max_tokens=5))
        vectors = client.embed("nomic-embed-text", ["a", "b"])
        with pytest.raises(UnknownModel):
            client.generate("nobody-has-it", "hello")
        nodes = [view.node_id for view in client.nodes().nodes]
        assert repr(client) == f"sync.Client({url!r}, connected)"
    return whole, parts, len(vectors.embeddings), nodes


async def test_a_program_without_async_asks_streams_and_embeds(system: EmulatedSystem) -> None:
    whole, parts, vectors, nodes = await asyncio.to_thread(used, system.client.bus.config.url)
    assert whole
    assert len(parts.split()) == len(whole.split())
    assert (vectors, nodes) == (2, ["n1"])


async def test_a_loop_that_is_left_early_cancels_its_request(system: EmulatedSystem) -> None:
    def leave_early(url: str) -> str:
        with sync.Client(url) as client:
            for text in client.stream("m", "hello", max_tokens=10_000):
                return text
        return ""

    assert await asyncio.to_thread(leave_early, system.client.bus.config.url)
    await eventually(lambda: [o.status.value for o in system.outcomes] == ["cancelled"])


def test_without_a_server_it_is_not_connected() -> None:
    # port 9 of the loopback is the discard service, which nobody runs
    with pytest.raises(NotConnected), sync.Client(BusConfig(url="nats://127.0.0.1:9", connect_timeout_s=0.2)):
        pass


def test_a_client_that_is_not_entered_says_how_it_is_used() -> None:
    with pytest.raises(RuntimeError, match="the client is not connected"):
        sync.Client("nats://127.0.0.1:9").nodes()
