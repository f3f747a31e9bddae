"""`sollol up` and the engines of its machine, which may start and end at any time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from sollol_agents.cli.commands.doctor import check_engine
from sollol_agents.cli.commands.engine_places import port_of
from sollol_agents.cli.commands.findings import Level
from sollol_agents.cli.commands.local_engines import LocalEngines
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.config import NodeConfig
from sollol_agents.stack import LocalStack

EMULATED = EmulatorConfig(preset="instant", model=("m",), preload=("m",))


def free_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


def engine_at(url: str) -> EmulatedNode:
    return EmulatedNode(msgspec.structs.replace(EMULATED, port=port_of(url)))


def node_ids(stack: LocalStack) -> list[str]:
    return [str(getattr(actor, "node_id", "")) for actor in stack.actors if actor.name == "node"]


async def conditions(stack: LocalStack) -> dict[str, str]:
    async with stack.client() as client:
        return {view.node_id: view.condition for view in (await client.nodes()).nodes}


async def test_engines_that_start_after_the_fleet_join_by_themselves_and_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first, second = free_url(), free_url()
    named = f"here-{port_of(second)}"
    async with LocalStack(store_dir=tmp_path) as stack, asyncio.timeout(45):
        engines = LocalEngines(stack, NodeConfig(node_id="here", heartbeat_s=0.2), (first, second))
        await engines.first_look()
        assert not engines.found
        looking = asyncio.create_task(engines.run())  # noqa: TID251 a test's own task
        async with engine_at(second):
            await eventually(lambda: node_ids(stack) == [named])
            async with engine_at(first):
                await eventually(lambda: node_ids(stack) == [named, "here"])
                async with stack.client() as client:
                    assert (await client.generate("m", "count down from 2")).text.split() == ["1", "0"]
                again = LocalEngines(stack, NodeConfig(node_id="again"), (first.replace("127.0.0.1", "localhost"),))
                await again.first_look()
                assert not again.found, "an agent on this machine has it already"

            async def is_told() -> bool:
                return await conditions(stack) == {named: "up", "here": "no engine"}

            await eventually(is_told)
            async with engine_at(first):

                async def is_back() -> bool:
                    return await conditions(stack) == {named: "up", "here": "up"}

                await eventually(is_back)
        looking.cancel()
        assert node_ids(stack) == [named, "here"]
    said = [r.getMessage() for r in caplog.records if getattr(r, "action", "").startswith("engine_")]
    about = [text for text in said if first in text]
    assert about[0].startswith("engine found: ollama")
    assert [text for text in about if text.startswith(f"no engine at {first}")]
    assert f"the engine at {first} answers again" in about


async def test_a_gateway_is_never_a_node_whichever_fleet_it_serves(tmp_path: Path) -> None:
    async with (
        LocalStack(store_dir=tmp_path / "a", gateway=GatewayConfig(port=0)) as stack,
        LocalStack(store_dir=tmp_path / "b", gateway=GatewayConfig(port=0)) as other,
    ):
        engines = LocalEngines(stack, NodeConfig(), (stack.http_url, other.http_url))
        await engines.first_look()
        assert (engines.found, engines.ports) == ({}, (port_of(other.http_url),))
        elsewhere = stack.http_url.replace("127.0.0.1", "localhost")
        await LocalEngines(stack, NodeConfig(url=elsewhere)).first_look()
        assert node_ids(stack) == []


async def test_the_doctor_looks_where_the_fleet_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EmulatedNode(EMULATED) as engine:
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{port_of(engine.url)}")
        finding = await check_engine()
    assert (finding.level, engine.url in finding.found) == (Level.OK, True)
