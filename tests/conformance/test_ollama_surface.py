"""Ollama's own API, for the engines that speak it: shapes, counts and the exact texts of its errors."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, Protocol

import httpx
import pytest

from sollol_agents.lab.testing.waiting import eventually


class Engine(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def embed_model(self) -> str: ...


pytestmark = pytest.mark.usefixtures("ollama")


def countdown(number: int) -> list[str]:
    return [str(n) for n in range(number - 1, -1, -1)]


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def lines(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns all lines of a native stream."""
    async with client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) async for line in answer.aiter_lines()]


async def test_the_root_says_that_it_runs(client: httpx.AsyncClient) -> None:
    assert (await client.get("/")).text == "Ollama is running"
    assert (await client.head("/")).status_code == 200


async def test_the_version_is_told(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/version")).json()["version"].count(".") >= 2


async def test_generate_streams_by_default_and_ends_with_figures(client: httpx.AsyncClient, engine: Engine) -> None:
    seen = await lines(client, "/api/generate", {"model": engine.model, "prompt": "count 40"})
    assert "".join(line["response"] for line in seen).split() == countdown(40)
    assert [line["done"] for line in seen] == [False] * 40 + [True]
    last = seen[-1]
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("stop", 8, 41)
    parts = last["load_duration"] + last["prompt_eval_duration"] + last["eval_duration"]
    assert 0 < parts <= last["total_duration"]


async def test_chat_streams_messages_of_the_assistant(client: httpx.AsyncClient, engine: Engine) -> None:
    seen = await lines(client, "/api/chat", {"model": engine.model, "messages": messages("count 40")})
    assert {line["message"]["role"] for line in seen} == {"assistant"}
    assert "".join(line["message"]["content"] for line in seen).split() == countdown(40)
    assert seen[-1]["done_reason"] == "stop"


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
async def test_without_a_stream_there_is_one_answer(client: httpx.AsyncClient, engine: Engine, path: str) -> None:
    body = {"model": engine.model, "prompt": "count 7", "messages": messages("count 7"), "stream": False}
    answer = (await client.post(path, json=body)).json()
    text = answer["response"] if path == "/api/generate" else answer["message"]["content"]
    assert text.split() == countdown(7)
    assert answer["done"]


async def test_num_predict_ends_with_length(client: httpx.AsyncClient, engine: Engine) -> None:
    body = {"model": engine.model, "prompt": "count 50", "options": {"num_predict": 4}, "stream": False}
    answer = (await client.post("/api/generate", json=body)).json()
    assert (answer["done_reason"], answer["eval_count"]) == ("length", 4)


async def test_tool_calls_come_complete_in_the_last_message(client: httpx.AsyncClient, engine: Engine) -> None:
    function = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    body = {
        "model": engine.model,
        "messages": messages("please call"),
        "tools": [{"type": "function", "function": function}],
    }
    seen = await lines(client, "/api/chat", body)
    calls = [call for line in seen for call in line["message"].get("tool_calls", ())]
    assert [call["function"]["name"] for call in calls] == ["weather"]
    assert isinstance(calls[0]["function"]["arguments"], dict)


async def test_an_empty_prompt_loads_and_keep_alive_zero_unloads(client: httpx.AsyncClient, engine: Engine) -> None:
    async def is_loaded() -> bool:
        models = (await client.get("/api/ps")).json()["models"]
        return engine.model in {model["name"].removesuffix(":latest") for model in models}

    async def is_unloaded() -> bool:
        return not await is_loaded()

    loaded = (await client.post("/api/generate", json={"model": engine.model, "stream": False})).json()
    assert loaded["done_reason"] == "load"
    assert await is_loaded()
    body = {"model": engine.model, "messages": [], "keep_alive": 0, "stream": False}
    unloaded = (await client.post("/api/chat", json=body)).json()
    assert unloaded["done_reason"] == "unload"
    await eventually(is_unloaded)


async def test_a_loaded_model_is_shown_with_its_memory(client: httpx.AsyncClient, engine: Engine) -> None:
    await client.post("/api/generate", json={"model": engine.model, "prompt": "count 1", "stream": False})
    models = (await client.get("/api/ps")).json()["models"]
    shown = next(model for model in models if model["name"].removesuffix(":latest") == engine.model)
    assert 0 <= shown["size_vram"] <= shown["size"]
    assert shown["context_length"] > 0
    assert shown["expires_at"]


async def test_a_negative_keep_alive_keeps_for_ever(client: httpx.AsyncClient, engine: Engine) -> None:
    body = {"model": engine.model, "prompt": "count 1", "keep_alive": -1, "stream": False}
    await client.post("/api/generate", json=body)
    models = (await client.get("/api/ps")).json()["models"]
    shown = next(model for model in models if model["name"].removesuffix(":latest") == engine.model)
    assert int(shown["expires_at"][:4]) > 2300
    await client.post("/api/generate", json=body | {"keep_alive": "5m"})


async def test_tags_and_show_describe_the_model(client: httpx.AsyncClient, engine: Engine) -> None:
    tags = (await client.get("/api/tags")).json()["models"]
    tag = next(model for model in tags if model["name"].removesuffix(":latest") == engine.model)
    assert tag["size"] > 0
    assert len(tag["digest"]) == 64
    shown = (await client.post("/api/show", json={"model": engine.model})).json()
    assert "completion" in shown["capabilities"]
    info = shown["model_info"]
    assert info[f"{info['general.architecture']}.block_count"] > 0
    assert info[f"{info['general.architecture']}.attention.head_count_kv"] > 0


async def test_embed_gives_a_unit_vector_for_each_input(client: httpx.AsyncClient, engine: Engine) -> None:
    body = {"model": engine.embed_model, "input": ["hello world", "hello"]}
    answer = (await client.post("/api/embed", json=body)).json()
    assert [round(math.hypot(*vector), 3) for vector in answer["embeddings"]] == [1.0, 1.0]
    assert answer["prompt_eval_count"] > 0
    old = (await client.post("/api/embeddings", json={"model": engine.embed_model, "prompt": "hello"})).json()
    assert old["embedding"] == pytest.approx(answer["embeddings"][1], abs=1e-4)


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/chat", {"model": "nope", "messages": []}, 404, "model 'nope' not found"),
        ("/api/generate", {"model": "nope"}, 404, "model 'nope' not found"),
        ("/api/embed", {"model": "nope", "input": "x"}, 404, 'model "nope" not found, try pulling it first'),
        ("/api/embeddings", {"model": "nope", "prompt": "x"}, 404, 'model "nope" not found, try pulling it first'),
        ("/api/show", {"model": "nope"}, 404, "model 'nope:latest' not found"),
        ("/api/chat", {"messages": []}, 400, "model is required"),
        ("/api/generate", None, 400, "missing request body"),
    ],
    ids=["chat", "generate", "embed", "embeddings", "show", "no-model", "no-body"],
)
async def test_an_error_has_ollamas_status_and_text(
    client: httpx.AsyncClient, path: str, body: dict[str, Any] | None, status: int, text: str
) -> None:
    answer = await client.post(path, json=body) if body is not None else await client.post(path)
    assert (answer.status_code, answer.json()) == (status, {"error": text})
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


async def test_a_duration_without_a_unit_is_refused(client: httpx.AsyncClient, engine: Engine) -> None:
    answer = await client.post("/api/generate", json={"model": engine.model, "keep_alive": "300"})
    assert answer.status_code == 400
    assert "missing unit in duration" in answer.json()["error"]


async def test_deleting_what_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    answer = await client.request("DELETE", "/api/delete", json={"model": "nope"})
    assert answer.status_code == 404
    assert answer.json() == {"error": "model 'nope' not found"}


async def test_a_copy_answers_under_its_name_until_it_is_deleted(client: httpx.AsyncClient, engine: Engine) -> None:
    copied = await client.post("/api/copy", json={"source": engine.model, "destination": "sollol-copy"})
    assert (copied.status_code, copied.content) == (200, b"")
    body = {"model": "sollol-copy", "prompt": "count 3", "stream": False}
    assert (await client.post("/api/generate", json=body)).json()["model"] == "sollol-copy"
    assert (await client.request("DELETE", "/api/delete", json={"model": "sollol-copy"})).status_code == 200
    assert (await client.post("/api/generate", json=body)).status_code == 404


async def test_paths_and_methods_that_do_not_exist_are_refused_as_text(client: httpx.AsyncClient) -> None:
    missing = await client.post("/api/nothing", json={})
    assert (missing.status_code, missing.text) == (404, "404 page not found")
    assert missing.headers["content-type"].startswith("text/plain")
    assert (await client.get("/api/chat")).status_code == 405


async def test_a_foreign_host_is_refused_without_a_word(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/version", headers={"Host": "example.com"})
    assert (answer.status_code, answer.content) == (403, b"")


async def test_requests_beyond_the_slots_all_end(client: httpx.AsyncClient, engine: Engine) -> None:
    async def one(number: int) -> list[str]:
        body = {"model": engine.model, "prompt": f"count {number}"}
        return "".join(line["response"] for line in await lines(client, "/api/generate", body)).split()

    numbers = list(range(20, 32))
    assert await asyncio.gather(*map(one, numbers)) == [countdown(number) for number in numbers]
