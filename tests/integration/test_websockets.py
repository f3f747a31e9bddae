"""Commands reach a fleet through the websockets of a nats-server, although they start without what speaks them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import NoReturn
from unittest import mock

import msgspec
import pytest

from sollol_agents.children import Child
from sollol_agents.cli.running import connected
from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.scripted import control
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.errors import NotConnected
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_schemas.queries import NodesReply


async def test_a_command_asks_the_fleet_over_a_websocket(tmp_path: Path) -> None:
    port = free_port()
    websockets = f'websocket {{ host: "127.0.0.1", port: {port}, no_tls: true }}'
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=websockets)
    async with EmbeddedServer(config) as server:
        bus = await Bus.connect(control(server))
        await provision(bus)
        await bus.close()
        async with Scorer(ScorerConfig(), control(server)):
            command = (sys.executable, "-m", "sollol_agents.cli", "nodes", "--json", "--nats", f"ws://127.0.0.1:{port}")
            asking = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            said, complained = await asyncio.wait_for(asking.communicate(), timeout=60.0)
    assert (asking.returncode, complained.decode()) == (0, "")
    assert msgspec.json.decode(said, type=NodesReply).nodes == ()


async def test_an_actor_serves_over_a_websocket(tmp_path: Path) -> None:
    port = free_port()
    websockets = f'websocket {{ host: "127.0.0.1", port: {port}, no_tls: true }}'
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=websockets)
    async with (
        EmbeddedServer(config),
        Child("scorer", "sollol_agents.cli", "scorer", "--nats", f"ws://127.0.0.1:{port}", log_file=tmp_path / "log"),
    ):
        pass  # it says that it is ready once it is connected


@pytest.mark.parametrize(("url", "port"), [("wss://hub", 443), ("ws://hub", 80), ("nats://hub", 4222), ("hub:5", 5)])
async def test_a_listener_is_looked_for_where_the_client_library_connects(
    monkeypatch: pytest.MonkeyPatch, url: str, port: int
) -> None:
    async def refused(_host: str, dialled: int) -> NoReturn:
        raise ConnectionRefusedError(f"port {dialled}")

    dialled = mock.AsyncMock(side_effect=refused)
    monkeypatch.setattr(asyncio, "open_connection", dialled)
    with pytest.raises(NotConnected):
        async with connected(BusConfig(url=url)):
            pass
    dialled.assert_awaited_once_with("hub", port)
