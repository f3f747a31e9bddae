"""The whole system inside one program."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.node.config import NodeConfig
from sollol_agents.recorder.config import RecorderConfig
from sollol_agents.stack import LocalStack
from sollol_bus.actor import ActorState
from sollol_bus.errors import BusError, ConfigError, SollolError
from sollol_bus.parts import Part
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.errors import ErrorCode
from sollol_schemas.routing import Routing

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
        await stack.close()
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


@pytest.mark.shutdown
@pytest.mark.parametrize("name", ["dispatcher", "scorer", "recorder"])
async def test_a_bug_at_the_stop_of_one_actor_leaves_neither_the_others_nor_the_server_running(
    tmp_path: Path, name: str
) -> None:
    class Broken(Part):
        async def close(self) -> None:
            raise ZeroDivisionError

    stack = LocalStack(store_dir=tmp_path)
    await stack.start()
    actors = stack.actors
    await next(actor for actor in actors if actor.name == name).own(Broken())
    with pytest.raises(ZeroDivisionError):
        await stack.close()
    assert {actor.state for actor in actors} == {ActorState.STOPPED}
    assert stack.server is not None
    assert stack.server.pid is None


async def test_whoever_waits_learns_that_an_actor_failed(tmp_path: Path) -> None:
    async with LocalStack(store_dir=tmp_path) as stack:
        stack.actors[0].fail(BusError("it broke"))
        assert str(await asyncio.wait_for(stack.wait_failed(), 5)) == "it broke"


async def test_a_refused_caller_is_told_when_to_come_back_by_the_bus_and_by_http(tmp_path: Path) -> None:
    slow = EmulatorConfig(preset="steady", model=(MODEL,), preload=(MODEL,), decode_tps=5.0)
    gateway = GatewayConfig(port=0)
    async with EmulatedNode(slow) as engine:
        node = NodeConfig(node_id="attic", engine="ollama", url=engine.url, slots=1)
        async with (
            LocalStack(store_dir=tmp_path, nodes=(node,), gateway=gateway) as stack,
            stack.client() as client,
            httpx.AsyncClient(base_url=stack.http_url, timeout=30) as http,
            client.generate_stream(MODEL, "count down from 500") as stream,
        ):
            await anext(aiter(stream))
            with pytest.raises(SollolError) as refused:
                await client.generate(MODEL, "hello", routing=Routing(deadline_s=0.5))
            assert refused.value.body.code is ErrorCode.DEADLINE_UNREACHABLE
            assert refused.value.retry_after_s is not None
            assert refused.value.retry_after_s == pytest.approx(
                refused.value.details["predicted_wait_s"] - 0.5, abs=0.1
            )
            headers = {"X-Sollol-Deadline-S": "0.5"}
            answer = await http.post("/api/generate", json={"model": MODEL, "prompt": "hello"}, headers=headers)
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) == pytest.approx(refused.value.retry_after_s, abs=1.5)
