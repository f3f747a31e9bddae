"""One suite for every engine adapter, over every engine that speaks its dialect."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol

import msgspec
import pytest

from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig, Fault, FaultKind
from sollol_agents.node.engines.base import Engine, EngineAnswer, EngineRequest, LoadRequest
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.ollama import OllamaEngine
from sollol_agents.node.engines.openai import OpenAIEngine
from sollol_bus.errors import SollolError
from sollol_schemas.context import RequestKind
from sollol_schemas.control import EngineOperation
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures


class UnderTest(Protocol):
    @property
    def url(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def embed_model(self) -> str: ...
    @property
    def is_ollama(self) -> bool: ...


def adapter_for(dialect: str, url: str) -> Engine:
    http = EngineHttp(url)
    return OllamaEngine(http) if dialect == "ollama" else OpenAIEngine(http, {})


@pytest.fixture(params=["ollama", "openai"])
def dialect(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def adapter(engine: UnderTest, dialect: str) -> AsyncIterator[Engine]:
    if dialect == "ollama" and not engine.is_ollama:
        pytest.skip("this engine does not speak Ollama's own API")
    made = adapter_for(dialect, engine.url)
    yield made
    await made.aclose()


@asynccontextmanager
async def emulated(dialect: str, **settings: Any) -> AsyncIterator[tuple[EmulatedNode, Engine]]:
    """An emulated node of this process, where faults are at hand, and an adapter to it."""
    config = msgspec.convert({"preset": "steady", "time_scale": 20.0} | settings, EmulatorConfig)
    async with EmulatedNode(config) as node:
        adapter = adapter_for(dialect, node.url)
        try:
            yield node, adapter
        finally:
            await adapter.aclose()


def countdown(number: int) -> list[str]:
    return [str(n) for n in range(number - 1, -1, -1)]


def chat(model: str, text: str, **more: Any) -> EngineRequest:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": True} | more
    return EngineRequest(kind=RequestKind.CHAT, model=model, body=msgspec.json.encode(body))


def generate(model: str, text: str, **more: Any) -> EngineRequest:
    body = {"model": model, "prompt": text, "stream": True} | more
    return EngineRequest(kind=RequestKind.GENERATE, model=model, body=msgspec.json.encode(body))


async def messages(run: EngineAnswer) -> list[bytes]:
    return [chunk async for chunks in run.chunks() for chunk in chunks]


def said(chunks: list[bytes]) -> list[str]:
    """The words in the chunks of a native stream."""
    lines = [json.loads(chunk) for chunk in chunks]
    return "".join(line["message"]["content"] if "message" in line else line["response"] for line in lines).split()


def figures(run: EngineAnswer) -> Figures:
    assert run.figures is not None
    return run.figures


async def code_of(run: EngineAnswer) -> ErrorCode:
    with pytest.raises(SollolError) as caught:
        await messages(run)
    return caught.value.body.code


async def test_a_probe_tells_the_version(adapter: Engine) -> None:
    assert isinstance(await adapter.probe(), str)


async def test_the_inventory_lists_the_model(adapter: Engine, engine: UnderTest) -> None:
    inventory = await adapter.inventory()
    assert engine.model in {model.name.removesuffix(":latest") for model in inventory.installed}


@pytest.mark.parametrize("make", [chat, generate], ids=["chat", "generate"])
async def test_a_stream_says_the_text_and_ends_with_figures(adapter: Engine, engine: UnderTest, make: Any) -> None:
    run = adapter.run(make(engine.model, "count 40"))
    chunks = await messages(run)
    assert said(chunks) == countdown(40)
    assert json.loads(chunks[-1])["done"] is True
    assert (figures(run).prompt_tokens, figures(run).output_tokens) == (8, 41)
    assert run.output_chunks >= 40


@pytest.mark.parametrize("make", [chat, generate], ids=["chat", "generate"])
async def test_the_chunks_join_into_one_reply(adapter: Engine, engine: UnderTest, make: Any) -> None:
    run = adapter.run(make(engine.model, "count 9"))
    reply = run.join(await messages(run))
    assert said([reply]) == countdown(9)
    assert json.loads(reply)["done"] is True


async def test_a_token_limit_is_passed_on(adapter: Engine, engine: UnderTest) -> None:
    run = adapter.run(chat(engine.model, "count 40", options={"num_predict": 5}))
    chunks = await messages(run)
    assert said(chunks) == countdown(40)[:5]
    assert json.loads(chunks[-1])["done_reason"] == "length"


async def test_a_tool_is_called(adapter: Engine, engine: UnderTest) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    run = adapter.run(chat(engine.model, "please call", tools=tools))
    message = json.loads(run.join(await messages(run)))["message"]
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather"]
    assert isinstance(message["tool_calls"][0]["function"]["arguments"]["city"], str)


@pytest.mark.parametrize("limit", [1, 6, 20, 40])
async def test_a_call_that_the_limit_cut_is_absent_and_the_end_says_so(
    adapter: Engine, engine: UnderTest, limit: int
) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    run = adapter.run(chat(engine.model, "please call", tools=tools, options={"num_predict": limit}))
    reply = json.loads(run.join(await messages(run)))
    if reply["done_reason"] == "length":
        assert "tool_calls" not in reply["message"]
    else:  # the engine writes a call in fewer tokens
        assert [call["function"]["name"] for call in reply["message"]["tool_calls"]] == ["weather"]


async def test_what_ollama_ignores_or_mends_is_taken(adapter: Engine, engine: UnderTest) -> None:
    options = {"num_predict": 40.0, "num_ctx": 2048, "weather": "fine", "mirostat": 2, "low_vram": True}
    request = chat(engine.model, "half of a pair: _ count 9", options=options, metadata={}, tool_choice="auto")
    run = adapter.run(msgspec.structs.replace(request, body=request.body.replace(b"_", rb"\ud83d")))
    assert said(await messages(run)) == countdown(9)


async def test_reasoning_is_kept_apart(adapter: Engine, engine: UnderTest) -> None:
    run = adapter.run(chat(engine.model, "please think"))
    message = json.loads(run.join(await messages(run)))["message"]
    assert message["thinking"].strip() == "hmm"
    assert message["content"].split() == countdown(32)


async def test_every_field_of_a_conversation_is_taken(adapter: Engine, engine: UnderTest, dialect: str) -> None:
    await adapter.inventory()  # tells whose server it is
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    call = {"id": "c1", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
    messages_ = [
        {"role": "System", "content": "be brief"},
        {"role": "user", "content": "how is it?"},
        {"role": "assistant", "content": "", "thinking": "I need the weather", "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_name": "weather", "tool_call_id": "c1"},
        {"role": "user", "content": "please think"},
    ]
    options = {"temperature": 0, "top_p": 1, "min_p": 0, "seed": 7, "num_predict": 60, "stop": ["never"]}
    more: dict[str, Any] = {
        "format": schema,
        "think": True,
        "keep_alive": "5m",
        "truncate": True,
        "shift": True,
        "options": options | {"typical_p": 1, "repeat_penalty": 1.0, "presence_penalty": 0},
    }
    if dialect == "ollama" or not engine.is_ollama:  # an Ollama's /v1 has no such parameters
        more["options"] |= {"top_k": 5, "repeat_last_n": 64}
    body = msgspec.json.encode({"model": engine.model, "messages": messages_, **more})
    run = adapter.run(EngineRequest(kind=RequestKind.CHAT, model=engine.model, body=body))
    message = json.loads(run.join(await messages(run)))["message"]
    assert isinstance(json.loads(message["content"])["ok"], bool)


async def test_probabilities_are_told_where_the_engine_has_them(adapter: Engine, engine: UnderTest) -> None:
    await adapter.inventory()
    run = adapter.run(chat(engine.model, "count 3", logprobs=True, top_logprobs=2))
    reply = json.loads(run.join(await messages(run)))
    assert reply["message"]["content"].split() == countdown(3)
    if not engine.is_ollama:
        assert [len(entry["top_logprobs"]) for entry in reply["logprobs"]][:3] == [2, 2, 2]
        assert all(entry["logprob"] <= 0 and entry["token"] for entry in reply["logprobs"][:3])


async def test_runs_beside_each_other_are_not_mixed(adapter: Engine, engine: UnderTest) -> None:
    async def one(number: int) -> list[str]:
        return said(await messages(adapter.run(chat(engine.model, f"count {number}"))))

    numbers = list(range(30, 42))
    assert await asyncio.gather(*map(one, numbers)) == [countdown(number) for number in numbers]


async def test_an_embedding_is_one_reply_with_a_vector_for_each_input(adapter: Engine, engine: UnderTest) -> None:
    body = msgspec.json.encode({"model": engine.embed_model, "input": ["hello world", "hello"]})
    run = adapter.run(EngineRequest(kind=RequestKind.EMBED, model=engine.embed_model, body=body))
    reply = json.loads(run.join(await messages(run)))
    assert [round(math.hypot(*vector), 3) for vector in reply["embeddings"]] == [1.0, 1.0]
    assert (figures(run).prompt_tokens or 0) > 0


async def test_a_passed_through_stream_comes_as_the_engine_sent_it(adapter: Engine, engine: UnderTest) -> None:
    body = {"model": engine.model, "messages": [{"role": "user", "content": "count 20"}], "stream": True}
    work = EngineRequest(
        kind=RequestKind.PASSTHROUGH,
        model=engine.model,
        body=msgspec.json.encode(body),
        path="/v1/chat/completions",
    )
    run = adapter.run(work)
    text = b"".join(await messages(run)).decode()
    assert run.content_type.startswith("text/event-stream")
    assert text.endswith("data: [DONE]\n\n")
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    content = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    assert content.split() == countdown(20)


async def test_closing_a_run_frees_its_slot(slow_engine: UnderTest, dialect: str) -> None:
    if dialect == "ollama" and not slow_engine.is_ollama:
        pytest.skip("this engine does not speak Ollama's own API")
    adapter = adapter_for(dialect, slow_engine.url)
    try:
        async with aclosing(adapter.run(chat(slow_engine.model, "count 999")).chunks()) as chunks:
            await anext(chunks)
        # the abandoned answer would hold the only slot for more than ten seconds
        async with asyncio.timeout(8):
            assert said(await messages(adapter.run(chat(slow_engine.model, "count 3")))) == countdown(3)
    finally:
        await adapter.aclose()


async def test_an_engine_that_is_not_there_is_unavailable(dialect: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        adapter = adapter_for(dialect, f"http://127.0.0.1:{unused.getsockname()[1]}")
        try:
            assert await code_of(adapter.run(chat("countdown", "count 3"))) == ErrorCode.ENGINE_UNAVAILABLE
            with pytest.raises(SollolError) as caught:
                await adapter.probe()
            assert caught.value.body.code == ErrorCode.ENGINE_UNAVAILABLE
        finally:
            await adapter.aclose()


async def test_an_unknown_model_is_the_callers_fault(dialect: str) -> None:
    async with emulated(dialect) as (_, adapter):
        assert await code_of(adapter.run(chat("nope", "count 3"))) == ErrorCode.UNKNOWN_MODEL


async def test_a_prompt_beyond_the_context_is_the_callers_fault(adapter: Engine, engine: UnderTest) -> None:
    assert await code_of(adapter.run(chat(engine.model, "z" * 9000))) == ErrorCode.ENGINE_REJECTED


@pytest.mark.parametrize(
    ("fault", "codes"),
    [
        (Fault(kind=FaultKind.END_EARLY, after_tokens=3), {ErrorCode.ENGINE_PROTOCOL}),
        (Fault(kind=FaultKind.TRUNCATE, after_tokens=3), {ErrorCode.ENGINE_PROTOCOL}),
        (Fault(kind=FaultKind.RESET, after_tokens=3), {ErrorCode.ENGINE_PROTOCOL, ErrorCode.ENGINE_UNAVAILABLE}),
        (Fault(kind=FaultKind.RESET), {ErrorCode.ENGINE_PROTOCOL, ErrorCode.ENGINE_UNAVAILABLE}),
        # Ollama's own event stream hides the error: it just ends
        (Fault(kind=FaultKind.ERROR_LINE, after_tokens=3), {ErrorCode.ENGINE_FAILED, ErrorCode.ENGINE_PROTOCOL}),
        (Fault(kind=FaultKind.LOAD_ERROR), {ErrorCode.LOAD_FAILED}),
        (Fault(kind=FaultKind.OUT_OF_MEMORY), {ErrorCode.LOAD_FAILED}),
        (Fault(kind=FaultKind.WRONG_CONTENT), {ErrorCode.ENGINE_PROTOCOL}),
    ],
    ids=["end", "truncate", "reset", "reset-at-once", "error-line", "load", "memory", "wrong-content"],
)
async def test_a_fault_of_the_engine_has_its_code_and_the_next_request_runs(
    dialect: str, fault: Fault, codes: set[ErrorCode]
) -> None:
    async with emulated(dialect) as (node, adapter):
        node.inject(fault)
        assert await code_of(adapter.run(chat("countdown", "count 30"))) in codes
        assert said(await messages(adapter.run(chat("countdown", "count 3")))) == countdown(3)


async def test_what_came_before_a_fault_is_passed_on(dialect: str) -> None:
    async with emulated(dialect) as (node, adapter):
        node.inject(Fault(kind=FaultKind.END_EARLY, after_tokens=5))
        seen: list[bytes] = []

        async def read() -> None:
            async for chunks in adapter.run(chat("countdown", "count 30")).chunks():
                seen.extend(chunks)

        with pytest.raises(SollolError):
            await read()
        assert said(seen) == countdown(30)[:5]


async def test_a_full_queue_of_loads_is_busy() -> None:
    async with emulated("ollama", max_queue=1, max_loaded=1, time_scale=1.0) as (_, adapter):
        async with aclosing(adapter.run(chat("countdown", "count 900")).chunks()) as busy:
            await anext(busy)
            async with asyncio.TaskGroup() as group:
                waiting = [
                    group.create_task(code_or_none(adapter.run(chat("llama3.2:3b", "count 1")))) for _ in range(3)
                ]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                await busy.aclose()
        assert sorted(str(task.result()) for task in waiting) == ["None", "None", str(ErrorCode.BUSY)]


async def code_or_none(run: EngineAnswer) -> ErrorCode | None:
    try:
        await messages(run)
    except SollolError as error:
        return error.body.code
    return None


async def test_models_are_loaded_shown_and_unloaded() -> None:
    async with emulated("ollama") as (_, adapter):
        await adapter.inventory()
        for model in ("countdown", "nomic-embed-text"):
            await adapter.load(LoadRequest(model=model, keep_alive_s=-1.0))
        loaded = {model.name: model for model in await adapter.loaded()}
        assert set(loaded) == {"countdown:latest", "nomic-embed-text:latest"}
        assert loaded["countdown:latest"].vram_bytes == loaded["countdown:latest"].size_bytes > 0
        for model in ("countdown", "nomic-embed-text"):
            await adapter.unload(model)
        assert await adapter.loaded() == ()


async def test_a_pull_tells_its_progress() -> None:
    async with emulated("ollama", model=["countdown"], time_scale=1000.0) as (_, adapter):
        reports = [json.loads(line) async for line in adapter.operate(EngineOperation.PULL, {"model": "llama3.2:3b"})]
        assert reports[-1] == {"status": "success"}
        assert "llama3.2:3b" in {model.name for model in (await adapter.inventory()).installed}


async def test_an_emulated_node_tells_its_fake_gpu_and_its_models() -> None:
    async with emulated("ollama", preset="rtx3060-12") as (_, adapter):
        inventory, machine = await adapter.inventory(), await adapter.pretended()
        assert machine is not None
        assert [gpu.memory_total_mib for gpu in machine.gpus] == [12 * 1024]
        small = next(model for model in inventory.installed if model.name == "llama3.2:3b")
        assert small.kv_bytes_per_token == 4 * 28 * 8 * 128
        assert small.parameter_count == 3_200_000_000
