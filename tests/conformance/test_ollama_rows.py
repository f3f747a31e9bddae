"""What an Ollama node says, row by row: paths, options, figures, refusals, and the dialects that came later."""

from __future__ import annotations

import json
from typing import Any, Protocol

import httpx
import pytest


class Engine(Protocol):
    @property
    def url(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def embed_model(self) -> str: ...


pytestmark = pytest.mark.usefixtures("ollama")

USER = [{"role": "user", "content": "count 3"}]
CALLING = [{"role": "user", "content": "please call"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def events(text: str) -> list[dict[str, Any]]:
    """The data of every event of a stream."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


# -- native -------------------------------------------------------------------------------------------------


async def test_generate_ends_with_the_context_unless_raw(client: httpx.AsyncClient, engine: Engine) -> None:
    body = {"model": engine.model, "prompt": "count 3", "stream": False}
    answer = (await client.post("/api/generate", json=body)).json()
    assert len(answer["context"]) == answer["prompt_eval_count"] + answer["eval_count"] - 2
    assert all(isinstance(token, int) for token in answer["context"])
    assert "context" not in (await client.post("/api/generate", json=body | {"raw": True})).json()
    lines = (await client.post("/api/generate", json=body | {"stream": True})).text.splitlines()
    assert ["context" in json.loads(line) for line in lines] == [False] * (len(lines) - 1) + [True]


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
async def test_loading_is_one_object_whatever_stream_says(client: httpx.AsyncClient, engine: Engine, path: str) -> None:
    answer = await client.post(path, json={"model": engine.model, "stream": True})
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.json()["done_reason"] == "load"
    assert not {"context", "eval_count", "total_duration"} & answer.json().keys()


async def test_names_may_have_any_case_and_the_tag(client: httpx.AsyncClient, engine: Engine) -> None:
    for name in (engine.model.upper(), f"{engine.model}:latest"):
        answer = await client.post("/api/generate", json={"model": name, "prompt": "count 2", "stream": False})
        assert (answer.status_code, answer.json()["model"]) == (200, name)


async def test_an_option_of_the_wrong_type_is_a_failure(client: httpx.AsyncClient, engine: Engine) -> None:
    body = {"model": engine.model, "prompt": "count 2", "options": {"num_predict": "many"}}
    answer = await client.post("/api/generate", json=body)
    assert answer.status_code == 500
    assert answer.json() == {"error": 'option "num_predict" must be of type integer'}


async def test_unknown_options_are_ignored(client: httpx.AsyncClient, engine: Engine) -> None:
    body = {"model": engine.model, "prompt": "count 2", "stream": False, "options": {"nonsense": [1]}}
    assert (await client.post("/api/generate", json=body)).json()["response"].split() == ["1", "0"]


async def test_what_is_sent_need_not_say_that_it_is_json(client: httpx.AsyncClient, engine: Engine) -> None:
    body = json.dumps({"model": engine.model, "prompt": "count 2", "stream": False}).encode()
    answer = await client.post("/api/generate", content=body, headers={"Content-Type": "text/weird"})
    assert answer.json()["response"].split() == ["1", "0"]


async def test_an_embedding_model_does_not_chat_and_a_chat_model_does_not_embed(
    client: httpx.AsyncClient, engine: Engine
) -> None:
    if engine.model == engine.embed_model:
        pytest.skip("one model does both here")
    refused = await client.post("/api/chat", json={"model": engine.embed_model, "messages": USER})
    assert (refused.status_code, refused.json()) == (400, {"error": f'"{engine.embed_model}" does not support chat'})
    refused = await client.post("/api/embed", json={"model": engine.model, "input": "x"})
    assert refused.status_code == 501
    assert refused.json()["error"].startswith("This server does not support embeddings. Start it with")


async def test_an_input_that_may_not_be_cut_is_refused(client: httpx.AsyncClient, engine: Engine) -> None:
    body = {"model": engine.embed_model, "input": "a " * 10_000, "truncate": False}
    answer = await client.post("/api/embed", json=body)
    assert (answer.status_code, answer.json()) == (400, {"error": "the input length exceeds the context length"})
    assert (await client.post("/api/embed", json=body | {"truncate": True})).status_code == 200


async def test_dimensions_cut_an_embedding(client: httpx.AsyncClient, engine: Engine) -> None:
    body = {"model": engine.embed_model, "input": "hello", "dimensions": 16}
    assert len((await client.post("/api/embed", json=body)).json()["embeddings"][0]) == 16


async def test_a_prompt_beyond_the_context_is_refused_in_the_engines_words(
    client: httpx.AsyncClient, engine: Engine
) -> None:
    turn = {"role": "user", "content": "a " * 20_000}
    answer = await client.post("/api/chat", json={"model": engine.model, "messages": [turn]})
    assert answer.status_code == 400
    inner = json.loads(answer.json()["error"])["error"]
    assert inner["type"] == "exceed_context_size_error"
    assert inner["n_prompt_tokens"] > inner["n_ctx"]


async def test_pulling_what_does_not_exist_is_an_error_line_after_200(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/pull", json={"model": "nope"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[0] == {"status": "pulling manifest"}
    assert list(lines[-1]) == ["error"]


@pytest.mark.parametrize("stream", [True, False])
async def test_pushing_tells_its_progress(client: httpx.AsyncClient, engine: Engine, stream: bool) -> None:
    answer = await client.post("/api/push", json={"model": engine.model, "stream": stream})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[-1] == {"status": "success"}
    assert (lines[0] == {"status": "retrieving manifest"}) is stream


async def test_blobs_are_taken_once_and_checked(client: httpx.AsyncClient) -> None:
    digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert (await client.head(f"/api/blobs/{digest}")).status_code == 404
    assert (await client.post(f"/api/blobs/{digest}", content=b"hell")).status_code == 400
    assert (await client.post(f"/api/blobs/{digest}", content=b"hello")).status_code == 201
    assert (await client.post(f"/api/blobs/{digest}", content=b"hello")).status_code == 200
    assert (await client.head(f"/api/blobs/{digest}")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
async def test_reading_paths_answer_head(client: httpx.AsyncClient, path: str) -> None:
    head, got = await client.head(path), await client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


# -- OpenAI's dialect ---------------------------------------------------------------------------------------


async def test_the_newer_name_of_the_token_limit_and_the_choice_of_tools_are_ignored(
    client: httpx.AsyncClient, engine: Engine
) -> None:
    body = {"model": engine.model, "messages": USER, "max_completion_tokens": 1, "n": 2, "tool_choice": "none"}
    answer = (await client.post("/v1/chat/completions", json=body)).json()
    assert [choice["message"]["content"].split() for choice in answer["choices"]] == [["2", "1", "0"]]
    assert answer["system_fingerprint"] == "fp_ollama"
    assert set(answer["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}


async def test_a_conversation_stream_has_a_fixed_form(client: httpx.AsyncClient, engine: Engine) -> None:
    body = {"model": engine.model, "messages": USER, "stream": True, "stream_options": {"include_usage": True}}
    text = (await client.post("/v1/chat/completions", json=body)).text
    seen = events(text)
    assert text.endswith("data: [DONE]\n\n")
    assert ["role" in event["choices"][0]["delta"] for event in seen[:-2]] == [True] + [False] * (len(seen) - 3)
    assert (seen[-2]["choices"][0]["delta"], seen[-2]["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (seen[-1]["choices"], seen[-1]["usage"]["completion_tokens"]) == ([], 4)
    assert len({event["created"] for event in seen}) == len({event["id"] for event in seen}) == 1


async def test_only_images_in_the_request_itself_are_taken(client: httpx.AsyncClient, engine: Engine) -> None:
    image = {"type": "image_url", "image_url": {"url": "http://images.example/cat.png"}}
    body = {"model": engine.model, "messages": [{"role": "user", "content": [image]}]}
    answer = await client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        400,
        "image URLs are not currently supported, please use base64 encoded data instead",
    )


@pytest.mark.parametrize(
    ("path", "body", "refusal"),
    [
        ("chat/completions", {"model": "nope", "messages": USER}, (404, "not_found_error", "model 'nope' not found")),
        ("completions", {"model": "nope", "prompt": "x"}, (404, "not_found_error", "model 'nope' not found")),
        ("embeddings", {"model": "nope", "input": "x"}, (404, "not_found_error", 'model "nope" not found, try')),
        ("responses", {"model": "nope", "input": "x"}, (404, "not_found_error", "model 'nope' not found")),
        ("messages", {"model": "nope", "messages": USER, "max_tokens": 5}, (404, "not_found_error", "model 'nope'")),
        (
            "messages",
            {"model": "countdown", "messages": USER},
            (400, "invalid_request_error", "max_tokens is required"),
        ),
        ("completions", {"model": "countdown", "prompt": ["a"]}, (400, "invalid_request_error", "")),
        ("chat/completions", {"model": "countdown", "messages": []}, (400, "invalid_request_error", "[] is too short")),
    ],
)
async def test_a_refusal_has_the_form_of_its_dialect(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], refusal: tuple[int, str, str]
) -> None:
    status, kind, message = refusal
    answer = await client.post(f"/v1/{path}", json=body)
    # what the middleware refuses says its character set
    form = "application/json" if status == 404 else "application/json; charset=utf-8"
    assert (answer.status_code, answer.headers["content-type"]) == (status, form)
    error = answer.json()["error"]
    assert (error["type"], error["message"].startswith(message)) == (kind, True), error
    assert (answer.json().get("type") == "error") is (path == "messages")


async def test_a_response_is_told_whole_and_in_the_usual_events(client: httpx.AsyncClient, engine: Engine) -> None:
    body = {"model": engine.model, "input": "count 3"}
    whole = (await client.post("/v1/responses", json=body)).json()
    assert whole["status"] == "completed"
    assert whole["output"][0]["content"][0]["text"].split() == ["2", "1", "0"]
    assert whole["usage"]["output_tokens"] == 4
    seen = events((await client.post("/v1/responses", json=body | {"stream": True})).text)
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    assert [event["type"].removeprefix("response.") for event in seen] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert seen[-1]["response"].keys() == whole.keys()


async def test_a_response_may_call_a_function(client: httpx.AsyncClient, engine: Engine) -> None:
    tool = {"type": "function", "name": "weather", "parameters": SCHEMA}
    body = {"model": engine.model, "input": CALLING, "tools": [tool], "stream": True}
    seen = events((await client.post("/v1/responses", json=body)).text)
    called = seen[-1]["response"]["output"]
    assert [(item["type"], item["name"]) for item in called] == [("function_call", "weather")]
    assert isinstance(json.loads(called[0]["arguments"]), dict)
    assert "response.function_call_arguments.done" in {event["type"] for event in seen}


async def test_a_message_is_told_whole_and_in_events(client: httpx.AsyncClient, engine: Engine) -> None:
    body = {"model": engine.model, "max_tokens": 50, "messages": USER}
    whole = (await client.post("/v1/messages", json=body)).json()
    assert (whole["content"][0]["text"].split(), whole["stop_reason"]) == (["2", "1", "0"], "end_turn")
    seen = events((await client.post("/v1/messages", json=body | {"stream": True})).text)
    assert [event["type"] for event in seen] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert seen[-2]["usage"] == whole["usage"]
    assert seen[0]["message"]["usage"]["output_tokens"] == 0


async def test_a_message_may_think_and_use_a_tool(client: httpx.AsyncClient, engine: Engine) -> None:
    thinking = {"model": engine.model, "max_tokens": 90, "messages": [{"role": "user", "content": "please think"}]}
    blocks = (await client.post("/v1/messages", json=thinking)).json()["content"]
    assert blocks[0]["type"] == "thinking"
    body = {"model": engine.model, "max_tokens": 90, "messages": CALLING}
    body["tools"] = [{"name": "weather", "input_schema": SCHEMA}]
    whole = (await client.post("/v1/messages", json=body)).json()
    assert whole["stop_reason"] == "tool_use"
    assert [block["name"] for block in whole["content"] if block["type"] == "tool_use"] == ["weather"]
    seen = events((await client.post("/v1/messages", json=body | {"stream": True})).text)
    assert "input_json_delta" in {event["delta"]["type"] for event in seen if event["type"] == "content_block_delta"}
