"""The whole system inside one program."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sollol_agents.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.node.config import NodeConfig
from sollol_agents.recorder.config import RecorderConfig
from sollol_agents.stack import LocalStack
from sollol_bus.connection import BusConfig
from sollol_bus.errors import BusError, ConfigError
from sollol_bus.server import EmbeddedServer

MODEL = "llama3.2:3b"
EMULATED = EmulatorConfig(preset="instant", model=(MODEL,), preload=(MODEL,))


async def test_a_stack_answers_its_own_client(tmp_path: Path) -> None:
    async with EmulatedNode(EMULATED) as engine:
        node = NodeConfig(node_id="attic", engine="ollama", url=engine.url)
        async with LocalStack(store_dir=tmp_path, nodes=(node,)) as stack, stack.client() as client:
            answer = await client.generate(MODEL, "count down from 3")
            assert answer.text.split() == ["2", "1", "0"]
            assert answer.decision is not None
            assert answer.decision.node_id == "attic"
    assert (tmp_path / "recorder.sqlite3").is_file()


async def test_a_stack_without_a_place_to_keep_things_leaves_nothing_behind() -> None:
    stack = LocalStack()
    async with stack:
        assert stack.server is not None
        folder = stack.server.store_dir
        pid = stack.server.pid
        assert folder.is_dir()
    assert not folder.exists()
    assert pid is not None
    assert stack.server.pid is None


async def test_a_node_may_join_later(tmp_path: Path) -> None:
    async with EmulatedNode(EMULATED) as engine, LocalStack(store_dir=tmp_path) as stack:
        await stack.add_node(NodeConfig(node_id="attic", engine="ollama", url=engine.url))
        async with stack.client() as client:
            answer = await client.generate(MODEL, "count down from 2")
    assert answer.text.split() == ["1", "0"]


async def test_a_stack_uses_a_running_server_and_leaves_it_running(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    async with LocalStack(bus=BusConfig(url=nats_server.url), store_dir=tmp_path) as stack:
        assert stack.server is None
        assert stack.nats_url == nats_server.url
    assert nats_server.pid is not None


@pytest.mark.shutdown
async def test_actors_stop_from_the_one_that_works_to_the_one_that_writes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with EmulatedNode(EMULATED) as engine:
        node = NodeConfig(node_id="attic", engine="ollama", url=engine.url)
        async with LocalStack(store_dir=tmp_path, nodes=(node,)):
            caplog.clear()
    stopped = [r.getMessage().split()[0] for r in caplog.records if getattr(r, "action", "") == "actor_stopped"]
    assert stopped == ["node", "dispatcher", "scorer", "recorder"]


@pytest.mark.shutdown
async def test_stopping_twice_is_harmless(tmp_path: Path) -> None:
    async with LocalStack(store_dir=tmp_path) as stack:
        await stack.stop()
        assert stack.actors == ()


async def test_a_failed_start_leaves_nothing_running(tmp_path: Path) -> None:
    (tmp_path / "not-a-folder").write_text("")
    recorder = RecorderConfig(database=str(tmp_path / "not-a-folder" / "recorder.sqlite3"))
    stack = LocalStack(store_dir=tmp_path / "store", recorder=recorder)
    with pytest.raises(ConfigError):
        async with stack:
            pass
    assert stack.server is not None
    assert stack.server.pid is None


async def test_whoever_waits_learns_that_an_actor_failed(tmp_path: Path) -> None:
    async with LocalStack(store_dir=tmp_path) as stack:
        stack.actors[0].fail(BusError("it broke"))
        assert str(await asyncio.wait_for(stack.wait_failed(), 5)) == "it broke"
