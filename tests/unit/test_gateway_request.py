"""An inference request is understood from its headers and the top level of its body. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from sollol_agents.gateway.inference.order import first_fault
from sollol_agents.gateway.inference.request import HttpRequest, names_a_model, read_request
from sollol_agents.requests.dialects import KIND_OF_PATH
from sollol_bus.errors import BadRequest, SollolError, error_from
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorBody, ErrorCode

TOOL_CALL = b'{"function":{"name":"f","arguments":{"stream":true,"deadline_s":1,"priority":9}}}'
CALLED = b'"model":"m","messages":[{"role":"assistant","tool_calls":[' + TOOL_CALL + b"]}]"


NAMED = b'{"model":"m"}'


def request(
    body: bytes, head: dict[str, str] | None = None, kind: RequestKind = RequestKind.CHAT, **limits: Any
) -> HttpRequest:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in (head or {}).items()]
    limits = {"default_deadline_s": 600.0} | limits
    label = "other" if kind is RequestKind.PASSTHROUGH else "/api/chat"
    return read_request(kind, "/api/chat", raw, body, label=label, **limits)


@pytest.mark.parametrize(
    ("body", "kind", "wanted"),
    [
        (b'{"model":"m","stream":false}', RequestKind.CHAT, False),
        (b'{"model":"m","Stream":false}', RequestKind.CHAT, False),
        (b'{"model":"m","stream":null}', RequestKind.CHAT, True),
        (b'{"model":"m"}', RequestKind.CHAT, True),
        (b'{"model":"m","options":{"stream":false}}', RequestKind.CHAT, True),
        (b"{" + CALLED + b',"stream":false}', RequestKind.CHAT, False),
        (b'{"model":"m","prompt":"\\"stream\\":false"}', RequestKind.GENERATE, True),
        (b'{"model":"m"}', RequestKind.PASSTHROUGH, False),
        (b'{"model":"m","stream":true}', RequestKind.PASSTHROUGH, True),
        (b'{"stream":"engines judge it","model":"m"}', RequestKind.PASSTHROUGH, False),
    ],
)
def test_the_top_level_field_decides_whether_to_stream(body: bytes, kind: RequestKind, *, wanted: bool) -> None:
    assert request(body, kind=kind).wants_stream is wanted


def test_a_deadline_inside_a_tools_arguments_is_none_of_the_request() -> None:
    assert request(b"{" + CALLED + b"}").deadline_s == 600.0
    assert request(b"{" + CALLED + b',"deadline_s":5}').deadline_s == 5.0
    assert request(b'{"model":"m","deadline_s":5}', {"x-sollol-deadline-s": "7"}).deadline_s == 7.0
    assert request(b'{"model":"m","deadline_s":5}', kind=RequestKind.PASSTHROUGH).deadline_s == 600.0


def test_the_gateways_deadline_goes_on_to_the_bus_unless_the_request_names_one() -> None:
    assert request(NAMED, default_deadline_s=42.5).headers == {"x-sollol-deadline-s": "42.5"}
    assert request(b'{"model":"m","deadline_s":5}', default_deadline_s=42.5).headers == {}
    named = request(NAMED, {"x-sollol-deadline-s": "7"}, default_deadline_s=42.5)
    assert named.headers == {"x-sollol-deadline-s": "7"}


def test_routing_is_found_among_other_headers() -> None:
    found = request(
        b'{"model":"m"}',
        {
            "host": "x",
            "x-sollol-priority": "high",
            "x-sollol-request-id": "r-1",
            "x-sollol-unknown": "\xff",
            "x-sollol-deadline-s": "9",
            "traceparent": "00-a-b-01",
        },
    )
    assert found.headers == {"x-sollol-priority": "high", "x-sollol-deadline-s": "9", "traceparent": "00-a-b-01"}
    assert (found.request_id, found.model) == ("r-1", "m")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-sollol-priority", "\xc3\xa9"),
        ("x-sollol-priority", "enormous"),
        ("x-sollol-session-id", "x" * 600),
        ("x-sollol-request-id", "a b"),
        ("x-sollol-deadline-s", "-1"),
    ],
)
def test_values_that_cannot_be_used_are_refused(name: str, value: str) -> None:
    with pytest.raises(BadRequest, match=r"(?i)x-sollol|routing field"):
        request(NAMED, {name: value})


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"stream":"yes"}', b'{"priority":11}'])
def test_bodies_that_cannot_be_used_are_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        request(body)


@pytest.mark.parametrize(
    ("body", "does"),
    [(b'{"model":"m"}', True), (b'{"x":{"model":"m"}}', False), (b'"model"', False), (b"", False)],
)
def test_only_an_object_that_names_a_model_is_for_an_engine(body: bytes, *, does: bool) -> None:
    assert names_a_model(body) is does


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/generate", b'{"prompt":"x"}', 404, "model '' not found"),
        ("/api/chat", b"null", 400, "model is required"),
        ("/api/embed", b'{"input":5}', 400, "invalid input type"),
        ("/api/embed", b'{"input":"x"}', 404, "model '' not found"),
        ("/v1/completions", b'{"prompt":"x"}', 404, "model '' not found"),
        ("/v1/chat/completions", b"{}", 400, "[] is too short - 'messages'"),
        ("/v1/chat/completions", b'{"messages":[{}]}', 400, "model is required"),
        ("/v1/embeddings", b'{"input":[]}', 400, "invalid input"),
        ("/v1/responses", b'{"input":"x"}', 400, "model is required"),
        ("/v1/messages", b'{"model":"m","stream":1}', 400, "cannot unmarshal number into Go struct field"),
        ("/v1/messages", b"", 400, "EOF"),
        ("/api/chat", b"", 400, "missing request body"),
    ],
)
def test_a_request_without_a_model_is_refused_as_its_path_does(path: str, body: bytes, status: int, said: str) -> None:
    kind = KIND_OF_PATH[path]
    with pytest.raises(SollolError) as caught:
        read_request(kind, path, [], body, label=path, default_deadline_s=1.0)
    assert (caught.value.body.http_status, said in str(caught.value)) == (status, True), str(caught.value)


def test_what_is_wrong_with_a_body_is_told_before_that_its_model_is_unknown() -> None:
    unknown = error_from(ErrorBody(code=ErrorCode.UNKNOWN_MODEL, message="model 'm' not found"))
    assert "GenerateRequest.raw" in str(first_fault("/api/generate", b'{"model":"m","raw":5}', unknown))
    assert "max_tokens" in str(first_fault("/v1/messages", b'{"model":"m","messages":[{}]}', unknown))
    assert first_fault("/api/generate", b'{"model":"m"}', unknown) is unknown
    assert first_fault("/tokenize", b'{"model":"m"}', unknown) is unknown


@pytest.mark.parametrize(
    ("path", "turns", "told"),
    [
        ("/api/chat", '[{"role":"user","content":"x","images":["@@@"]}]', "illegal base64 data at input byte 0"),
        (
            "/v1/chat/completions",
            '[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,@@@"}}]}]',
            "invalid image input",
        ),
        (
            "/v1/chat/completions",
            '[{"role":"user","content":[{"type":"image_url","image_url":"https://x/y.png"}]}]',
            "image URLs are not currently supported",
        ),
        (
            "/v1/messages",
            '[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"https://x/y.png"}}]}]',
            "invalid image source type: url",
        ),
    ],
)
def test_what_is_wrong_with_a_body_is_told_before_that_no_model_can_do_it(path: str, turns: str, told: str) -> None:
    body = f'{{"model":"m","max_tokens":9,"messages":{turns}}}'.encode()
    lacking = ErrorBody(code=ErrorCode.ENGINE_REJECTED, message="no sight", details={"lacks": "vision"})
    assert told in str(first_fault(path, body, error_from(lacking)))
    by_engine = error_from(ErrorBody(code=ErrorCode.ENGINE_REJECTED, message="the engine read it"))
    assert first_fault("/api/chat", body, by_engine) is by_engine
