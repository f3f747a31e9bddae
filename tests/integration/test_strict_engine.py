"""Clients of every dialect on an engine that refuses what it does not know."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.strict_engine import MODEL, StrictEngine
from sollol_agents.lab.testing.waiting import eventually

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
OWN = {"name": "weather", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}
OPTIONS = {"num_ctx": 131_072, "num_thread": 4, "use_mmap": True, "low_vram": False, "top_k": 0, "repeat_last_n": 64}
CALLED = [
    {"role": "user", "content": "weather?", "name": "Ann"},
    {
        "role": "assistant",
        "content": "",
        "thinking": "hm",
        "tool_calls": [{"id": "c", "function": {"index": 0, "name": "weather", "arguments": {"city": "Oslo"}}}],
    },
    {"role": "tool", "tool_name": "weather", "content": "rain"},
]
NATIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "options": ("/api/chat", {"messages": HELLO, "options": OPTIONS, "keep_alive": -1, "think": False}),
    "tools": ("/api/chat", {"messages": CALLED, "tools": [TOOL], "tool_choice": "auto", "temperature": 0.1}),
    "effort": ("/api/chat", {"messages": HELLO, "think": "max", "format": {"type": "object"}, "user": "u"}),
    "prompt": ("/api/generate", {"prompt": "hello", "options": {"num_predict": 3.0}, "metadata": {}}),
    "raw": ("/api/generate", {"prompt": "hello", "raw": True, "format": "json"}),
    "texts": ("/api/embed", {"input": ["a", "b"], "options": OPTIONS, "truncate": True}),
    "text": ("/api/embeddings", {"prompt": "a", "options": OPTIONS}),
}
CLAUDE: dict[str, Any] = {
    "max_tokens": 100.0,
    "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "max"},
    "metadata": {"user_id": "u"},
    "tools": [OWN, {"type": "web_search_20250305", "name": "web_search"}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": "no"}],
        },
    ],
}


@pytest.fixture
async def strict() -> AsyncIterator[StrictEngine]:
    async with StrictEngine() as engine:
        yield engine


@pytest.fixture
async def system(tmp_path: Path, strict: StrictEngine) -> AsyncIterator[EmulatedSystem]:
    async with EmulatedSystem(tmp_path, nodes=0, gateway=GatewayConfig(port=0)) as system:
        await system.stack.add_engine(strict.url, node_id="v", engine="openai")

        async def knows_the_model() -> bool:
            return any(MODEL in view.name for view in (await system.client.models()).models)

        await eventually(knows_the_model)
        yield system


async def test_whatever_clients_of_ollama_send_is_taken(system: EmulatedSystem, strict: StrictEngine) -> None:
    for name, (path, body) in NATIVE.items():
        answer = await system.http.post(path, json={"model": MODEL, "stream": False, **body})
        assert answer.status_code == 200, f"{name}: {answer.text}"
    assert strict.refused == []
    assert len(strict.taken) == len(NATIVE)


async def test_what_was_left_out_is_told_in_the_figures(system: EmulatedSystem) -> None:
    answer = await system.client.chat(MODEL, HELLO, options=OPTIONS)
    assert answer.figures is not None
    assert answer.text == "hello"
    assert answer.figures.left_out == (
        "options.num_ctx",
        "options.num_thread",
        "options.use_mmap",
        "options.low_vram",
    )


@pytest.mark.parametrize("is_stream", [False, True])
async def test_whatever_a_coding_agent_sends_is_taken(
    system: EmulatedSystem, strict: StrictEngine, is_stream: bool
) -> None:
    answer = await system.http.post("/v1/messages", json={"model": MODEL, "stream": is_stream, **CLAUDE})
    assert answer.status_code == 200, answer.text
    assert strict.refused == []
    ((_, taken),) = strict.taken
    assert [tool["function"]["name"] for tool in taken["tools"]] == ["weather"]
    assert taken["messages"][-1] == {"role": "tool", "tool_call_id": "t", "content": "Error: no"}
    assert "end_turn" in answer.text


async def test_a_field_that_cannot_be_honoured_is_the_requests_fault_and_never_reaches_it(
    system: EmulatedSystem, strict: StrictEngine
) -> None:
    answer = await system.http.post("/api/generate", json={"model": MODEL, "prompt": "p", "suffix": "s"})
    assert (answer.status_code, "suffix" in answer.text) == (400, True)
    assert not strict.taken
    assert not strict.refused
