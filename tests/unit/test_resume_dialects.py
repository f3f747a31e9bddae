"""Streams of the /v1 dialects that broke off: read, and told on as the engine would have told them."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sollol_agents.lab.testing.broken_streams import Piece, Stream, ids_in, native, recorded, steady
from sollol_agents.lab.testing.recordings.form import load_cases
from sollol_agents.node.engines.translation.messages_reply import MessageStream
from sollol_agents.requests.ollama import gojson
from sollol_bus.errors import BackendBrokeProtocol
from sollol_bus.sdk.resume.dialects import shape_of, telling_of
from sollol_bus.sdk.resume.interface import Shape, Telling
from sollol_schemas.context import RequestKind

RECORDINGS: Final = Path(__file__).parents[1] / "conformance" / "recordings"
FILES: Final = {"ollama-0.33.jsonl": True, "llama-server-b10488.jsonl": False}
CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
MESSAGES: Final = "/v1/messages"
RESPONSES: Final = "/v1/responses"
PATHS: Final = (CHAT, COMPLETIONS, MESSAGES, RESPONSES)
END_MARK: Final = b"data: [DONE]\n\n"
CUTS: Final = st.tuples(st.integers(0, 30), st.lists(st.integers(0, 6), max_size=4)).map(lambda one: [one[0], *one[1]])


def _recorded_streams() -> dict[str, Stream]:
    found = {}
    for name, is_go in FILES.items():
        for number, case in enumerate(load_cases(RECORDINGS / name)):
            for step in case.steps:
                events = step.response.get("events")
                if events and step.request.path in PATHS and not _is_incomplete(events):
                    raw = recorded(events, is_go=is_go)
                    label = f"{name[:6]} {number} {step.request.path} {case.name}"
                    found[label] = Stream(step.request.path, step.request.content() or b"", raw)
    return found


def _is_incomplete(events: list[Any]) -> bool:
    """Whether a part was left out of an answer that is told as a whole too."""
    return any(isinstance(one, str) for one in events) and "response.created" in str(events[0])


def _chunk(*, kind: str = "chat.completion.chunk", usage: Any = ..., **choice: Any) -> bytes:
    head = {"id": "chatcmpl-1", "object": kind, "created": 5, "model": "m"}
    chunk = head | {"choices": [{"index": 0} | choice]} | ({} if usage is ... else {"usage": usage})
    return b"data: %b\n\n" % json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode()


def _delta(**delta: Any) -> bytes:
    return _chunk(delta=delta, logprobs=None, finish_reason=None)


def _named(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind} | fields, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


USAGE: Final = {"prompt_tokens": 4, "total_tokens": 9, "completion_tokens": 5}
VLLM_CHAT: Final = b"".join(
    [
        _delta(role="assistant", content=""),
        *(_delta(reasoning=text) for text in ("so", " ünd <b>")),
        *(_delta(content=text) for text in ("A", ' "b"', "\n&c")),
        _chunk(delta={"content": ""}, logprobs=None, finish_reason="stop", stop_reason=None),
        _chunk(usage=USAGE).replace(b'[{"index":0}]', b"[]"),
        b"data: [DONE]\n\n",
    ]
)
COMPLETION: Final[dict[str, Any]] = {"kind": "text_completion", "usage": None, "logprobs": None}
VLLM_COMPLETION: Final = b"".join(
    [
        *(_chunk(text=text, **COMPLETION, finish_reason=None, stop_reason=None) for text in (" 1", " 2", " 3")),
        _chunk(text="", **COMPLETION, finish_reason="length", stop_reason=None),
        b"data: [DONE]\n\n",
    ]
)
VLLM_MESSAGE: Final = b"".join(
    [
        _named(
            "message_start",
            message={
                "id": "chatcmpl-2",
                "content": [],
                "model": "m",
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {"input_tokens": 4, "output_tokens": 0},
            },
        ),
        _named("content_block_start", content_block={"type": "thinking", "thinking": ""}, index=0),
        _named("content_block_delta", delta={"type": "thinking_delta", "thinking": "so"}, index=0),
        _named("content_block_delta", delta={"type": "signature_delta", "signature": "1f"}, index=0),
        _named("content_block_stop", index=0),
        _named("content_block_start", content_block={"type": "text", "text": ""}, index=1),
        _named("content_block_delta", delta={"type": "text_delta", "text": "A"}, index=1),
        _named("content_block_delta", delta={"type": "text_delta", "text": " b"}, index=1),
        _named("content_block_stop", index=1),
        _named("message_delta", delta={"stop_reason": "end_turn"}, usage={"input_tokens": 4, "output_tokens": 5}),
        _named("message_stop"),
        b"data: [DONE]\n\n",
    ]
)


def _translated() -> bytes:
    """A message that the node made of an OpenAI stream."""
    stream = MessageStream("msg_1", "m")
    deltas = ({"reasoning_content": "so"}, {"reasoning_content": " it is"}, {"content": "A"}, {"content": " <b>"})
    events: list[dict[str, Any]] = [{"choices": [{"delta": delta}]} for delta in deltas]
    events += [{"choices": [{"delta": {}, "finish_reason": "length"}]}]
    events += [{"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 5}}]
    said = [stream.feed(json.dumps(event).encode()) for event in events]
    return b"".join([stream.start(), *said, stream.finish()])


def _body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "stream": True} | fields).encode()


STREAMS: Final = _recorded_streams() | {
    "vLLM chat": Stream(CHAT, _body(messages=[], stream_options={"include_usage": True}), VLLM_CHAT),
    "vLLM completion": Stream(COMPLETIONS, _body(prompt="x"), VLLM_COMPLETION),
    "vLLM message": Stream(MESSAGES, _body(messages=[]), VLLM_MESSAGE),
    "translated message": Stream(MESSAGES, _body(messages=[]), _translated()),
}


def _refusal(stream: Stream) -> str:
    telling = stream.telling()
    telling.read(b"".join(stream.events))
    return telling.said().refusal


REFUSALS: Final = {name: _refusal(one) for name, one in STREAMS.items()}
GOING: Final = {name: one for name, one in STREAMS.items() if any(one.said) and not REFUSALS[name]}


def test_recordings_are_refused_for_calls_of_tools_and_probabilities_alone() -> None:
    assert len(GOING) >= 30
    assert {why.partition(",")[0] for why in REFUSALS.values() if why} == {
        "a call of tools has begun",
        "it tells log probabilities",
    }


@pytest.mark.parametrize("stream", GOING.values(), ids=GOING.keys())
@settings(max_examples=8, deadline=None)
@given(cuts=CUTS)
def test_a_stream_that_breaks_off_comes_out_the_same(stream: Stream, cuts: list[int]) -> None:
    told, whole = stream.broken(cuts), b"".join(stream.events)
    if stream.path == MESSAGES:  # which are over with their last event, and vLLM's mark behind it says nothing more
        told, whole = (one.removesuffix(END_MARK) for one in (told, whole))
    assert steady(told) == steady(whole)
    assert all(len(ids) == 1 for ids in ids_in(told).values())


@pytest.mark.parametrize("stream", GOING.values(), ids=GOING.keys())
def test_text_and_thinking_are_read_wherever_the_bytes_are_cut(stream: Stream) -> None:
    telling = stream.telling()
    whole = b"".join(stream.events)
    for place in range(0, len(whole), 7):
        telling.read(whole[place : place + 7])
    said = telling.said()
    pieces = [one for one in stream.said if one]
    assert said == (
        "".join(one.text for one in pieces),
        "".join(one.thinking for one in pieces),
        len(pieces),
        "",
        True,
    )


@pytest.mark.parametrize("stream", GOING.values(), ids=GOING.keys())
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_an_answer_that_begins_anew_is_handed_out_wherever_its_bytes_are_cut(stream: Stream, data: Any) -> None:
    telling = stream.telling()
    telling.read(stream.events[0])
    if not telling.said().is_blank:
        return
    telling.break_off()
    whole = b": comment\n\n" + b"".join(stream.events)
    step = data.draw(st.integers(1, 90))
    told = b"".join(telling.again(whole[place : place + step]) for place in range(0, len(whole), step))
    assert told == b": comment\n\n" + b"".join(stream.events[1:])


def _telling(path: str, *events: bytes, **fields: Any) -> Telling:
    return telling_of(RequestKind.PASSTHROUGH, path, _body(**fields), "text/event-stream", list(events))


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"response_format": {"type": "json_object"}}),
        (CHAT, {"grammar": "root ::= x"}),
        (CHAT, {"n": 2}),
        (CHAT, {"logprobs": True}),
        (CHAT, {"tools": [{}], "tool_choice": "required"}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
        (CHAT, {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
        (CHAT, {"Response_Format": {"type": "json_schema"}}),
        (COMPLETIONS, {"echo": True}),
        (COMPLETIONS, {"best_of": 3}),
        (COMPLETIONS, {"suffix": "x"}),
        (COMPLETIONS, {"prompt": ["a", "b"]}),
        (COMPLETIONS, {"prompt": [1, 2, 3]}),
        (COMPLETIONS, {"prompt": [[1, 2, 3]]}),
        (COMPLETIONS, {"prompt": [5]}),
        (RESPONSES, {"previous_response_id": "resp_1"}),
        (COMPLETIONS, {"logprobs": 1}),
        (MESSAGES, {"tool_choice": {"type": "any"}}),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}),
        (MESSAGES, {"output_config": {"format": {"type": "json_schema"}}}),
        (RESPONSES, {"text": {"format": {"type": "json_schema"}}}),
        (RESPONSES, {"top_logprobs": 2}),
        (RESPONSES, {"input": [{"type": "message", "content": [{"type": "input_image"}]}]}),
    ],
    ids=str,
)
def test_what_cannot_be_the_same_answer_is_refused_once_it_is_said(path: str, fields: dict[str, Any]) -> None:
    event = next(one for one in GOING.values() if one.path == path)
    assert shape_of(RequestKind.PASSTHROUGH, path, _body(**fields)).refusal
    assert not _telling(path, **fields).said().refusal
    said = _telling(path, *event.events[:-3], **fields).said()
    assert said.refusal
    assert not said.refusal.endswith(".")


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "response_format": {"type": "text"}, "logprobs": False, "tool_choice": "auto"},
        {"messages": [{"role": "user", "content": 'what is "image_url"?'}], "text": {"verbosity": "low"}},
        {"prompt": ["a"], "best_of": 1, "stop": None, "stream_options": None},
        {"presence_penalty": 0.0, "frequency_penalty": 0, "text": {"format": {"type": "text"}}},
    ],
    ids=str,
)
def test_usual_fields_do_not_keep_an_answer_from_going_on(fields: dict[str, Any]) -> None:
    assert shape_of(RequestKind.PASSTHROUGH, f"{CHAT}?x=1", _body(**fields)) == Shape(may_be_moved=True)


def test_an_answer_that_may_call_tools_is_not_moved_on_purpose() -> None:
    assert shape_of(RequestKind.PASSTHROUGH, CHAT, _body(tools=[{"type": "function"}])) == Shape()
    assert shape_of(RequestKind.PASSTHROUGH, CHAT, _body(stream=False)) == Shape()
    assert shape_of(RequestKind.PASSTHROUGH, CHAT, _body(presence_penalty=0.5)) == Shape(), "vLLM does not go on"
    assert shape_of(RequestKind.PASSTHROUGH, CHAT, b"{").refusal


def test_of_several_reasons_the_same_is_told_in_whatever_order_they_stand() -> None:
    said = {"n": 2, "messages": [{"content": [{"type": "image_url"}]}], "response_format": {"type": "json_object"}}
    told = {
        shape_of(RequestKind.PASSTHROUGH, CHAT, json.dumps(dict(one)).encode()) for one in permutations(said.items())
    }
    assert [one.refusal for one in told] == ["its text follows a form, which cannot be entered in its middle"]


def test_a_document_begins_anew_until_a_part_of_it_was_handed_out() -> None:
    telling = telling_of(RequestKind.PASSTHROUGH, CHAT, _body(), "application/json", [])
    assert telling.said() == ("", "", 0, "", False)
    telling.break_off()
    assert telling.again(b"{") == b"{"
    telling.read(b"{")
    assert telling.said().refusal


def test_an_event_that_cannot_be_read_is_a_refusal() -> None:
    for path in PATHS:
        assert _telling(path, b"data: {\n\n").said().refusal


def test_several_answers_in_one_stream_are_refused() -> None:
    assert _telling(CHAT, _delta(content="a"), _delta(content="b").replace(b'"index":0', b'"index":1')).said().refusal


def test_older_engines_that_name_the_role_in_every_chunk_go_on_to_do_so() -> None:
    telling = _telling(CHAT, *(_delta(role="assistant", content=text) for text in "ab"))
    telling.break_off()
    assert telling.feed(native(Piece("c"))) == _delta(role="assistant", content="c")


def test_the_empty_chunk_of_a_dead_runner_is_no_pattern() -> None:
    telling = _telling(CHAT, _delta(content="a"), _delta(content="").replace(b'"model":"m"', b'"model":""'))
    telling.break_off()
    assert telling.feed(native(Piece("b"))) == _delta(content="b")


def test_a_ping_in_an_answer_that_begins_anew_is_none_of_its_openings() -> None:
    stream = STREAMS["translated message"]
    telling = _telling(MESSAGES, stream.events[0], _named("ping"))
    telling.break_off()
    anew = [stream.events[0], _named("ping"), *stream.events[1:]]
    assert telling.again(b"".join(anew)) == b"".join(anew[1:])


@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_text_is_escaped_as_the_engine_does(text: str) -> None:
    ollama = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], "system_fingerprint": "fp"}
    for fields, write in (
        (ollama | {"system_fingerprint": "fp_ollama"}, gojson.write),
        (ollama, msgspec.json.encode),
    ):
        event = b"data: %b\n\n" % write(fields)
        telling = _telling(CHAT, event)
        telling.break_off()
        assert telling.feed(native(Piece(text))) == event


def test_what_is_no_native_object_is_no_rest() -> None:
    telling = _telling(CHAT, _delta(content="a"))
    with pytest.raises(BackendBrokeProtocol):
        telling.feed(b'{"response": 1}')


def test_the_text_at_which_a_message_ended_is_told_where_the_node_tells_it() -> None:
    stream = STREAMS["translated message"]
    telling = _telling(MESSAGES, *stream.events[:-4], stop_sequences=["END"])
    telling.break_off()
    told = telling.feed(b'{"response":"","done":true,"done_reason":"stop","stopping_word":"END"}')
    assert b'{"stop_reason":"stop_sequence","stop_sequence":"END"}' in told
