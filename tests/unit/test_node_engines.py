"""The adapters' pure parts: lines, Ollama's words, refusals, passthrough."""

from __future__ import annotations

import datetime as dt
import json
import math
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.decoding import as_seconds, as_tokens
from sollol_agents.node.engines.ends import Ends, figures_in, is_complete
from sollol_agents.node.engines.http.client import is_loopback
from sollol_agents.node.engines.lines import LineSplitter
from sollol_agents.node.engines.ollama_wire import (
    FinalLine,
    Process,
    Show,
    Tag,
    blob_of,
    check_line,
    installed_model,
    is_load_only,
    kv_bytes_per_token,
    loaded_model,
    streamed,
)
from sollol_agents.node.engines.passthrough import Nameless
from sollol_agents.node.engines.refusals import refusal
from sollol_agents.node.engines.runners import Runners
from sollol_bus.errors import BackendBrokeProtocol, SollolError
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode

FINAL = (
    b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"total_duration":14400297,'
    b'"load_duration":2546885,"prompt_eval_count":9,"prompt_eval_duration":7718000,"eval_count":4,"eval_duration":882000}'
)


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(1, 30), max_size=20))
def test_lines_come_out_as_they_went_in_however_they_were_cut(lines: list[bytes], cuts: list[int]) -> None:
    lines = [line.replace(b"\n", b"").replace(b"\r", b"") for line in lines]
    data = b"".join(line + b"\n" for line in lines)
    splitter, got, at = LineSplitter(), [], 0
    for cut in [*cuts, len(data)]:
        got += splitter.feed(data[at : at + cut])
        at += cut
    assert got == [line for line in lines if line]
    assert splitter.rest == b""


def test_half_a_line_is_kept_as_the_rest() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b'{"a":1}\r\n{"b"') == [b'{"a":1}']
    assert splitter.rest == b'{"b"'


def test_a_token_line_is_passed_on_and_the_last_one_is_read() -> None:
    assert check_line(b'{"message":{"content":"2"},"done":false}') is None
    final = check_line(FINAL)
    assert final is not None
    assert final.figures().output_tokens == 4
    assert final.figures().decode_s == pytest.approx(0.000882)


def test_an_argument_called_done_does_not_end_a_stream() -> None:
    line = b'{"message":{"tool_calls":[{"function":{"name":"f","arguments":{"done":true}}}]},"done":false}'
    assert check_line(line) is None


def test_text_that_looks_like_the_end_does_not_end_a_stream() -> None:
    line = json.dumps({"message": {"content": '"done":true'}, "done": False}).encode()
    assert check_line(line) is None


@pytest.mark.parametrize(
    "line",
    [b"<html>", b'{"done":tr', b"404 page not found", b'{"done":true,"eval_count":NaN}'],
    ids=["html", "half", "text", "nan"],
)
def test_what_is_no_object_breaks_the_protocol(line: bytes) -> None:
    with pytest.raises(BackendBrokeProtocol):
        check_line(line)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"error":"an error was encountered while running the model"}', ErrorCode.ENGINE_FAILED),
        (b'{"error":"llama runner process has terminated"}', ErrorCode.LOAD_FAILED),
        (b'{"error":{"message":"boom"}}', ErrorCode.ENGINE_FAILED),
    ],
)
def test_an_error_line_is_the_engines_failure(line: bytes, code: ErrorCode) -> None:
    with pytest.raises(SollolError) as caught:
        check_line(line)
    assert caught.value.body.code is code


def test_a_body_is_touched_only_to_turn_streaming_on() -> None:
    body = b'{ "model":"m",  "stream" : true}'
    assert streamed(body) is body
    assert json.loads(streamed(b'{"model":"m","stream":false,"x":1.50}')) == {"model": "m", "stream": True, "x": 1.5}
    nested = b'{"model":"m","tools":[{"stream":false}]}'
    assert streamed(nested) is nested
    assert streamed(b'{"stream":false') == b'{"stream":false'


def test_the_weights_of_a_model_are_told_by_its_modelfile() -> None:
    digest = "a" * 64
    assert blob_of(f"# FROM m\n\nFROM /models/blobs/sha256-{digest}\nTEMPLATE x") == digest
    assert blob_of("FROM llama3") == blob_of("") == ""


@pytest.mark.parametrize(
    ("kind", "body", "is_it"),
    [
        (RequestKind.GENERATE, b'{"model":"m"}', True),
        (RequestKind.CHAT, b'{"model":"m","messages":[],"keep_alive":0}', True),
        (RequestKind.GENERATE, b'{"model":"m","prompt":"x"}', False),
        (RequestKind.CHAT, b'{"model":"m","messages":[{"role":"user"}]}', False),
        (RequestKind.EMBED, b'{"model":"m"}', False),
        (RequestKind.GENERATE, b"nonsense", False),
    ],
)
def test_a_request_without_prompt_only_loads(kind: RequestKind, body: bytes, is_it: bool) -> None:
    assert is_load_only(EngineRequest(kind=kind, model="m", body=body)) is is_it


LLAMA_8B = {
    "general.architecture": "llama",
    "llama.block_count": 32,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.embedding_length": 4096,
}


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (LLAMA_8B, 128 * 1024),
        (LLAMA_8B | {"llama.attention.key_length": 64, "llama.attention.value_length": 64}, 64 * 1024),
        (LLAMA_8B | {"llama.attention.head_count_kv": [8] * 16 + [0] * 16}, 64 * 1024),
        (LLAMA_8B | {"llama.attention.head_count_kv": None}, 512 * 1024),
        ({}, 0),
        ({"general.architecture": "llama", "llama.block_count": "many"}, 0),
    ],
    ids=["8b", "own-head-size", "per-layer", "no-gqa", "nothing", "nonsense"],
)
def test_the_cache_of_one_token_follows_from_the_header(info: dict[str, Any], expected: int) -> None:
    assert kv_bytes_per_token(info) == expected


def test_an_embedding_model_has_one_slot() -> None:
    model = installed_model(Tag(name="e"), Show(capabilities=["embedding"]))
    assert model.slots == 1
    assert installed_model(Tag(name="c", size=-5), None).size_bytes == 0


def test_the_context_that_a_modelfile_asks_for_is_the_one_that_the_model_gets_by_itself() -> None:
    parameters = 'num_ctx                        8192\nstop                           "num_ctx 5"\n'
    assert installed_model(Tag(name="long"), Show(parameters=parameters)).usual_context_length == 8192
    assert installed_model(Tag(name="plain"), Show(parameters='stop  "num_ctx 5"')).usual_context_length == 0
    runners = Runners()
    known = {"context_tokens": 4096, "trained_tokens": 32768}
    assert runners.in_force("blob", "long", own_tokens=8192, **known).automatic_tokens == 8192
    runners.loaded("blob", "long", {}, 4096)
    assert runners.in_force("blob", "long", own_tokens=8192, **known).automatic_tokens == 4096, "the engine knows best"


def test_a_model_that_never_expires_says_so() -> None:
    now = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    soon = loaded_model(Process(name="m", size=10, size_vram=20, expires_at="2026-11-21T00:05:00.123456789Z"), now)
    assert soon.expires_in_s == pytest.approx(300.123, abs=0.001)
    assert soon.vram_bytes == 10
    assert loaded_model(Process(name="m", expires_at="2319-01-01T00:00:00Z"), now).expires_in_s is None
    assert loaded_model(Process(name="m", expires_at="soon"), now).expires_in_s is None


@pytest.mark.parametrize(
    ("status", "body", "code", "shown"),
    [
        (404, b'{"error":"model \'x\' not found"}', ErrorCode.UNKNOWN_MODEL, 404),
        (404, b"404 page not found", ErrorCode.ENGINE_REJECTED, 404),
        (400, b'{"error":"\\"e\\" does not support chat"}', ErrorCode.ENGINE_REJECTED, 400),
        (422, b'{"detail":[{"msg":"bad"}]}', ErrorCode.ENGINE_REJECTED, 422),
        (501, b'{"error":{"message":"no embeddings"}}', ErrorCode.ENGINE_REJECTED, 501),
        (503, b'{"error":"server busy, please try again.  maximum pending requests exceeded"}', ErrorCode.BUSY, 503),
        (503, b'{"error":{"message":"Loading model","type":"unavailable_error"}}', ErrorCode.BUSY, 503),
        (503, b"<html>gateway</html>", ErrorCode.ENGINE_UNAVAILABLE, 502),
        (429, b"", ErrorCode.BUSY, 503),
        (401, b'{"error":"no"}', ErrorCode.ENGINE_FAILED, 502),
        (403, b"", ErrorCode.ENGINE_FAILED, 502),
        (403, b'{"error":"cloud is disabled"}', ErrorCode.ENGINE_REJECTED, 403),
        (500, b'{"error":"model requires more system memory"}', ErrorCode.LOAD_FAILED, 502),
        (500, b"", ErrorCode.ENGINE_FAILED, 502),
        (302, b"", ErrorCode.ENGINE_PROTOCOL, 502),
    ],
)
def test_a_refusal_says_whose_fault_it_is(status: int, body: bytes, code: ErrorCode, shown: int) -> None:
    error = refusal(status, body, "x").body
    assert (error.code, error.http_status) == (code, shown)


@pytest.mark.parametrize(
    ("path", "tail", "whole"),
    [
        ("/v1/chat/completions", b"data: {}\n\ndata: [DONE]\n\n", True),
        ("/v1/chat/completions", b'data: {"choices":[]}\n\n', False),
        ("/v1/messages", b'data: {"type":"message_stop"}\n\n', True),
        ("/v1/messages", b'data: {"type":"ping"}\n\n', False),
        ("/v1/responses", b'data: {"type":"response.completed"}\n\n', True),
        ("/v1/responses", b'data: {"type":"response.created","response":{"error":null}}\n\n', False),
        ("/v1/responses", b'event: error\ndata: {"type":"error","code":"x"}\n\n', True),
        ("/v1/other", b"", True),
    ],
)
def test_an_event_stream_is_whole_when_its_last_event_came(path: str, tail: bytes, whole: bool) -> None:
    assert is_complete(path, tail) is whole


def test_the_figures_of_a_passed_through_answer_are_found() -> None:
    tail = (
        b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":13,'
        b'"prompt_tokens_details":{"cached_tokens":7}},"timings":{"prompt_ms":0.5,"predicted_ms":2.5}}\n\n'
        b"data: [DONE]\n\n"
    )
    figures = figures_in(tail)
    assert (figures.prompt_tokens, figures.output_tokens, figures.cached_tokens) == (8, 13, 7)
    assert (figures.prompt_s, figures.decode_s) == (0.0005, 0.0025)
    assert figures_in(b"nothing here").output_tokens is None
    assert figures_in(b'{"usage":{"completion_tokens":"many"}}').output_tokens is None


def fed(body: bytes, cuts: int) -> Ends:
    ends = Ends()
    for start in range(0, len(body), cuts):
        ends.feed(body[start : start + cuts])
    return ends


@pytest.mark.parametrize("cuts", [7, 1000, 1 << 20])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_stream_whose_last_event_is_large_is_whole_and_keeps_its_figures(cuts: int, line_end: str) -> None:
    usage = {"input_tokens": 8, "output_tokens": 1000, "input_tokens_details": {"cached_tokens": 7}}
    output = [{"content": [{"type": "output_text", "text": '"usage":{} ' * 10_000}]}]
    completed = {"type": "response.completed", "response": {"output": output, "usage": usage}}
    events: list[dict[str, Any]] = [
        {"type": "response.created"},
        {"type": "response.output_text.delta", "delta": "x"},
        completed,
    ]
    text = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).replace("\n", line_end)
    ends = fed(text.encode(), cuts)
    assert ends.is_complete("/v1/responses")
    figures = ends.figures()
    assert (figures.prompt_tokens, figures.output_tokens, figures.cached_tokens) == (8, 1000, 7)
    cut = text[: text.index("event: response.completed")]
    assert not fed(cut.encode(), cuts).is_complete("/v1/responses")


@pytest.mark.parametrize("cuts", [1000, 1 << 20])
@pytest.mark.parametrize("is_first", [True, False], ids=["before the rest", "behind it"])
def test_a_large_body_keeps_its_figures_wherever_they_stand(cuts: int, is_first: bool) -> None:
    usage = {"usage": {"prompt_tokens": 900, "total_tokens": 900, "prompt_tokens_details": None}}
    data = {"data": [{"embedding": [0.5] * 5000}], "tools": [{"usage": {"type": "string"}}]}
    body = json.dumps(usage | data if is_first else data | usage).encode()
    assert fed(body, cuts).figures().prompt_tokens == 900


def test_figures_that_come_at_both_ends_of_a_message_add_up() -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 1, "cache_read_input_tokens": 7}}}
    delta = {"type": "message_delta", "usage": {"output_tokens": 49}}
    text = f"data: {json.dumps(start)}\n\n" + ": x\n" * 9000 + f"data: {json.dumps(delta)}\n\n"
    figures = fed(text.encode(), 4096).figures()
    assert (figures.prompt_tokens, figures.cached_tokens, figures.output_tokens) == (8, 7, 49)


@pytest.mark.parametrize("value", [None, True, "5", -1, float("nan"), float("inf"), 10**30])
def test_nonsense_is_no_figure(value: Any) -> None:
    assert as_seconds(value) is None
    assert as_tokens(value) is None


@pytest.mark.parametrize(
    ("line", "wait_s"),
    [
        (b'{"total_duration":4000000000,"load_duration":250000000,"eval_duration":2000000000}', 1.75),
        (b'{"total_duration":4000000000,"load_duration":250000000,"prompt_eval_count":9}', 0.0),
        (b'{"eval_duration":2000000000}', 0.0),
    ],
    ids=["a chat", "an embedding", "nothing told"],
)
def test_only_time_that_has_no_other_figure_was_a_wait_for_the_engines_slot(line: bytes, wait_s: float) -> None:
    assert msgspec.json.decode(line, type=FinalLine).figures().slot_wait_s == wait_s


def test_sane_figures_are_kept() -> None:
    assert as_seconds(1_500_000_000) == 1.5
    assert as_tokens(0) == 0
    assert math.isfinite(as_seconds(5) or 0.0)


@pytest.mark.parametrize(
    ("host", "is_it"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("10.0.0.1", False), ("example.org", False)],
)
def test_loopback_addresses_are_recognised(host: str, is_it: bool) -> None:
    assert is_loopback(host) is is_it


def _event(**fields: object) -> bytes:
    head = {"id": "chatcmpl-7", "model": "m", "system_fingerprint": "fp_ollama"}
    return b"data: %b\n\n" % msgspec.json.encode(head | fields)


@given(cuts=st.lists(st.integers(0, 700), max_size=12), ends=st.booleans())
def test_the_nameless_event_of_a_dead_runner_goes_nowhere_wherever_reads_cut_it(cuts: list[int], *, ends: bool) -> None:
    said = _event(choices=["one"]) + b": note\n\n" + _event(choices=["two\n\ndata: {"]) + _event(long="x" * 1500)
    nameless = _event(model="", choices=[])
    data = said + (nameless if ends else nameless[:-2])
    places = [0, *sorted(min(cut * 4, len(data)) for cut in cuts), len(data)]
    one = Nameless()
    told = [one.without(data[a:b]) for a, b in pairwise(places)]
    assert b"".join([*told, one.rest()]) == said


@given(st.binary(max_size=60), st.integers(0, 60))
def test_what_is_no_such_event_comes_out_as_it_went_in(data: bytes, cut: int) -> None:
    one = Nameless()
    assert one.without(data[:cut]) + one.without(data[cut:]) + one.rest() == data


def test_events_whose_lines_end_as_those_of_other_servers_go_on_at_once() -> None:
    one, event = Nameless(), _event(choices=["x"]).replace(b"\n", b"\r\n")
    assert event.endswith(b"\r\n\r\n")
    assert [one.without(data) for data in (event, event, event[:-3], event[-3:])] == [
        event,
        event,
        event[:-3],
        event[-3:],
    ]


def test_nothing_but_the_beginning_of_an_event_waits_for_more() -> None:
    one, event = Nameless(), _event(choices=["x"])
    assert one.without(event + event[:9]) == event
    assert one.without(event[9:]) == event
    assert one.without(b": waiting") == b": waiting"
