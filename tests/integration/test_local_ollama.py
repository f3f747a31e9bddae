"""`sollol up` and the Ollama of its machine, which may start at any time."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec
import pytest

from sollol_agents.cli.commands.local_ollama import LocalOllama
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.config import NodeConfig
from sollol_agents.stack import LocalStack

EMULATED = EmulatorConfig(preset="instant", model=("m",), preload=("m",))

pytestmark = pytest.mark.timeout(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def node_ids(stack: LocalStack) -> list[str]:
    return [str(getattr(actor, "node_id", "")) for actor in stack.actors if actor.name == "node"]


async def test_an_ollama_that_starts_after_the_fleet_joins_by_itself_and_once(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with LocalStack(store_dir=tmp_path) as stack, asyncio.timeout(30):
        local = LocalOllama(stack, NodeConfig(node_id="here"), url)
        assert not await local.first_look()
        looking = asyncio.create_task(local.run())  # noqa: TID251 a test's own task
        config = msgspec.structs.replace(EMULATED, port=int(url.rpartition(":")[2]))
        async with EmulatedNode(config):
            await looking
            assert node_ids(stack) == ["here"]
            async with stack.client() as client:
                assert (await client.generate("m", "count down from 2")).text.split() == ["1", "0"]

            async def is_fronted() -> bool:
                return not await LocalOllama(stack, NodeConfig(node_id="again"), url).first_look()

            await eventually(is_fronted)
        assert node_ids(stack) == ["here"]


async def test_a_gateway_at_the_usual_address_is_never_its_own_node(tmp_path: Path) -> None:
    async with LocalStack(store_dir=tmp_path, gateway=GatewayConfig(port=0)) as stack:
        url = stack.http_url
        assert await LocalOllama(stack, NodeConfig(), url).first_look(), "nothing to look for"
        elsewhere = url.replace("127.0.0.1", "localhost")
        assert await LocalOllama(stack, NodeConfig(url=elsewhere)).first_look()
        assert node_ids(stack) == []
