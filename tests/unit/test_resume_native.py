"""Answers in Ollama's objects that broke off: what is read of them, and how their rest is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sollol_bus.errors import BackendBrokeProtocol
from sollol_bus.sdk.resume.dialects import shape_of, telling_of
from sollol_bus.sdk.resume.interface import Said, Telling
from sollol_schemas.context import RequestKind

_BODY = b'{"model":"m","prompt":"hi"}'


def _telling(*chunks: bytes, kind: RequestKind = RequestKind.GENERATE, body: bytes = _BODY) -> Telling:
    return telling_of(kind, "", body, "", list(chunks))


def _object(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "done": False} | fields).encode()


def test_text_and_thinking_of_both_kinds_are_read() -> None:
    said = _telling(_object(response="", thinking="so"), _object(response=" a"), _object(response="b")).said()
    assert said == Said(" ab", "so", 3)
    chat = _telling(
        _object(message={"role": "assistant", "content": ""}),
        _object(message={"role": "assistant", "content": "x", "thinking": None}),
        kind=RequestKind.CHAT,
    )
    assert chat.said() == Said("x", "", 1)


def test_the_rest_is_told_under_the_name_that_the_first_object_had() -> None:
    telling = _telling(_object(model="m", response="a"))
    assert json.loads(telling.feed(_object(model="m:latest", response="b"))) == {
        "model": "m",
        "done": False,
        "response": "b",
    }
    piece = _object(model="m", response="b")
    assert telling.feed(piece) is piece


def test_the_end_is_noticed() -> None:
    assert _telling(_object(response="a"), _object(response="", done=True)).said().is_over


def test_a_call_of_tools_cannot_go_on() -> None:
    said = _telling(_object(message={"content": "", "tool_calls": [{"function": {}}]}), kind=RequestKind.CHAT).said()
    assert said.refusal


def test_what_cannot_be_read_cannot_go_on() -> None:
    assert _telling(b"{").said().refusal


def test_the_rest_is_handed_out_as_it_is_but_for_the_durations_of_the_whole() -> None:
    told = [_object(response="a", created_at=f"2026-01-01T00:00:0{second}.000000001Z") for second in (1, 3)]
    telling = _telling(*told)
    telling.break_off()
    assert telling.feed(_object(response="b")) == _object(response="b")
    final = {"done": True, "eval_count": 7, "total_duration": 10, "eval_duration": 4, "load_duration": 1}
    assert json.loads(telling.feed(_object(**final))) == {"model": "m"} | final | {
        "total_duration": 2_000_000_010,
        "eval_duration": 2_000_000_004,
    }
    with pytest.raises(BackendBrokeProtocol):
        telling.feed(b"data: x")


def test_an_answer_that_begins_anew_leaves_out_the_openings_that_were_handed_out() -> None:
    opening, text = _object(response=""), _object(response="a")
    telling = _telling(opening)
    assert telling.said().is_blank
    telling.break_off()
    assert [telling.again(one) for one in (opening, opening, text, opening)] == [b"", opening, text, opening]
    telling = _telling(opening, opening)
    telling.break_off()
    assert [telling.again(one) for one in (opening, text, opening)] == [b"", text, opening]


def test_an_answer_that_begins_anew_keeps_the_name_of_its_model() -> None:
    telling = _telling(_object(response=""))
    telling.break_off()
    renamed = [_object(model="m:latest", **more) for more in ({"response": ""}, {"response": "a"}, {"done": True})]
    told = [telling.again(one) for one in renamed]
    assert told[0] == b""
    assert [(one["model"], one["done"]) for one in map(json.loads, told[1:])] == [("m", False), ("m", True)]


@pytest.mark.parametrize(
    ("kind", "body", "is_refused", "may_be_moved"),
    [
        (RequestKind.GENERATE, b'{"prompt":"a","format":"","logprobs":false}', False, True),
        (RequestKind.GENERATE, b'{"prompt":"a","Format":"json"}', True, False),
        (RequestKind.GENERATE, b'{"prompt":"a","options":{"presence_penalty":1}}', False, False),
        (RequestKind.GENERATE, b'{"prompt":"a","options":{"frequency_penalty":0.0,"seed":1}}', False, True),
        (RequestKind.GENERATE, b'{"prompt":"a","options":null}', False, True),
        (RequestKind.GENERATE, b'{"prompt":"a","images":["x"]}', True, False),
        (RequestKind.GENERATE, b'{"prompt":"a","suffix":"b"}', True, False),
        (RequestKind.CHAT, b'{"messages":[{"role":"user","content":"a"}],"tools":[{}]}', False, False),
        (RequestKind.CHAT, b'{"messages":[{"role":"user","content":"a","images":["x"]}]}', True, False),
        (RequestKind.CHAT, b'{"messages":[],"logprobs":true}', True, False),
        (RequestKind.CHAT, b"no", True, False),
        (RequestKind.EMBED, b'{"input":"a"}', True, False),
        (RequestKind.PASSTHROUGH, b"{}", True, False),
    ],
)
def test_a_body_says_whether_its_answer_goes_on(
    kind: RequestKind, body: bytes, is_refused: bool, may_be_moved: bool
) -> None:
    shape = shape_of(kind, "/other", body)
    assert (bool(shape.refusal), shape.may_be_moved) == (is_refused, may_be_moved)
