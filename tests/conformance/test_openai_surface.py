"""What every engine has in common: the OpenAI paths, with text and counts that can be checked exactly."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
from collections.abc import AsyncIterator
from typing import Any, Protocol

import httpx
import pytest


class Engine(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def embed_model(self) -> str: ...
    @property
    def is_ollama(self) -> bool: ...


def countdown(number: int) -> list[str]:
    return [str(n) for n in range(number - 1, -1, -1)]


def chat_body(engine: Engine, text: str, **more: Any) -> dict[str, Any]:
    return {"model": engine.model, "messages": [{"role": "user", "content": text}], **more}


async def chat(client: httpx.AsyncClient, engine: Engine, text: str, **more: Any) -> dict[str, Any]:
    answer = await client.post("/v1/chat/completions", json=chat_body(engine, text, **more))
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def events(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any] | None]:
    """Yields the events of a stream, and None for the end mark."""
    async with client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                payload = line.removeprefix("data: ")
                yield None if payload == "[DONE]" else json.loads(payload)


@pytest.mark.parametrize("number", [1, 2, 40, 300])
async def test_a_chat_counts_down(client: httpx.AsyncClient, engine: Engine, number: int) -> None:
    body = await chat(client, engine, f"count {number}")
    assert body["choices"][0]["message"]["content"].split() == countdown(number)
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_usage_counts_the_prompt_and_every_token_with_the_last(client: httpx.AsyncClient, engine: Engine) -> None:
    usage = (await chat(client, engine, "hello world, please count 25"))["usage"]
    # start, <|user|>, h e l l o, " world", ",", " please", " count", " 25"
    assert usage["prompt_tokens"] == 12
    assert usage["completion_tokens"] == 26
    assert usage["total_tokens"] == 38


async def test_a_chat_stream_says_the_same_in_order(client: httpx.AsyncClient, engine: Engine) -> None:
    body = chat_body(engine, "count 60", stream=True, stream_options={"include_usage": True})
    seen = [event async for event in events(client, "/v1/chat/completions", body)]
    assert seen[-1] is None
    chunks = [event for event in seen if event is not None]
    text = "".join(choice["delta"].get("content") or "" for event in chunks for choice in event["choices"])
    assert text.split() == countdown(60)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["finish_reason"] for event in chunks for c in event["choices"] if c["finish_reason"]] == ["stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 61
    assert len({event["id"] for event in chunks}) == 1


async def test_a_stream_brings_its_tokens_one_by_one(client: httpx.AsyncClient, engine: Engine) -> None:
    body = chat_body(engine, "count 30", stream=True)
    with_text = [
        event
        async for event in events(client, "/v1/chat/completions", body)
        if event and any(choice["delta"].get("content") for choice in event["choices"])
    ]
    assert len(with_text) == 30


async def test_a_completion_counts_down(client: httpx.AsyncClient, engine: Engine) -> None:
    answer = await client.post("/v1/completions", json={"model": engine.model, "prompt": "count 12"})
    body = answer.json()
    assert body["choices"][0]["text"].split() == countdown(12)
    prompt_tokens = 8 if engine.is_ollama else 7  # Ollama renders the prompt as a user's message
    assert body["usage"] | {"prompt_tokens_details": None} == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 13,
        "total_tokens": prompt_tokens + 13,
        "prompt_tokens_details": None,
    }


async def test_a_completion_stream_counts_down(client: httpx.AsyncClient, engine: Engine) -> None:
    body = {"model": engine.model, "prompt": "count 12", "stream": True}
    seen = [event async for event in events(client, "/v1/completions", body)]
    assert seen[-1] is None
    assert "".join(c["text"] for event in seen if event for c in event["choices"]).split() == countdown(12)


async def test_a_token_limit_ends_the_answer_with_length(client: httpx.AsyncClient, engine: Engine) -> None:
    body = await chat(client, engine, "count 20", max_tokens=5)
    assert body["choices"][0]["message"]["content"].split() == countdown(20)[:5]
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 5


async def test_a_stop_text_ends_the_answer_before_it(client: httpx.AsyncClient, engine: Engine) -> None:
    body = await chat(client, engine, "count 9", stop=["5"])
    assert body["choices"][0]["message"]["content"].split() == ["8", "7", "6"]
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_earlier_turns_do_not_change_the_answer(client: httpx.AsyncClient, engine: Engine) -> None:
    turns = [
        {"role": "system", "content": "You are slow"},
        {"role": "user", "content": "count 90"},
        {"role": "assistant", "content": "89"},
        {"role": "user", "content": "count 4"},
    ]
    answer = await client.post("/v1/chat/completions", json={"model": engine.model, "messages": turns})
    assert answer.json()["choices"][0]["message"]["content"].split() == countdown(4)


async def test_a_tool_is_called_with_arguments_that_are_json(client: httpx.AsyncClient, engine: Engine) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    choice = (await chat(client, engine, "please call", tools=tools))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert isinstance(json.loads(call["function"]["arguments"])["city"], str)


async def test_reasoning_is_kept_apart_from_the_answer(client: httpx.AsyncClient, engine: Engine) -> None:
    message = (await chat(client, engine, "please think"))["choices"][0]["message"]
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    assert reasoning.strip() == "hmm"
    assert message["content"].split() == countdown(32)


async def test_structured_output_satisfies_its_schema(client: httpx.AsyncClient, engine: Engine) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    message = (await chat(client, engine, "please think", response_format=wanted))["choices"][0]["message"]
    assert isinstance(json.loads(message["content"])["ok"], bool)


async def test_streams_that_run_together_are_not_mixed(client: httpx.AsyncClient, engine: Engine) -> None:
    async def one(number: int) -> list[str]:
        body = chat_body(engine, f"count {number}", stream=True, temperature=1)
        seen = [event async for event in events(client, "/v1/chat/completions", body)]
        return "".join(c["delta"].get("content") or "" for e in seen if e for c in e["choices"]).split()

    numbers = [30, 31, 60, 61, 90, 91, 120, 121, 7, 8, 9, 10]
    assert await asyncio.gather(*map(one, numbers)) == [countdown(number) for number in numbers]


async def embed(client: httpx.AsyncClient, engine: Engine, texts: list[str], **more: Any) -> list[Any]:
    answer = await client.post("/v1/embeddings", json={"model": engine.embed_model, "input": texts, **more})
    assert answer.status_code == 200, answer.text
    assert [item["index"] for item in answer.json()["data"]] == list(range(len(texts)))
    return [item["embedding"] for item in answer.json()["data"]]


async def test_embeddings_of_texts_that_share_words_are_nearer(client: httpx.AsyncClient, engine: Engine) -> None:
    texts = ["a slow model node", "a slow model request", "please tell me about two story"]
    first, second, third = await embed(client, engine, texts)

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    assert cosine(first, second) > cosine(first, third)


async def test_embeddings_come_as_base64_when_asked(client: httpx.AsyncClient, engine: Engine) -> None:
    (plain,) = await embed(client, engine, ["hello world"])
    (coded,) = await embed(client, engine, ["hello world"], encoding_format="base64")
    assert struct.unpack(f"<{len(plain)}f", base64.b64decode(coded)) == pytest.approx(plain, abs=1e-6)


async def test_the_model_is_listed(client: httpx.AsyncClient, engine: Engine) -> None:
    body = (await client.get("/v1/models")).json()
    assert body["object"] == "list"
    assert engine.model in {item["id"].removesuffix(":latest") for item in body["data"]}


async def test_what_is_no_json_is_a_client_error(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/chat/completions", content=b"{bad")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_prompt_beyond_the_context_is_a_client_error(client: httpx.AsyncClient, engine: Engine) -> None:
    answer = await client.post("/v1/chat/completions", json=chat_body(engine, "z" * 9000))
    assert answer.status_code == 400
    assert "exceed" in answer.json()["error"]["message"]


async def test_an_unknown_path_is_not_found(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/nothing", json={})).status_code == 404


async def test_a_client_that_leaves_frees_the_only_slot(slow_client: httpx.AsyncClient, slow_engine: Engine) -> None:
    body = chat_body(slow_engine, "count 999", stream=True)
    async with slow_client.stream("POST", "/v1/chat/completions", json=body) as answer:
        await anext(answer.aiter_lines())
    # the abandoned answer would hold the slot for more than ten seconds
    async with asyncio.timeout(8):
        assert (await chat(slow_client, slow_engine, "count 3"))["choices"][0]["message"][
            "content"
        ].split() == countdown(3)


async def test_a_request_beyond_the_slots_waits_for_one(slow_client: httpx.AsyncClient, slow_engine: Engine) -> None:
    answers = await asyncio.gather(*(chat(slow_client, slow_engine, f"count {n}") for n in (20, 21, 22)))
    texts = [answer["choices"][0]["message"]["content"].split() for answer in answers]
    assert texts == [countdown(n) for n in (20, 21, 22)]
