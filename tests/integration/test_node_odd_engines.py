"""A node on a real bus before odd engines: scripted ones that misbehave, one elsewhere, and a real llama.cpp."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from sollol_agents.lab.testing.dispatcher import PlayedDispatcher
from sollol_agents.lab.testing.scripted_engine import DONE, OLLAMA, Script, ScriptedEngine, chat_answer, whole
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_agents.node.engines.probing import probe
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import decode, error_of
from sollol_bus.transport.streaming import ReplyStream
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorCode
from sollol_schemas.telemetry import EngineKind, Telemetry

NODE = "odd"


@asynccontextmanager
async def noded(server: EmbeddedServer, bus: Bus, **settings: Any) -> AsyncIterator[NodeMonitor]:
    await provision(bus)
    own = {"node_id": NODE, "engine": "ollama", "heartbeat_s": 0.1, "drain_timeout_s": 0.2}
    async with NodeMonitor(msgspec.convert(own | settings, NodeConfig), BusConfig(url=server.url)) as node:
        yield node


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def big_chat(size: int) -> dict[str, bytes | Script]:
    line = json.dumps({"message": {"role": "assistant", "content": "x" * size}, "done": False}).encode() + b"\n"
    return OLLAMA | {"/api/chat": chat_answer(line, DONE)}


async def test_a_chunk_over_the_payload_limit_comes_in_parts(nats_server: EmbeddedServer, bus: Bus) -> None:
    size = bus.max_payload + 1000
    async with ScriptedEngine(big_chat(size)) as engine, noded(nats_server, bus, url=engine.url) as node:
        dispatcher = PlayedDispatcher(bus, NODE)
        async with ReplyStream(bus, total_s=20) as stream:
            inbox = bus.new_inbox()
            subscription = bus.subscribe(inbox, stream._on_message)
            dispatcher.send(node.instance, CHAT, reply_to=inbox)
            lines = [json.loads(msg.data) async for msg in stream]
            subscription.unsubscribe()
        assert [len(line["message"]["content"]) for line in lines] == [size, 0]


async def test_a_real_ollama_is_not_asked_what_it_pretends(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with ScriptedEngine(OLLAMA) as engine, noded(nats_server, bus, url=engine.url):
        await eventually(lambda: "/api/ps" in engine.requests)
        assert not [path for path in engine.requests if not path.startswith("/api/")]


async def test_a_single_reply_over_the_payload_limit_names_the_remedy(nats_server: EmbeddedServer, bus: Bus) -> None:
    engine_answers = big_chat(bus.max_payload + 1000)
    async with ScriptedEngine(engine_answers) as engine, noded(nats_server, bus, url=engine.url) as node:
        dispatcher = PlayedDispatcher(bus, NODE)
        dispatcher.send(node.instance, CHAT, stream=False)
        await eventually(lambda: bool(dispatcher.failures()))
        (failure,) = dispatcher.failures()
        assert failure.error.code is ErrorCode.REPLY_TOO_LARGE
        assert "stream" in failure.error.message


async def test_a_hanging_engine_delays_no_heartbeat(nats_server: EmbeddedServer, bus: Bus) -> None:
    async def hang(_: str, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    told: list[Telemetry] = []
    bus.subscribe(subjects.TELEMETRY.all, lambda msg: told.append(decode(msg.data, Telemetry)))
    hanging: list[bool] = []

    async def ps(path: str, writer: asyncio.StreamWriter) -> None:
        if hanging:
            await hang(path, writer)
        writer.write(whole(b'{"models":[]}'))

    async with ScriptedEngine(OLLAMA | {"/api/ps": ps}) as engine, noded(nats_server, bus, url=engine.url):
        await eventually(lambda: bool(told))
        hanging.append(True)
        before = len(told)
        await eventually(lambda: len(told) >= before + 10)
        assert told[-1].engine.is_reachable


@pytest.mark.parametrize("stated", [{}, {"vram_gb": 8, "ram_gb": 16}], ids=["unknown", "stated"])
async def test_a_node_tells_nothing_of_its_own_machine_for_an_engine_elsewhere(
    stated: dict[str, Any], nats_server: EmbeddedServer, bus: Bus
) -> None:
    told: list[Telemetry] = []
    bus.subscribe(subjects.TELEMETRY.all, lambda msg: told.append(decode(msg.data, Telemetry)))
    async with ScriptedEngine(OLLAMA) as engine, noded(nats_server, bus, url=engine.url, machine="remote", **stated):
        await eventually(lambda: len(told) > 2 and told[-1].engine.is_reachable)
    seen = told[-1]
    assert (seen.cpu_count, seen.cpu_load_ratio, seen.host) == (0, 0.0, "127.0.0.1")
    assert [g.memory_total_mib for g in seen.gpus] == ([8192.0] if stated else [])
    assert seen.ram_total_mib == (16384.0 if stated else 0.0)
    assert [one.name for one in seen.installed] == ["m:latest"]


@pytest.mark.parametrize(
    ("answers", "kind", "models", "told"),
    [
        (OLLAMA, EngineKind.OLLAMA, 1, ""),
        ({"/v1/models": whole(b'{"data":[{"id":"a"},{"id":"b"}]}')}, EngineKind.OPENAI, 2, ""),
        (OLLAMA | {"/openapi.json": whole(b'{"info":{"title":"SOLLOL Bus gateway"}}')}, None, None, "a gateway"),
        ({"/": whole(b"<title>SOLLOL</title>", "text/html")}, None, None, "dashboard"),
        ({"/": whole(b"<title>nginx</title>", "text/html")}, None, None, "neither like Ollama"),
        ({p: whole(b"no", status="401 No") for p in ("/api/version", "/v1/models")}, None, None, "wants a key"),
    ],
    ids=["ollama", "openai", "our-gateway", "our-dashboard", "web-page", "key"],
)
async def test_a_probe_tells_engines_from_what_answers_like_one(
    answers: dict[str, bytes | Script], kind: EngineKind | None, models: int | None, told: str
) -> None:
    async with ScriptedEngine(answers) as engine:
        found = await probe(NodeConfig(url=engine.url), timeout_s=5.0)
    assert (found.kind, found.models, found.is_silent) == (kind, models, False)
    assert told in found.detail


async def test_a_probe_of_an_address_that_never_answers_ends() -> None:
    async def hang(_: str, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with ScriptedEngine({"/openapi.json": hang}) as engine:
        found = await probe(NodeConfig(url=engine.url), timeout_s=0.2)
    assert found.is_silent
    assert found.kind is None
    assert (await probe(NodeConfig(url="http://127.0.0.1:1"), timeout_s=5.0)).is_silent


async def test_a_node_without_its_engine_starts_and_says_why(nats_server: EmbeddedServer, bus: Bus) -> None:
    told: list[Telemetry] = []
    bus.subscribe(subjects.TELEMETRY.all, lambda msg: told.append(decode(msg.data, Telemetry)))
    async with noded(nats_server, bus, url="http://127.0.0.1:1", engine="auto") as node:
        await eventually(lambda: bool(told) and not told[-1].engine.is_reachable)
        assert "no connection" in told[-1].engine.detail
        dispatcher = PlayedDispatcher(bus, NODE)
        dispatcher.send(node.instance, CHAT)
        await eventually(lambda: bool(dispatcher.failures()))
        assert dispatcher.failures()[0].error.code is ErrorCode.ENGINE_UNAVAILABLE


async def test_an_unreadable_control_request_gets_a_clear_error(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with ScriptedEngine(OLLAMA) as engine, noded(nats_server, bus, url=engine.url):
        reply = await bus.request(subjects.NODE_CONTROL.of(NODE), b'{"type":"control.dance.v1"}')
        error = error_of(reply)
        assert error is not None
        assert error.code is ErrorCode.BAD_REQUEST
        bus.publish(subjects.NODE_EXEC.of(NODE), b"x", headers={h.EXEC: "nonsense"})
        bus.publish(subjects.NODE_CANCEL.of(NODE), b"nonsense")
        assert error_of(await bus.request(subjects.NODE_CONTROL.of(NODE), b'{"type":"control.ping.v1"}')) is None


@pytest.fixture
async def llama() -> AsyncIterator[str]:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("needs the extra `engine`")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sollol_agents.lab.engine", "--slots", "2", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            url = (await process.stdout.readline()).decode().split()[1]
            await process.stdout.readline()
        yield url
    finally:
        process.terminate()
        await process.wait()


async def test_a_real_llama_cpp_streams_ollamas_lines_through_the_node(
    llama: str, nats_server: EmbeddedServer, bus: Bus
) -> None:
    async with noded(nats_server, bus, engine="auto", url=llama) as node:
        told = node.telemetry()
        assert (told.slots, told.engine.version.split()[0]) == (2, "llama.cpp")
        assert [one.name for one in told.loaded] == ["countdown"]
        dispatcher = PlayedDispatcher(bus, NODE)
        body = {"model": "countdown", "messages": [{"role": "user", "content": "count 40"}]}
        dispatcher.send(node.instance, body)
        await eventually(lambda: bool(dispatcher.ends()) and "end" in dispatcher.order)
        assert dispatcher.text().split() == [str(n) for n in range(39, -1, -1)]
        await eventually(lambda: any(one.decode_tps > 0 for one in node.telemetry().speeds))
