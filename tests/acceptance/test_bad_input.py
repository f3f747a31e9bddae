"""Bad input of any kind gets a clear error and harms nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import ConfigError, PayloadTooLarge, SollolError
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode, error_of
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorCode
from sollol_schemas.ids import attempt_id

MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL)

pytestmark = [pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProcessFleet]:
    """One system for all: each bad input must leave it working for the next."""
    async with ProcessFleet(tmp_path_factory.mktemp("fleet")) as fleet:
        await fleet.up()
        engine = await fleet.emulator("attic", *FLAGS, "--decode-tps", "400")
        await fleet.node("attic", engine.url)
        yield fleet


@pytest_asyncio.fixture(loop_scope="module")
async def bus(system: ProcessFleet) -> AsyncIterator[Bus]:
    connected = await Bus.connect(system.bus_config())
    yield connected
    await connected.close()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def still_works(system: ProcessFleet) -> AsyncIterator[None]:
    """Whatever a test did, an ordinary request is answered afterwards."""
    yield
    async with system.client() as client:
        assert (await client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]


def body(**fields: object) -> bytes:
    return encode({"model": MODEL, "prompt": "count down from 2", **fields})


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (b"not json", ErrorCode.BAD_REQUEST, "invalid character"),
        (b"", ErrorCode.BAD_REQUEST, "body"),
        (b"\xff\xfe\x00", ErrorCode.BAD_REQUEST, "invalid character"),
        (b"[1, 2]", ErrorCode.BAD_REQUEST, "array"),
        (b'"text"', ErrorCode.BAD_REQUEST, "string"),
        (b"[" * 5000, ErrorCode.BAD_REQUEST, ""),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, ErrorCode.BAD_REQUEST, ""),
        (encode({"prompt": "no model"}), ErrorCode.BAD_REQUEST, "model"),
        (body(model=7), ErrorCode.BAD_REQUEST, "model"),
        (body(prompt=["a", "list"]), ErrorCode.BAD_REQUEST, "prompt"),
        (body(model="no-such-model"), ErrorCode.UNKNOWN_MODEL, "no-such-model"),
        (body(priority=11), ErrorCode.BAD_REQUEST, "priority"),
        (body(priority=-1), ErrorCode.BAD_REQUEST, "priority"),
        (body(priority="soon"), ErrorCode.BAD_REQUEST, "priority"),
        (body(routing_mode="slow"), ErrorCode.BAD_REQUEST, "routing_mode"),
        (body(node_id="no.dots allowed"), ErrorCode.BAD_REQUEST, "node_id"),
        (body(node_id="sollol.v1.>", strict=True), ErrorCode.UNKNOWN_NODE, "sollol.v1.>"),
        (body(node_id="cellar", strict=True), ErrorCode.UNKNOWN_NODE, "cellar"),
        (body(deadline_s=0), ErrorCode.BAD_REQUEST, "deadline_s"),
        (body(min_vram_gb=1e9), ErrorCode.BAD_REQUEST, "min_vram_gb"),
        (body(min_success_rate=2), ErrorCode.BAD_REQUEST, "min_success_rate"),
    ],
)
async def test_a_bad_body_gets_a_clear_error(bus: Bus, data: bytes, code: ErrorCode, said: str) -> None:
    error = error_of(await bus.request(subjects.GENERATE, data, timeout_s=10))
    assert error is not None
    assert error.code is code, error
    assert said in error.message


async def test_an_empty_prompt_loads_the_model(bus: Bus) -> None:
    msg = await bus.request(subjects.GENERATE, body(prompt=""), timeout_s=20)
    assert error_of(msg) is None, msg.data
    assert msgspec.json.decode(msg.data)["done"] is True


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(bus: Bus) -> None:
    with pytest.raises(PayloadTooLarge, match="exceed"):
        await bus.request(subjects.GENERATE, body(prompt="x" * 9_000_000))
    assert bus.is_connected


async def test_a_body_just_under_the_servers_limit_is_answered_one_way_or_the_other(system: ProcessFleet) -> None:
    """A client without our check may send more than we pass on: it gets an answer, and nobody a closed connection."""
    bus = await Bus.connect(system.bus_config())
    with contextlib.suppress(SollolError):
        limit = bus.nats.max_payload
        padding = "x" * (limit - len(body(prompt="")) - 64)
        heard: list[Msg] = []
        inbox = bus.new_inbox()
        bus.subscribe(inbox, heard.append)
        await bus.nats.publish(subjects.GENERATE, body(prompt=padding), inbox)
        await eventually(lambda: bool(heard))
        error = error_of(heard[0])
        assert error is not None
        assert error.code is ErrorCode.REQUEST_TOO_LARGE
    await bus.close()


@pytest.mark.parametrize(
    "reply", ["sollol.v1.cancel", "_INBOX_ctl.x", "$JS.API.STREAM.DELETE.SOLLOL_EVENTS", "_INBOX_node.attic.1"]
)
async def test_a_reply_subject_outside_the_callers_space_is_not_used(bus: Bus, reply: str) -> None:
    heard: list[Msg] = []
    bus.subscribe(reply, heard.append)
    await bus.flush()
    bus.publish(subjects.GENERATE, body(), reply=reply)
    assert error_of(await bus.request(subjects.GENERATE, body(), timeout_s=10)) is None
    await bus.flush()
    assert heard == []


async def test_a_request_without_a_reply_subject_harms_nobody(bus: Bus) -> None:
    bus.publish(subjects.GENERATE, body())
    await bus.flush()


@pytest.mark.parametrize("request_id", ["a.b", "a b", "*", "x" * 100, ""])
async def test_a_request_id_that_is_no_token_is_refused(bus: Bus, request_id: str) -> None:
    msg = await bus.request(subjects.GENERATE, body(), headers={"Sollol-Request-Id": request_id}, timeout_s=10)
    error = error_of(msg)
    assert error is not None
    assert error.code is ErrorCode.BAD_REQUEST
    assert "Sollol-Request-Id" in error.message


async def test_a_path_outside_the_engines_interface_is_refused(bus: Bus) -> None:
    for path in ("http://evil/v1/chat", "/../etc/passwd", "//x", "/api/delete", "/v1/%2fx"):
        msg = await bus.request(subjects.PASSTHROUGH, body(), headers={"Sollol-Path": path}, timeout_s=10)
        error = error_of(msg)
        assert error is not None, path
        assert error.http_status in (400, 403), (path, error)


@pytest.mark.parametrize("field", ["cpu_load_ratio", "ram_available_mib", "bus_rtt_s", "uptime_s", "weight"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1e308", '"text"', "1e308"])
async def test_absurd_telemetry_is_ignored(bus: Bus, system: ProcessFleet, field: str, value: str) -> None:
    telemetry = {
        "type": "node.telemetry.v1",
        "node_id": "liar",
        "instance": "x1",
        "revision": 1,
        "seq": 1,
        "engine": {"kind": "ollama", "url": "http://127.0.0.1:1"},
        "slots": 4,
        field: "@",
    }
    bus.publish(subjects.TELEMETRY.of("liar"), encode(telemetry).replace(b'"@"', value.encode()))
    bus.publish(subjects.TELEMETRY.of("liar"), b"not json")
    await bus.flush()
    async with system.client() as client:
        await client.nodes()


async def test_forged_reports_of_attempts_that_nobody_runs_are_ignored(bus: Bus) -> None:
    forged: dict[str, Any] = {"type": "attempt.done.v1", "attempt_id": attempt_id("ghost", 1), "figures": {}}
    bus.publish(subjects.ATTEMPT.of("attic", attempt_id("ghost", 1)), encode(forged))
    bus.publish(subjects.CANCEL, encode({"request_id": "ghost", "secret": "x"}))
    bus.publish(subjects.CANCEL, b"not json")
    bus.publish(subjects.NODE_EXEC.of("attic"), body())
    bus.publish(subjects.NODE_CONTROL.of("attic"), b"not json")
    await bus.flush()


@pytest.mark.parametrize("node_id", ["no dots", "a.b", "x" * 200, "*", ">"])
async def test_a_node_with_an_invalid_id_does_not_start(system: ProcessFleet, node_id: str) -> None:
    with pytest.raises(ConfigError, match="--id"):
        await system.sollol("node", "--nats", system.nats_url, f"--id={node_id}", name="invalid")


async def test_an_engine_that_answers_html_is_told_as_unusable_and_gets_nothing(system: ProcessFleet) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            page = b"<html>It works!</html>"
            lines = ("HTTP/1.1 200 OK", "Content-Type: text/html", f"Content-Length: {len(page)}", "Connection: close")
            writer.write("\r\n".join((*lines, "", "")).encode() + page)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        node = await system.node("html", f"http://127.0.0.1:{port}", is_joined=False)
        async with system.client() as client:

            async def is_told() -> bool:
                views = [v for v in (await client.nodes()).nodes if v.node_id == "html"]
                return bool(views) and not views[0].telemetry.engine.is_reachable

            await eventually(is_told, complaint="the node says that its engine is unusable")
            answer_of = await client.generate(MODEL, "count down from 2")
            assert answer_of.decision is not None
            assert answer_of.decision.node_id == "attic"
        await node.close()
    finally:
        server.close()
        await server.wait_closed()


async def test_wrong_content_from_an_engine_is_answered_by_another_node(system: ProcessFleet) -> None:
    name = "only-here-first:1b"
    flags = ("--preset", "steady", "--model", f"{name}=1", "--preload", name)
    bad = await system.emulator("bad", *flags)
    bad_node = await system.node("bad", bad.url)
    good = await system.emulator("good", *flags, "--decode-tps", "1")
    await bad.add_fault(Fault(kind=FaultKind.WRONG_CONTENT, times=0))
    good_node = await system.node("good", good.url)
    async with system.client() as client:
        answer = await client.generate(name, "count down from 2")
    assert answer.text.split() == ["1", "0"]
    assert answer.decision is not None
    assert answer.decision.node_id == "good"
    await bad_node.close()
    await good_node.close()


async def test_an_engine_that_lies_about_its_slots_still_answers_everything(system: ProcessFleet) -> None:
    name = "liar:1b"
    engine = await system.emulator(
        "slots", "--preset", "steady", "--model", f"{name}=1", "--preload", name, "--parallel", "1"
    )
    node = await system.node("slots", engine.url, "--slots", "8")
    async with system.client() as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.generate(name, "count down from 3")) for _ in range(16)]
    assert [t.result().text.split() for t in tasks] == [["2", "1", "0"]] * 16
    await node.close()


async def test_a_settings_file_with_a_typo_stops_the_start(system: ProcessFleet, tmp_path: Path) -> None:
    path = tmp_path / "sollol.toml"
    path.write_text("[scorer]\nwindwo = 3\n")
    with pytest.raises(ConfigError, match="windwo"):
        await system.sollol("scorer", "--nats", system.nats_url, "--config", str(path), name="typo")
