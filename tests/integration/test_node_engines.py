"""The node monitor beside odd engines: scripted ones that misbehave, and a real llama.cpp."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import httpx
import msgspec
import pytest

from sollol_agents.lab.testing.dispatcher import PlayedDispatcher
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node import NodeConfig, NodeMonitor
from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.http.pool import HttpPool
from sollol_agents.node.engines.ollama import OllamaEngine
from sollol_agents.node.engines.openai import OpenAIEngine
from sollol_agents.node.engines.probing import probe
from sollol_bus.errors import BackendBrokeProtocol, BackendUnavailable, SollolError
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import decode, error_of
from sollol_bus.transport.streaming import ReplyStream
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode
from sollol_schemas.telemetry import EngineKind, Telemetry

NODE = "odd"
DONE = b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"eval_count":1}\n'
Script = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


def head(length: int | None, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{framing}\r\n\r\n".encode()


def whole(body: bytes, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    return head(len(body), content_type, status) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class ScriptedEngine:
    """An engine that writes, for each path, exactly the bytes a test wants."""

    def __init__(self, answers: dict[str, bytes | Script]) -> None:
        self._answers = answers
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                length = next((int(x.split(":")[1]) for x in lines if x.lower().startswith("content-length")), 0)
                self.bodies.append(await reader.readexactly(length))
                path = lines[0].split()[1]
                self.requests.append(path)
                answer = self._answers.get(path, whole(b"404 page not found", "text/plain", "404 Not Found"))
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(path, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the other side, or the test, has had enough
        finally:
            self._tasks.discard(task)
            writer.close()


OLLAMA: dict[str, bytes | Script] = {
    "/api/version": whole(b'{"version":"0.33.0"}'),
    "/api/tags": whole(b'{"models":[{"name":"m:latest","size":1,"digest":"d"}]}'),
    "/api/ps": whole(b'{"models":[{"name":"m:latest","size":1,"size_vram":1}]}'),
}


def chat_answer(*pieces: bytes) -> bytes:
    return head(None, "application/x-ndjson") + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"


@asynccontextmanager
async def adapter(answers: dict[str, bytes | Script]) -> AsyncIterator[tuple[ScriptedEngine, OllamaEngine]]:
    async with ScriptedEngine(OLLAMA | answers) as engine:
        made = OllamaEngine(EngineHttp(engine.url, connect_timeout_s=2.0))
        yield engine, made
        await made.aclose()


def work(kind: RequestKind = RequestKind.CHAT, **body: Any) -> EngineRequest:
    fields = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | body
    return EngineRequest(kind=kind, model="m", body=msgspec.json.encode(fields))


async def chunks_of(engine: OllamaEngine | OpenAIEngine, request: EngineRequest) -> list[bytes]:
    return [one async for batch in engine.run(request).chunks() for one in batch]


async def test_lines_are_whole_however_the_engine_cuts_them() -> None:
    line = b'{"message":{"content":"a"},"done":false}\n'
    cut = [bytes([byte]) for byte in line + DONE]
    async with adapter({"/api/chat": chat_answer(*cut)}) as (_, engine):
        assert await chunks_of(engine, work()) == [line.strip(), DONE.strip()]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (whole(b"<html>hello</html>", "text/html"), ErrorCode.ENGINE_PROTOCOL),
        (whole(b""), ErrorCode.ENGINE_PROTOCOL),
        (chat_answer(b'{"message":{"content":"a"},"done":false}\n{"mess'), ErrorCode.ENGINE_PROTOCOL),
        (chat_answer(b'{"message":{},"done":true,"eval_count":NaN}\n'), ErrorCode.ENGINE_PROTOCOL),
        (b"SSH-2.0-OpenSSH\r\n\r\n", ErrorCode.ENGINE_PROTOCOL),
        (whole(b"", status="302 Found"), ErrorCode.ENGINE_PROTOCOL),
        (whole(b'{"error":"server busy, please try again."}', status="503 Unavailable"), ErrorCode.BUSY),
        (whole(b'{"error":"no"}', status="401 No"), ErrorCode.ENGINE_FAILED),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000, ErrorCode.ENGINE_PROTOCOL),
    ],
    ids=["html", "empty", "half-line", "nan", "not-http", "redirect", "busy", "unauthorised", "endless-headers"],
)
async def test_an_answer_that_is_none_is_a_clear_error(answer: bytes, code: ErrorCode) -> None:
    async with adapter({"/api/chat": answer}) as (_, engine):
        with pytest.raises(SollolError) as caught:
            await chunks_of(engine, work())
        assert caught.value.body.code is code
        assert caught.value.message


async def test_insane_figures_are_left_out() -> None:
    final = (
        b'{"message":{},"done":true,"eval_count":-3,"eval_duration":"x","total_duration":1e300,"load_duration":null}\n'
    )
    async with adapter({"/api/chat": chat_answer(final)}) as (_, engine):
        run = engine.run(work())
        assert [batch async for batch in run.chunks()]
        assert (run.figures.output_tokens, run.figures.decode_s, run.figures.slot_wait_s) == (None, None, 0.0)


async def test_a_connection_that_the_engine_closed_while_idle_is_replaced() -> None:
    closed = asyncio.Semaphore(0)

    async def answer_and_close(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(chat_answer(DONE))
        writer.close()
        await writer.wait_closed()
        closed.release()

    async with adapter({"/api/chat": answer_and_close}) as (engine, made):
        for _ in range(3):
            assert await chunks_of(made, work())
            await closed.acquire()
        assert engine.requests.count("/api/chat") == 3


@asynccontextmanager
async def dropping(path: str) -> AsyncIterator[tuple[ScriptedEngine, EngineHttp]]:
    """An engine that answers every first request of a connection, and takes the second one and goes."""

    def answer_then_drop(answered: set[asyncio.StreamWriter]) -> Script:
        async def script(_: str, writer: asyncio.StreamWriter) -> None:
            if writer in answered:
                raise ConnectionResetError
            answered.add(writer)
            writer.write(whole(b"{}"))

        return script

    async with ScriptedEngine({path: answer_then_drop(set())}) as engine:
        http = EngineHttp(engine.url)
        yield engine, http
        await http.aclose()


async def test_a_post_whose_reused_connection_breaks_is_not_sent_twice() -> None:
    async with dropping("/api/generate") as (engine, http):
        await http.call("POST", "/api/generate", b"{}", timeout_s=5.0)
        with pytest.raises(BackendBrokeProtocol, match="closed the connection"):
            await http.call("POST", "/api/generate", b"{}", timeout_s=5.0)
        assert engine.requests == ["/api/generate"] * 2


async def test_a_model_that_a_fleet_behind_one_address_tells_twice_is_in_memory_once() -> None:
    twice = whole(
        b'{"models":[{"name":"m:latest","size":1},{"name":"n:latest","size":2},{"name":"m:latest","size":3}]}'
    )
    async with adapter({"/api/ps": twice}) as (_, made):
        assert [one.name for one in await made.loaded()] == ["m:latest", "n:latest"]


async def test_a_question_whose_reused_connection_breaks_is_asked_again() -> None:
    async with dropping("/api/ps") as (engine, http):
        await http.call("GET", "/api/ps", timeout_s=5.0)
        assert await http.call("GET", "/api/ps", timeout_s=5.0) == b"{}"
        assert engine.requests == ["/api/ps"] * 3


async def test_a_connection_that_was_idle_for_long_is_not_used_again() -> None:
    async with ScriptedEngine({"/x": whole(b"{}")}) as engine:
        pool = HttpPool(httpx.URL(engine.url), connect_timeout_s=2.0, idle_s=0.0)
        seen = []
        for _ in range(2):
            connection = await pool.exchange(b"GET /x HTTP/1.1\r\n\r\n", b"")
            assert await connection.take() == b"{}"
            pool.give_back(connection)
            seen.append(connection)
        pool.close()
        assert seen[0] is not seen[1]


async def test_an_address_that_cannot_be_reached_is_an_engine_that_is_not_there() -> None:
    http = EngineHttp("http://127.0.0.1:1")
    with pytest.raises(BackendUnavailable, match="no connection"):
        await http.call("GET", "/", timeout_s=5.0)


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n" + DONE)
        await writer.drain()
        writer.close()

    async with adapter({"/api/chat": answer}) as (_, engine):
        assert await chunks_of(engine, work()) == [DONE.strip()]


async def test_an_answer_to_head_has_no_body_whatever_length_it_tells() -> None:
    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(head(10))
        await writer.drain()

    async with ScriptedEngine({"/api/blobs/x": answer}) as scripted:
        http = EngineHttp(scripted.url)
        for _ in range(2):
            assert await http.call("HEAD", "/api/blobs/x", timeout_s=5.0) == b""
        await http.aclose()


async def test_a_path_that_would_become_a_header_is_refused() -> None:
    async with adapter({}) as (_, engine):
        for path in ("/v1/x\r\nHost: evil", "v1/x", "/v1/x y", "http://evil/"):
            request = EngineRequest(kind=RequestKind.PASSTHROUGH, model="m", body=b"{}", path=path)
            with pytest.raises(SollolError) as caught:
                await chunks_of(engine, request)
            assert caught.value.body.code is ErrorCode.BAD_REQUEST


def sse(*events: str) -> bytes:
    return head(None, "text/event-stream") + b"".join(chunk(e.encode() + b"\n\n") for e in events) + b"0\r\n\r\n"


DELTA = 'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}'
FINISH = 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    ("answer", "is_whole"),
    [
        (sse(": ping", DELTA, ": ping", FINISH, "data: [DONE]"), True),
        (sse(DELTA, FINISH), True),
        (sse(DELTA), False),
        (sse(DELTA, "data: [DONE]"), False),
        (sse(DELTA, 'data: {"error":{"message":"boom"}}'), False),
        (whole(b"<html></html>", "text/html"), False),
    ],
    ids=["whole", "without-mark", "cut", "mark-without-reason", "error", "html"],
)
async def test_an_openai_stream_is_whole_only_with_its_reason(answer: bytes, is_whole: bool) -> None:
    async with ScriptedEngine({"/v1/chat/completions": answer}) as scripted:
        engine = OpenAIEngine(EngineHttp(scripted.url), {})
        try:
            if is_whole:
                lines = [json.loads(line) for line in await chunks_of(engine, work())]
                assert [line["message"]["content"] for line in lines] == ["a", ""]
            else:
                with pytest.raises(SollolError):
                    await chunks_of(engine, work())
        finally:
            await engine.aclose()


@pytest.mark.parametrize(
    ("total", "slots"), [("-5", None), ('"many"', None), ("1e99", None), ("3", 3), ("99999", 1024)]
)
async def test_slots_that_cannot_be_are_not_believed(total: str, slots: int | None) -> None:
    answers: dict[str, bytes | Script] = {
        "/v1/models": whole(b'{"data":[{"id":"m"}]}'),
        "/props": whole(f'{{"total_slots":{total}}}'.encode()),
    }
    async with ScriptedEngine(answers) as scripted:
        engine = OpenAIEngine(EngineHttp(scripted.url), {"offered": "m"})
        inventory = await engine.inventory()
        await engine.aclose()
    assert inventory.slots == slots
    assert [one.name for one in inventory.installed] == ["offered"]


PROPS = {
    "total_slots": 4,
    "default_generation_settings": {"n_ctx": 2048},
    "modalities": {"vision": True, "video": False, "audio": False},
    "chat_template": "{{ enable_thinking }}",
    "chat_template_caps": {"supports_tools": True},
}


async def test_a_llama_server_tells_what_its_model_can_do_and_how_long_a_prompt_a_slot_takes() -> None:
    answers: dict[str, bytes | Script] = {
        "/v1/models": whole(b'{"data":[{"id":"m","meta":{"n_ctx_train":32768,"n_ctx":2048}}]}'),
        "/props": whole(json.dumps(PROPS).encode()),
    }
    async with ScriptedEngine(answers) as scripted:
        engine = OpenAIEngine(EngineHttp(scripted.url), {})
        inventory, loaded = await engine.inventory(), await engine.loaded()
        await engine.aclose()
    assert inventory.installed[0].capabilities == ("completion", "tools", "thinking", "vision")
    assert (inventory.installed[0].context_length, loaded[0].context_length) == (32768, 2048)


async def test_a_router_tells_of_each_model_in_memory_and_is_made_to_load_none() -> None:
    rows = [{"id": "org/m", "status": {"value": "loaded"}}, {"id": "cold", "status": {"value": "unloaded"}}]
    answers: dict[str, bytes | Script] = {
        "/v1/models": whole(json.dumps({"data": rows}).encode()),
        "/props": whole(b'{"role":"router","default_generation_settings":{"params":null,"n_ctx":0}}'),
        "/props?model=org%2Fm&autoload=false": whole(json.dumps(PROPS).encode()),
    }
    async with ScriptedEngine(answers) as scripted:
        engine = OpenAIEngine(EngineHttp(scripted.url), {})
        inventory, loaded = await engine.inventory(), await engine.loaded()
        await engine.aclose()
    assert [one.capabilities for one in inventory.installed] == [("completion", "tools", "thinking", "vision"), ()]
    assert [(one.name, one.context_length) for one in loaded] == [("org/m", 2048)]
    assert not [path for path in scripted.requests if "cold" in path]


@pytest.mark.parametrize("props", [b"{}", b'{"total_slots":1}', b'{"total_slots":1,"modalities":{}}'])
async def test_what_a_server_does_not_tell_of_its_model_is_not_known(props: bytes) -> None:
    answers: dict[str, bytes | Script] = {"/v1/models": whole(b'{"data":[{"id":"m"}]}'), "/props": whole(props)}
    async with ScriptedEngine(answers) as scripted:
        engine = OpenAIEngine(EngineHttp(scripted.url), {})
        inventory = await engine.inventory()
        await engine.aclose()
    assert inventory.installed[0].capabilities == ()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/x"])
async def test_a_strict_engine_is_asked_by_its_own_name_for_the_model(path: str) -> None:
    async with ScriptedEngine({path: whole(b'{"id":1}')}) as scripted:
        engine = OpenAIEngine(EngineHttp(scripted.url), {})
        for spelling in ("library/Meta-Llama", "meta-llama:latest", "Meta-Llama"):
            body = b'{"prompt":"a \\u00e9","model":"%s","x":1.50}' % spelling.encode()
            request = EngineRequest(kind=RequestKind.PASSTHROUGH, model="Meta-Llama", body=body, path=path)
            await chunks_of(engine, request)
        await engine.aclose()
    assert scripted.bodies == [b'{"prompt":"a \\u00e9","model":"Meta-Llama","x":1.50}'] * 3


async def test_something_else_behind_the_url_is_no_engine() -> None:
    async with ScriptedEngine({"/api/version": whole(b"<html>", "text/html")}) as scripted:
        engine = OllamaEngine(EngineHttp(scripted.url))
        with pytest.raises(BackendBrokeProtocol):
            await engine.probe()
        await engine.aclose()


# -- through the node ---------------------------------------------------------------------------------------


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


# -- a real llama.cpp ---------------------------------------------------------------------------------------


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
