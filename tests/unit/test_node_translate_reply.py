"""OpenAI's stream of a chat in Ollama's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sollol_agents.node.engines.lines import event_data
from sollol_agents.node.engines.translation.bodies import is_unload
from sollol_agents.node.engines.translation.chat_reply import NativeStream
from sollol_bus.errors import BackendBrokeProtocol, SollolError
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures

AT = "2026-11-21T00:00:00Z"


def event(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def delta(finish: str | None = None, **fields: Any) -> bytes:
    return event(choices=[{"delta": fields, "finish_reason": finish}])


def ended(stream: NativeStream) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.last(AT, Figures(), 0.75)]


def test_the_events_of_a_chat_become_ollamas_lines() -> None:
    stream = NativeStream(RequestKind.CHAT, "m")
    assert stream.feed(delta(role="assistant", content=None), AT) is None
    line = stream.feed(delta(content="hi"), AT)
    assert line == (
        b'{"model":"m","created_at":"2026-11-21T00:00:00Z","message":{"role":"assistant","content":"hi"},"done":false}'
    )
    assert stream.feed(delta("length"), AT) is None
    stream.feed(event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2}), AT)
    final = json.loads(stream.last(AT, Figures(output_tokens=2, prompt_tokens=3, decode_s=0.5), 0.75)[0])
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
    said, final = ended(stream)
    assert said["message"]["tool_calls"] == [{"id": "c", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}]
    assert (said["done"], final["done"], final["done_reason"]) == (False, True, "stop")


def test_an_end_without_a_reason_breaks_the_protocol() -> None:
    stream = NativeStream(RequestKind.CHAT, "m")
    stream.feed(delta(content="hi"), AT)
    with pytest.raises(BackendBrokeProtocol):
        ended(stream)


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


def test_probabilities_are_told() -> None:
    stream = NativeStream(RequestKind.CHAT, "m")
    token = {"token": "a", "logprob": -0.5, "bytes": [97]}
    event_ = {
        "choices": [{"delta": {"content": "a"}, "logprobs": {"content": [{**token, "id": 4, "top_logprobs": [token]}]}}]
    }
    line = json.loads(stream.feed(json.dumps(event_).encode(), AT) or b"")
    assert line["logprobs"] == [{**token, "top_logprobs": [token]}]


def test_a_call_that_the_limit_cut_is_absent_and_the_end_says_so() -> None:
    stream = NativeStream(RequestKind.CHAT, "m")
    stream.feed(delta(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a"'}}]), AT)
    stream.feed(delta("length"), AT)
    (final,) = ended(stream)
    assert (final["done_reason"], final["message"]) == ("length", {"role": "assistant", "content": ""})


def test_what_is_no_call_is_told_as_the_text_that_it_is() -> None:
    stream = NativeStream(RequestKind.CHAT, "m")
    stream.feed(delta("tool_calls", tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{a}"}}]), AT)
    said, final = ended(stream)
    assert said["message"] == {"role": "assistant", "content": '{"name": "f", "arguments": {a}}'}
    assert final["done_reason"] == "stop"


def test_comments_and_the_end_mark_are_skipped() -> None:
    assert event_data(b"data: [DONE]") is None
    assert event_data(b": ping") is None
    assert event_data(b"event: x") is None
    assert event_data(b'data:{"a":1}') == b'{"a":1}'
    with pytest.raises(BackendBrokeProtocol):
        event_data(b"<html>")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({}, "load"), ({"keep_alive": 0}, "unload"), ({"keep_alive": "0s"}, "unload"), ({"keep_alive": True}, "load")],
    ids=["ping", "zero", "no seconds", "odd"],
)
def test_an_order_to_go_is_not_called_a_load(fields: dict[str, Any], reason: str) -> None:
    stream = NativeStream(RequestKind.GENERATE, "m")
    assert json.loads(stream.load_only(AT, is_unload=is_unload(fields)))["done_reason"] == reason
