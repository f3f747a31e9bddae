"""Ollama's words in OpenAI's, and back."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from sollol_agents.node.engines.lines import event_data
from sollol_agents.node.engines.openai import vllm_slots
from sollol_agents.node.engines.translation.chat import (
    Flavour,
    fields_of,
    translate,
    translate_embed,
    with_model,
)
from sollol_agents.node.engines.translation.chat_reply import NativeStream, embed_reply, shortened
from sollol_bus.errors import BackendBrokeProtocol, BadRequest, SollolError
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures

AT = "2026-11-21T00:00:00Z"


def sent(kind: RequestKind, body: dict[str, Any], flavour: Flavour = Flavour.LLAMA_CPP, **more: int) -> dict[str, Any]:
    request = translate(kind, fields_of(json.dumps(body).encode()), "own", flavour=flavour, **more)
    decoded: dict[str, Any] = json.loads(request.body)
    return decoded | {"path": request.path}


def test_a_chat_is_streamed_with_usage_and_the_engines_own_model_name() -> None:
    out = sent(RequestKind.CHAT, {"model": "m", "messages": [{"role": "USER", "content": "hi"}], "stream": False})
    assert out["path"] == "/v1/chat/completions"
    assert out["messages"] == [{"role": "user", "content": "hi"}]
    assert (out["model"], out["stream"], out["stream_options"]) == ("own", True, {"include_usage": True})


def test_a_prompt_becomes_a_chat_and_a_raw_one_a_completion() -> None:
    out = sent(RequestKind.GENERATE, {"model": "m", "prompt": "p", "system": "s"})
    assert out["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]
    raw = sent(RequestKind.GENERATE, {"model": "m", "prompt": "p", "raw": True})
    assert (raw["path"], raw["prompt"]) == ("/v1/completions", "p")


def test_options_become_parameters() -> None:
    options = {"temperature": 0.5, "num_predict": 7, "stop": ["x"], "seed": 3, "top_k": 5, "repeat_penalty": 1.1}
    out = sent(RequestKind.CHAT, {"model": "m", "messages": [], "options": options})
    assert (out["max_tokens"], out["temperature"], out["stop"], out["seed"], out["top_k"]) == (7, 0.5, ["x"], 3, 5)
    vllm = sent(RequestKind.CHAT, {"messages": [], "options": {"repeat_penalty": 1.1}}, Flavour.VLLM)
    assert vllm["repetition_penalty"] == 1.1


@pytest.mark.parametrize(
    "options", [{"num_predict": -1}, {"num_predict": -2}, {"seed": -1}, {"num_ctx": 2048}, {"top_k": None}]
)
def test_options_that_ask_for_what_happens_anyway_are_left_out(options: dict[str, Any]) -> None:
    out = sent(RequestKind.CHAT, {"messages": [], "options": options}, context_length=2048)
    assert not set(out) & {"max_tokens", "seed", "num_ctx", "top_k"}


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (RequestKind.GENERATE, {"prompt": "p", "suffix": "s"}, "suffix"),
        (RequestKind.GENERATE, {"prompt": "p", "template": "t"}, "template"),
        (RequestKind.GENERATE, {"prompt": "p", "context": [1]}, "context"),
        (RequestKind.GENERATE, {"prompt": "p", "suffix": "x"}, "suffix"),
        (RequestKind.GENERATE, {"prompt": "p", "raw": True, "system": "s"}, "system"),
        (RequestKind.GENERATE, {"prompt": "p", "raw": True, "logprobs": True}, "logprobs"),
        (RequestKind.GENERATE, {"prompt": "p", "raw": True, "format": "json"}, "format"),
        (RequestKind.GENERATE, {"prompt": "p", "raw": True, "think": True}, "think"),
        (RequestKind.GENERATE, {"prompt": "p", "raw": True, "images": ["eA=="]}, "images"),
        (RequestKind.GENERATE, {"prompt": "p", "_debug_render_only": True}, "_debug_render_only"),
        (RequestKind.CHAT, {"messages": [], "options": {"num_gpu": 20}}, "options.num_gpu"),
        (RequestKind.CHAT, {"messages": [], "options": {"num_thread": 4}}, "options.num_thread"),
        (RequestKind.CHAT, {"messages": [], "dimensions": 3}, "dimensions"),
        (RequestKind.CHAT, {"messages": [{"role": "user", "name": "x"}]}, "messages[0].name"),
        (RequestKind.CHAT, {"messages": [{"role": "user", "weather": 1}]}, "messages[0].weather"),
        (RequestKind.CHAT, {"messages": [], "options": {"num_ctx": 4096}}, "options.num_ctx"),
        (RequestKind.CHAT, {"messages": [], "options": {"mirostat": 1}}, "options.mirostat"),
        (RequestKind.CHAT, {"messages": [], "format": 7}, "format"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(kind: RequestKind, body: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        sent(kind, body, context_length=2048)
    assert caught.value.body.code is ErrorCode.UNSUPPORTED_FIELD
    assert caught.value.details["field"] == field


@pytest.mark.parametrize(
    ("option", "value"),
    [("typical_p", 1.0), ("min_p", 0), ("repeat_penalty", 1.0), ("mirostat", 0), ("num_gpu", -1), ("num_thread", 0)],
)
def test_an_option_that_says_nothing_needs_no_engine_that_knows_it(option: str, value: float) -> None:
    out = sent(RequestKind.CHAT, {"messages": [], "options": {option: value}}, Flavour.OTHER)
    assert set(out) == {"model", "stream", "stream_options", "messages", "path"}


@pytest.mark.parametrize(
    ("think", "expected"),
    [
        (True, {"chat_template_kwargs": {"enable_thinking": True}}),
        (False, {"chat_template_kwargs": {"enable_thinking": False}}),
        (
            "low",
            {
                "chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "low"},
                "reasoning_effort": "low",
            },
        ),
    ],
)
def test_thinking_and_its_effort_are_passed_on(think: bool | str, expected: dict[str, Any]) -> None:
    out = sent(RequestKind.CHAT, {"messages": [], "think": think})
    assert {name: out.get(name) for name in expected} == expected


@pytest.mark.parametrize("fields", [{"think": "a lot"}, {"think": 7}, {"top_logprobs": 21}, {"top_logprobs": "x"}])
def test_values_that_ollama_does_not_know_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        sent(RequestKind.CHAT, {"messages": [], **fields})


def test_thoughts_and_names_of_tools_stay_in_the_conversation() -> None:
    messages = [
        {"role": "assistant", "content": "x", "thinking": "because"},
        {"role": "tool", "tool_name": "f", "tool_call_id": "c1", "content": "42"},
    ]
    first, second = sent(RequestKind.CHAT, {"messages": messages})["messages"]
    assert first == {"role": "assistant", "content": "x", "reasoning_content": "because"}
    assert second == {"role": "tool", "content": "42", "name": "f", "tool_call_id": "c1"}


def test_probabilities_are_asked_for_and_told() -> None:
    out = sent(RequestKind.CHAT, {"messages": [], "logprobs": True, "top_logprobs": 1})
    assert (out["logprobs"], out["top_logprobs"]) == (True, 1)
    stream = NativeStream(RequestKind.CHAT, "m")
    token = {"token": "a", "logprob": -0.5, "bytes": [97]}
    event_ = {
        "choices": [{"delta": {"content": "a"}, "logprobs": {"content": [{**token, "id": 4, "top_logprobs": [token]}]}}]
    }
    line = json.loads(stream.feed(json.dumps(event_).encode(), AT) or b"")
    assert line["logprobs"] == [{**token, "top_logprobs": [token]}]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a":1}x'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        fields_of(body)


@pytest.mark.parametrize("body", [{"messages": "x"}, {"messages": [1]}, {"messages": [], "options": []}])
def test_fields_of_the_wrong_type_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        sent(RequestKind.CHAT, body)


def test_tool_calls_get_the_ids_that_their_answers_name() -> None:
    messages = [
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "tool_name": "f", "content": "42"},
    ]
    out = sent(RequestKind.CHAT, {"messages": messages})["messages"]
    call = out[0]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"a": 1}
    assert out[1]["tool_call_id"] == call["id"]


def test_format_becomes_a_response_format() -> None:
    assert sent(RequestKind.CHAT, {"messages": [], "format": "json"})["response_format"] == {"type": "json_object"}
    schema = {"type": "object"}
    out = sent(RequestKind.CHAT, {"messages": [], "format": schema})["response_format"]
    assert out["json_schema"]["schema"] == schema


def test_an_alias_replaces_the_model_and_nothing_else() -> None:
    assert json.loads(with_model(b'{"model":"a","n":1.0}', "b")) == {"model": "b", "n": 1.0}
    assert with_model(b"nonsense", "b") == b"nonsense"


def event(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def delta(finish: str | None = None, **fields: Any) -> bytes:
    return event(choices=[{"delta": fields, "finish_reason": finish}])


def test_the_events_of_a_chat_become_ollamas_lines() -> None:
    stream = NativeStream(RequestKind.CHAT, "m")
    assert stream.feed(delta(role="assistant", content=None), AT) is None
    line = stream.feed(delta(content="hi"), AT)
    assert line == (
        b'{"model":"m","created_at":"2026-11-21T00:00:00Z","message":{"role":"assistant","content":"hi"},"done":false}'
    )
    assert stream.feed(delta("length"), AT) is None
    stream.feed(event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2}), AT)
    final = json.loads(stream.final(AT, Figures(output_tokens=2, prompt_tokens=3, decode_s=0.5), 0.75))
    assert (final["done"], final["done_reason"], final["eval_count"], final["eval_duration"]) == (
        True,
        "length",
        2,
        500_000_000,
    )
    assert stream.figures().prompt_tokens == 3


def test_a_generate_says_response_and_thinking() -> None:
    stream = NativeStream(RequestKind.GENERATE, "m")
    line = json.loads(stream.feed(delta(content="", reasoning_content="hmm"), AT) or b"")
    assert (line["response"], line["thinking"], line["done"]) == ("", "hmm", False)
    text = json.loads(stream.feed(event(choices=[{"text": "x", "finish_reason": None}]), AT) or b"")
    assert text["response"] == "x"


def test_the_pieces_of_a_tool_call_are_put_together() -> None:
    stream = NativeStream(RequestKind.CHAT, "m")
    stream.feed(delta(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a"'}}]), AT)
    stream.feed(delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]), AT)
    stream.feed(delta("tool_calls"), AT)
    final = json.loads(stream.final(AT, Figures(), 0.75))
    assert final["message"]["tool_calls"] == [{"id": "c", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}]
    assert final["done_reason"] == "stop"


def test_arguments_that_are_no_json_break_the_protocol() -> None:
    stream = NativeStream(RequestKind.CHAT, "m")
    stream.feed(delta("tool_calls", tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{a"}}]), AT)
    with pytest.raises(BackendBrokeProtocol):
        stream.final(AT, Figures(), 0.75)


def test_an_end_without_a_reason_breaks_the_protocol() -> None:
    stream = NativeStream(RequestKind.CHAT, "m")
    stream.feed(delta(content="hi"), AT)
    with pytest.raises(BackendBrokeProtocol):
        stream.final(AT, Figures(), 0.75)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"error":{"message":"boom"}}', ErrorCode.ENGINE_FAILED),
        (b'{"error":"out of memory"}', ErrorCode.LOAD_FAILED),
        (b"{nonsense", ErrorCode.ENGINE_PROTOCOL),
        (b'{"choices":7}', ErrorCode.ENGINE_PROTOCOL),
    ],
)
def test_a_bad_event_is_an_error(data: bytes, code: ErrorCode) -> None:
    with pytest.raises(SollolError) as caught:
        NativeStream(RequestKind.CHAT, "m").feed(data, AT)
    assert caught.value.body.code is code


def test_comments_and_the_end_mark_are_skipped() -> None:
    assert event_data(b"data: [DONE]") is None
    assert event_data(b": ping") is None
    assert event_data(b"event: x") is None
    assert event_data(b'data:{"a":1}') == b'{"a":1}'
    with pytest.raises(BackendBrokeProtocol):
        event_data(b"<html>")


def test_an_embedding_comes_back_in_order_and_shortened_to_length_one() -> None:
    assert json.loads(translate_embed({"model": "m", "input": "x", "dimensions": 2}, "own").body)["input"] == "x"
    reply = event(
        data=[{"index": 1, "embedding": [1.0, 0.0, 0.0]}, {"index": 0, "embedding": [3.0, 4.0, 12.0]}],
        usage={"prompt_tokens": 5},
    )
    body, figures = embed_reply(reply, "m", 2, 0.5)
    decoded = json.loads(body)
    assert decoded["embeddings"] == [[0.6, 0.8], [1.0, 0.0]]
    assert decoded["prompt_eval_count"] == figures.prompt_tokens == 5
    assert math.hypot(*shortened([0.0, 0.0, 1.0], 2)) == 0.0
    with pytest.raises(BadRequest):
        translate_embed({"input": "x", "options": {"num_ctx": 1}}, "own")


def test_the_slots_of_vllm_follow_from_its_cache() -> None:
    metrics = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="2048"} 1.0\n'
    assert vllm_slots(metrics) == 8
    assert vllm_slots('vllm:cache_config_info{block_size="16"} 1.0\n') is None
    assert vllm_slots("vllm:num_requests_running 1") is None
