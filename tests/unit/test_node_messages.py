"""Anthropic's messages in OpenAI's words, and back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sollol_agents.node.engines.ollama_wire import repaired
from sollol_agents.node.engines.translation.chat import CHAT_PATH, Flavour, translate
from sollol_agents.node.engines.translation.messages import chat_of
from sollol_agents.node.engines.translation.messages_reply import MessageStream
from sollol_bus.errors import SollolError
from sollol_schemas.context import RequestKind


def asked(**fields: Any) -> dict[str, Any]:
    body = {"model": "offered", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}], **fields}
    return chat_of(body, "own")


def test_a_plain_message_becomes_a_streaming_chat() -> None:
    assert asked(system="be brief", temperature=0.5, stop_sequences=["x"], metadata={"user_id": "u"}) == {
        "model": "own",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 10,
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        "stop": ["x"],
    }


def test_a_call_of_a_tool_and_its_result_become_messages_of_their_own() -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "let me look"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]},
                {"type": "text", "text": "and now?"},
            ],
        },
    ]
    assert asked(messages=turns)["messages"] == [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": "let me look",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "rain"},
        {"role": "user", "content": "and now?"},
    ]


def test_tools_and_the_choice_among_them_are_translated() -> None:
    tool = {"name": "weather", "description": "d", "input_schema": {"type": "object"}}
    out = asked(tools=[tool], tool_choice={"type": "tool", "name": "weather"})
    function = {"name": "weather", "parameters": {"type": "object"}, "description": "d"}
    assert out["tools"] == [{"type": "function", "function": function}]
    assert out["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert asked(tools=[tool], tool_choice={"type": "any"})["tool_choice"] == "required"


def test_images_are_passed_on() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    turn = {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image", "source": source}]}
    assert asked(messages=[turn])["messages"][0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": "x"}, "lists"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages\\[0\\].role"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages\\[0\\].content\\[0\\].type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools\\[0\\].type"),
        ({"tool_choice": {"type": "surprise"}}, "tool_choice"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(SollolError, match=named) as caught:
        asked(**fields)
    assert caught.value.body.http_status == 400


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode()


USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}).encode()


def events(text: bytes) -> list[tuple[str, dict[str, Any]]]:
    out = []
    for block in text.decode().strip().split("\n\n"):
        kind, data = block.split("\n")
        fields = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {fields['type']}"
        out.append((fields.pop("type"), fields))
    return out


def test_a_stream_of_thoughts_text_and_a_call_becomes_three_blocks() -> None:
    stream = MessageStream("msg_1", "offered")
    said = stream.start()
    for data in (
        chunk(role="assistant", reasoning="hm"),
        chunk(content="Hel"),
        chunk(content="lo"),
        chunk(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"ci'}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": 'ty":1}'}}]),
        chunk("tool_calls"),
        USAGE,
    ):
        said += stream.feed(data)
    told = events(said + stream.finish())
    assert [kind for kind, _ in told] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [fields["index"] for kind, fields in told if kind == "content_block_start"] == [0, 1, 2]
    assert told[-2][1] == {
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }
    whole = msgspec.json.decode(stream.whole())
    assert whole["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": 1}},
    ]


def test_a_stream_without_an_end_is_an_error() -> None:
    stream = MessageStream("msg_1", "offered")
    stream.feed(chunk(content="x"))
    with pytest.raises(SollolError, match="finish_reason"):
        stream.finish()


def test_an_error_in_the_stream_is_raised() -> None:
    with pytest.raises(SollolError, match="broken"):
        MessageStream("msg_1", "offered").feed(b'{"error":{"message":"broken"}}')


def test_the_newer_name_of_the_limit_is_replaced_for_ollama_alone_and_only_there() -> None:
    body = b'{"model":"m","max_completion_tokens":5,"messages":[]}'
    assert json.loads(repaired(CHAT_PATH, body)) == {"model": "m", "max_tokens": 5, "messages": []}
    assert repaired("/v1/responses", body) is body
    untouched = b'{"model":"m",  "messages":[]}'
    assert repaired(CHAT_PATH, untouched) is untouched


@pytest.mark.parametrize(
    ("start", "kind"), [("iVBORw0", "png"), ("/9j/4A", "jpeg"), ("R0lGODl", "gif"), ("UklGRh", "webp")]
)
def test_images_of_native_requests_get_their_type_from_their_first_bytes(start: str, kind: str) -> None:
    fields = {"messages": [{"role": "user", "content": "see", "images": [start]}]}
    body = json.loads(translate(RequestKind.CHAT, fields, "m", flavour=Flavour.OTHER).body)
    assert body["messages"][0]["content"][1]["image_url"]["url"] == f"data:image/{kind};base64,{start}"
