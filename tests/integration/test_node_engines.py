"""The adapters of engines before scripted ones that misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from sollol_agents.lab.testing.scripted_engine import (
    DONE,
    OLLAMA,
    Script,
    ScriptedEngine,
    chat_answer,
    chunk,
    head,
    whole,
)
from sollol_agents.node.engines.base import EngineRequest, LoadRequest
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.http.origin import origin_of
from sollol_agents.node.engines.http.pool import HttpPool
from sollol_agents.node.engines.ollama import OllamaEngine
from sollol_agents.node.engines.openai import OpenAIEngine
from sollol_bus.errors import BackendBrokeProtocol, BackendUnavailable, SollolError, UnknownModel
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode


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
        pool = HttpPool(origin_of(engine.url), connect_timeout_s=2.0, idle_s=0.0)
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


async def test_a_server_is_not_said_to_have_loaded_a_model_that_it_has_not() -> None:
    async with ScriptedEngine({"/v1/models": whole(b'{"data":[{"id":"m"},{"id":"n"}]}')}) as scripted:
        engine = OpenAIEngine(EngineHttp(scripted.url), {"offered": "m"})
        for name in ("offered", "offered:latest", "n"):
            await engine.load(LoadRequest(model=name))
        for name in ("m", "nope"):
            with pytest.raises(UnknownModel, match=f"model '{name}' not found"):
                await engine.load(LoadRequest(model=name))
        await engine.aclose()


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


@pytest.mark.parametrize("is_ollama", [True, False], ids=["Ollama", "OpenAI"])
async def test_groups_of_a_fleet_behind_a_node_are_no_models_of_it(is_ollama: bool) -> None:
    mark: dict[str, object] = {"group": {"models": ["m"], "strategy": "cost"}}
    rows: list[dict[str, object]] = [{"name": "m", "id": "m"}, {"name": "auto", "id": "auto", **mark}]
    answers: dict[str, bytes | Script] = {
        **OLLAMA,
        "/api/tags": whole(json.dumps({"models": rows}).encode()),
        "/v1/models": whole(json.dumps({"data": rows}).encode()),
    }
    async with ScriptedEngine(answers) as scripted:
        http = EngineHttp(scripted.url)
        engine = OllamaEngine(http) if is_ollama else OpenAIEngine(http, {})
        inventory = await engine.inventory()
        await engine.aclose()
    assert [one.name for one in inventory.installed] == ["m"]
