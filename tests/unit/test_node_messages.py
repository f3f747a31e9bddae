"""Anthropic's messages in OpenAI's words, and back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sollol_agents.node.engines.ollama_wire import repaired
from sollol_agents.node.engines.translation.chat import CHAT_PATH, translate
from sollol_agents.node.engines.translation.messages import chat_of
from sollol_agents.node.engines.translation.messages_reply import MessageStream
from sollol_agents.node.engines.translation.options import Flavour
from sollol_bus.errors import SollolError
from sollol_schemas.context import RequestKind

WEB_SEARCH = {"type": "web_search_20250305", "name": "web_search"}
OWN = {"name": "weather", "description": "d", "input_schema": {"type": "object"}}


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
    choice = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    out = asked(tools=[OWN | {"strict": True, "cache_control": {"type": "ephemeral"}}], tool_choice=choice)
    function = {"name": "weather", "parameters": {"type": "object"}, "description": "d", "strict": True}
    assert out["tools"] == [{"type": "function", "function": function}]
    assert out["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert out["parallel_tool_calls"] is False
    assert asked(tools=[OWN], tool_choice={"type": "any"})["tool_choice"] == "required"


def test_tools_that_the_vendor_runs_are_left_out() -> None:
    assert [tool["function"]["name"] for tool in asked(tools=[OWN, WEB_SEARCH])["tools"]] == ["weather"]
    assert not asked(tools=[WEB_SEARCH], tool_choice={"type": "auto"}).keys() & {"tools", "tool_choice"}


@pytest.mark.parametrize(
    "fields",
    [
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        {"mcp_servers": [{"type": "url", "url": "https://x.example"}]},
        {"metadata": {"user_id": "u"}, "service_tier": "auto", "betas": ["x"], "container": "c", "inference_geo": "eu"},
        {"cache_control": {"type": "ephemeral"}, "speed": "fast"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_has_no_meaning_here_is_left_out(fields: dict[str, Any]) -> None:
    assert asked(**fields) == asked()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "disabled"}}, {"chat_template_kwargs": {"enable_thinking": False}}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "reply", "schema": {"type": "object"}},
                }
            },
        ),
        ({"max_tokens": 2.0}, {"max_tokens": 2}),
    ],
)
def test_how_to_think_and_in_which_form_to_answer_is_passed_on(
    fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert json.dumps(asked(**fields)) == json.dumps(asked() | expected)


def test_the_result_of_a_tool_that_failed_says_so_and_its_images_follow() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    parts = [{"type": "text", "text": "no"}, image]
    result = {"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": parts}
    assert asked(messages=[{"role": "user", "content": [result]}])["messages"] == [
        {"role": "tool", "tool_call_id": "t1", "content": "Error: no"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"type": "text", "media_type": "text/plain", "data": "words"}, "Document notes:\nwords"),
        ({"type": "content", "content": [{"type": "text", "text": "words"}]}, "Document notes:\nwords"),
        (
            {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
            "[A document notes (base64) is attached, which cannot be read here.]",
        ),
    ],
    ids=["text", "content", "pdf"],
)
def test_a_document_is_told_as_far_as_it_can_be_read(source: dict[str, Any], said: str) -> None:
    block = {"type": "document", "title": "notes", "source": source, "cache_control": {"type": "ephemeral"}}
    assert asked(messages=[{"role": "user", "content": [block]}])["messages"] == [{"role": "user", "content": said}]


def test_traces_of_tools_that_the_vendor_ran_and_signed_thoughts_are_left_out_of_history() -> None:
    blocks = [
        {"type": "redacted_thinking", "data": "x"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "text", "text": "hello", "citations": []},
    ]
    assert asked(messages=[{"role": "assistant", "content": blocks}])["messages"] == [
        {"role": "assistant", "content": "hello"}
    ]


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
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages\\[0\\].content\\[0\\].source"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages\\[0\\].content\\[0\\].text"),
        ({"tools": [WEB_SEARCH], "tool_choice": {"type": "tool", "name": "web_search"}}, "tool_choice"),
        ({"tool_choice": {"type": "surprise"}}, "tool_choice"),
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
    stream, unstreamed = MessageStream("msg_1", "offered"), MessageStream("msg_1", "offered")
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
        unstreamed.feed(data)
    told = [one for one in events(said + stream.finish()) if one[0] != "ping"]  # while a call is put together
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
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [fields["index"] for kind, fields in told if kind == "content_block_start"] == [0, 1, 2]
    assert told[-2][1] == {
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }
    whole = msgspec.json.decode(unstreamed.whole())
    assert whole["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": 1}},
    ]


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_call_that_the_limit_cut_is_absent_and_the_end_says_so(is_stream: bool) -> None:
    stream = MessageStream("msg_1", "offered")
    said = stream.start() + stream.feed(chunk(content="I look"))
    said += stream.feed(chunk("length", tool_calls=[{"index": 0, "id": "c", "function": {"name": "f"}}]))
    if is_stream:
        told = events(said + stream.finish())
        assert {fields["content_block"]["type"] for kind, fields in told if kind == "content_block_start"} == {"text"}
        assert told[-2][1]["delta"]["stop_reason"] == "max_tokens"
    else:
        whole = json.loads(stream.whole())
        assert (whole["stop_reason"], whole["content"]) == ("max_tokens", [{"type": "text", "text": "I look"}])


def test_calls_whose_pieces_come_mixed_are_told_one_after_the_other() -> None:
    stream = MessageStream("msg_1", "offered")
    for index, text in ((0, "{"), (1, "{"), (0, "}"), (1, "}")):
        function = {"name": f"f{index}", "arguments": text} if text == "{" else {"arguments": text}
        stream.feed(chunk(tool_calls=[{"index": index, "function": function}]))
    stream.feed(chunk("tool_calls"))
    told = events(stream.finish())
    assert [kind for kind, _ in told[:-2]] == [
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
    ] * 2
    assert [fields["content_block"]["name"] for kind, fields in told if kind == "content_block_start"] == ["f0", "f1"]


def test_what_is_no_call_is_told_as_text() -> None:
    stream = MessageStream("msg_1", "offered")
    stream.feed(chunk("tool_calls", tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{a}"}}]))
    whole = json.loads(stream.whole())
    assert whole["content"] == [{"type": "text", "text": '{"name": "f", "arguments": {a}}'}]
    assert whole["stop_reason"] == "end_turn"


@pytest.mark.parametrize("field", ["stop_reason", "matched_stop"])
def test_the_text_that_ended_it_is_told_where_the_engine_tells_it(field: str) -> None:
    stream = MessageStream("msg_1", "offered", ("END",))
    choice = {"index": 0, "delta": {}, "finish_reason": "stop", field: "END"}
    stream.feed(json.dumps({"choices": [choice]}).encode())
    whole = json.loads(stream.whole())
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", "END")


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
