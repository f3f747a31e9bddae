"""What bodies of every dialect ask of an engine that is to go on with their answers; no engine needed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.continuing import chat_bodies, ollama_bodies
from sollol_agents.node.engines.continuing.conversations import Reading, native, of_messages, of_responses
from sollol_agents.node.engines.ollama_wire import Tag, installed_model, renders_prompts
from sollol_agents.node.engines.props import Props
from sollol_agents.node.engines.served import Served
from sollol_agents.node.engines.translation.options import Flavour
from sollol_bus.errors import SollolError
from sollol_bus.sdk.resume.dialects import shape_of
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def request(kind: RequestKind, fields: dict[str, Any], path: str = "") -> EngineRequest:
    return EngineRequest(kind=kind, model="m", body=msgspec.json.encode(fields), path=path)


def passing(path: str, **fields: Any) -> EngineRequest:
    return request(RequestKind.PASSTHROUGH, fields, path)


TURNS = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("asked_for", "options", "limit"),
    [
        (passing("/v1/chat/completions", messages=TURNS), {"temperature": 1.0, "top_p": 1.0}, None),
        (
            passing("/v1/chat/completions", messages=TURNS, temperature=0, stop="x", max_tokens=9, seed=3),
            {"temperature": 0, "top_p": 1.0, "seed": 3, "stop": ["x"]},
            9,
        ),
        (passing("/v1/chat/completions", messages=TURNS, max_tokens=0), {"temperature": 1.0, "top_p": 1.0}, 1),
        (
            passing("/v1/completions", prompt="hi", max_tokens=0),
            {"temperature": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "top_p": 1.0},
            None,
        ),
        (passing("/v1/messages", messages=TURNS, max_tokens=9, stop_sequences=["x"]), {"stop": ["x"]}, 9),
        (passing("/v1/responses", input="hi", max_output_tokens=9), {"temperature": 1.0}, 9),
        (
            request(RequestKind.CHAT, {"messages": TURNS, "options": {"num_predict": -1, "num_ctx": 64}}),
            {"num_ctx": 64},
            None,
        ),
        (request(RequestKind.GENERATE, {"prompt": "hi", "options": {"num_predict": 5.0}}), {}, 5),
    ],
)
def test_ollama_gets_the_options_that_it_makes_of_each_dialect_itself(
    asked_for: EngineRequest, options: dict[str, Any], limit: int | None
) -> None:
    found = ollama_bodies.asked(asked_for)
    assert (found.options, found.limit) == (options, limit)


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2, 3]], [5], ["a", "b"]], ids=str)
def test_a_prompt_of_tokens_or_of_several_texts_is_refused(prompt: list[Any]) -> None:
    asked_for = passing("/v1/completions", prompt=prompt, stream=True)
    assert shape_of(RequestKind.PASSTHROUGH, asked_for.path, asked_for.body).refusal == "its prompt is not one text"
    for flavour in (None, Flavour.LLAMA_CPP, Flavour.VLLM):
        with pytest.raises(SollolError, match="the prompt is not one text"):
            ollama_bodies.asked(asked_for) if flavour is None else chat_bodies.asked(asked_for, "m", flavour, 0)


def test_a_raw_prompt_is_its_own_rendering() -> None:
    fields = {"prompt": "hi", "raw": True, "keep_alive": "5m", "shift": False}
    found = ollama_bodies.asked(request(RequestKind.GENERATE, fields))
    assert (found.prompt, found.kept) == ("hi", {"keep_alive": "5m", "shift": False})


@pytest.mark.parametrize(
    "fields",
    [
        {"format": "json"},
        {"response_format": {"type": "json_object"}},
        {"text": {"format": {"type": "json_schema"}}},
        {"grammar": "root ::= .*"},
        {"logprobs": True},
        {"n": 2},
        {"echo": True},
        {"suffix": "end"},
        {"input_suffix": "end"},
        {"thinking_budget_tokens": 9},
        {"n_cmpl": 2},
        {"images": ["aa"]},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "user", "content": "x", "images": ["aa"]}]},
    ],
)
def test_what_an_engine_would_begin_anew_is_refused(fields: dict[str, Any]) -> None:
    path, body = "/v1/chat/completions", {"messages": TURNS, "stream": True} | fields
    asked_for = passing(path, **body)
    assert shape_of(RequestKind.PASSTHROUGH, path, asked_for.body).refusal, (
        "whoever asks knows, so that it is not moved"
    )
    for read_body in (
        lambda: ollama_bodies.asked(asked_for),
        lambda: chat_bodies.asked(asked_for, "m", Flavour.LLAMA_CPP, 0),
    ):
        with pytest.raises(SollolError) as refused:
            read_body()
        assert refused.value.body.code is ErrorCode.NOT_CONTINUED


@pytest.mark.parametrize(
    "fields", [{"response_format": {"type": "text"}}, {"format": ""}, {"logprobs": False}, {"n": 1}, {"tools": [TOOL]}]
)
def test_fields_that_ask_for_nothing_do_not_keep_an_answer_from_going_on(fields: dict[str, Any]) -> None:
    assert ollama_bodies.asked(passing("/v1/chat/completions", messages=TURNS, **fields)).is_chat


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/audio/speech", "/rerank"])
def test_answers_of_other_paths_are_not_gone_on_with(path: str) -> None:
    for read_body in (ollama_bodies.asked, lambda asked_for: chat_bodies.asked(asked_for, "m", Flavour.VLLM, 0)):
        with pytest.raises(SollolError, match="this path"):
            read_body(passing(path, input="x"))


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 0}, 1),
        ({"max_tokens": 4, "max_completion_tokens": 2}, 2),
        ({"max_tokens": 4, "n_predict": 3}, 3),
    ],
)
def test_the_limit_is_the_one_that_llama_cpp_takes(fields: dict[str, Any], limit: int | None) -> None:
    asked_for = passing("/v1/chat/completions", messages=TURNS, top_k=3, stream=True, **fields)
    found = chat_bodies.asked(asked_for, "own", Flavour.LLAMA_CPP, 0)
    assert found.limit == limit
    assert found.sampling == {"model": "own", "top_k": 3}
    assert found.chat is not None
    assert found.chat["messages"] == TURNS


TOLD = {
    "system": [{"type": "text", "text": "s"}, {"type": "text", "text": "t"}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "r"}]},
                {"type": "text", "text": "go on"},
            ],
        },
    ],
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
}


def test_messages_are_read_as_each_engine_reads_them() -> None:
    ollama = native(of_messages(TOLD, Reading.OLLAMA)["messages"])
    assert [one["role"] for one in ollama] == ["system", "user", "assistant", "tool", "user"]
    assert [one["content"] for one in ollama] == ["st", "ab", "", "r", "go on"]
    assert ollama[2]["thinking"] == "hm"
    assert ollama[2]["tool_calls"] == [{"id": "c1", "function": {"name": "f", "arguments": {"x": 1}}}]
    llama = of_messages(TOLD, Reading.LLAMA_CPP)
    assert [one["role"] for one in llama["messages"]] == ["system", "user", "assistant", "user", "tool"]
    assert llama["messages"][1]["content"] == TOLD["messages"][0]["content"]  # type: ignore[index]
    assert llama["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    ]


def test_responses_are_read_as_each_engine_reads_them() -> None:
    fields = {
        "instructions": "be",
        "input": [
            {"role": "developer", "content": "d"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "call"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"x":1}'},
            {"type": "function_call_output", "call_id": "c1", "output": "r"},
        ],
    }
    found = of_responses(fields, Reading.LLAMA_CPP)["messages"]
    assert [one["role"] for one in found] == ["system", "system", "user", "assistant", "tool"]
    assert found[3]["reasoning_content"] == "hm"
    assert [one["role"] for one in native(of_responses(fields, Reading.OLLAMA)["messages"])][1] == "developer"


@pytest.mark.parametrize(
    "fields",
    [
        {"input": [{"type": "web_search_call"}]},
        {"input": "x", "tools": [{"type": "web_search"}]},
        {"input": "x", "previous_response_id": "r"},
    ],
)
def test_a_conversation_that_lies_elsewhere_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SollolError) as refused:
        of_responses(fields, Reading.LLAMA_CPP)
    assert refused.value.body.code is ErrorCode.NOT_CONTINUED


@pytest.mark.parametrize(
    ("version", "goes_on"), [("0.33.0-rc2", True), ("0.12.0", True), ("0.9.6", False), ("1.0", True), ("dev", True)]
)
def test_an_ollama_that_cannot_render_has_no_fingerprints(version: str, goes_on: bool) -> None:
    tag = Tag(name="m", digest="abc")
    assert bool(installed_model(tag, None, goes_on=renders_prompts(version)).fingerprint) is goes_on


def test_a_fingerprint_is_made_of_what_decides_an_answer_alone() -> None:
    meta = {"size": 9, "n_params": 8, "ftype": "F16", "n_vocab": 7, "n_embd": 6, "n_ctx_train": 5, "n_ctx": 4}
    props = Props(chat_template="a", model_ftype="F16")

    def told(row: dict[str, Any], props: Props | None = props, engine: str = "llama.cpp") -> str:
        return msgspec.convert({"id": "m", "meta": meta} | row, Served).installed("x", props, engine).fingerprint

    assert told({}).startswith("llama.cpp:")
    assert told({"id": "other", "meta": meta | {"n_ctx": 99}}) == told({})
    others = [told({"meta": meta | {name: 1}}) for name in meta if name != "n_ctx"]
    others += [told({}, Props(chat_template="b")), told({"root": "r"}, None, "vllm")]
    assert len({told({}), *others}) == len(others) + 1
    assert told({}, None) == told({}, props, "openai") == ""
