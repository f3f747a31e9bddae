"""A real nats-server for each test, on a free port and in the test's own directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.lab.conformance.bus import PlayedBus, played_bus
from sollol_agents.lab.testing.node_stage import Stage, staged
from sollol_agents.lab.testing.scripted import control, quick
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig


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


@pytest.fixture
async def actors_bus(nats_server: EmbeddedServer) -> AsyncIterator[Bus]:
    connected = await Bus.connect(BusConfig(url=nats_server.url, name="doubles"))
    await provision(connected)
    yield connected
    await connected.close()


@pytest.fixture
async def dispatcher(nats_server: EmbeddedServer, actors_bus: Bus) -> AsyncIterator[Dispatcher]:
    async with quick(Dispatcher(DispatcherConfig(drain_timeout_s=0.3), control(nats_server))) as actor:
        yield actor
    assert actor.statistics().in_flight == 0


@pytest.fixture
async def stage(nats_server: EmbeddedServer, bus: Bus) -> AsyncIterator[Stage]:
    async with staged(nats_server, bus) as made:
        yield made


@pytest.fixture
async def checked_bus(tmp_path: Path) -> AsyncIterator[PlayedBus]:
    async with played_bus(tmp_path) as played:
        yield played


@pytest.fixture
async def nodes_bus(checked_bus: PlayedBus) -> AsyncIterator[Bus]:
    config = BusConfig(url=checked_bus.url, inbox_prefix="_INBOX_node.double")
    connected = await Bus.connect(config)
    yield connected
    await connected.close()
