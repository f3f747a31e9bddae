"""An inference request is understood from its headers and the top level of its body. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from sollol_agents.gateway.inference.request import HttpRequest, names_a_model, read_request
from sollol_bus.errors import BadRequest
from sollol_schemas.context import RequestKind

TOOL_CALL = b'{"function":{"name":"f","arguments":{"stream":true,"deadline_s":1,"priority":9}}}'
CALLED = b'"messages":[{"role":"assistant","tool_calls":[' + TOOL_CALL + b"]}]"


def request(
    body: bytes, head: dict[str, str] | None = None, kind: RequestKind = RequestKind.CHAT, **limits: Any
) -> HttpRequest:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in (head or {}).items()]
    limits = {"max_priority": 10, "default_deadline_s": 600.0} | limits
    return read_request(kind, "/api/chat", raw, body, label="/api/chat", **limits)


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
    assert request(b"{" + CALLED + b',"model":"m"}').deadline_s == 600.0
    assert request(b"{" + CALLED + b',"deadline_s":5}').deadline_s == 5.0
    assert request(b'{"model":"m","deadline_s":5}', {"x-sollol-deadline-s": "7"}).deadline_s == 7.0
    assert request(b'{"model":"m","deadline_s":5}', kind=RequestKind.PASSTHROUGH).deadline_s == 600.0


def test_the_gateways_deadline_goes_on_to_the_bus_unless_the_request_names_one() -> None:
    assert request(b"{}", default_deadline_s=42.5).headers == {"x-sollol-deadline-s": "42.5"}
    assert request(b'{"deadline_s":5}', default_deadline_s=42.5).headers == {}
    named = request(b"{}", {"x-sollol-deadline-s": "7"}, default_deadline_s=42.5)
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
        request(b"{}", {name: value})


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"stream":"yes"}', b'{"priority":11}'])
def test_bodies_that_cannot_be_used_are_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        request(body)


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({}, b"{}", "3"),
        ({"x-sollol-priority": "urgent"}, b"{}", "3"),
        ({}, b'{"priority":9}', "3"),
        ({}, b'{"PRIORITY":9}', "3"),
        ({}, b'{"priority":"low"}', None),
        ({"x-sollol-priority": "1"}, b'{"priority":9}', "1"),
    ],
)
def test_a_priority_is_lowered_to_the_keys_wherever_it_stands(
    headers: dict[str, str], body: bytes, expected: str | None
) -> None:
    assert request(body, headers, max_priority=3).headers.get("x-sollol-priority") == expected


@pytest.mark.parametrize(
    ("body", "does"),
    [(b'{"model":"m"}', True), (b'{"x":{"model":"m"}}', False), (b'"model"', False), (b"", False)],
)
def test_only_an_object_that_names_a_model_is_for_an_engine(body: bytes, *, does: bool) -> None:
    assert names_a_model(body) is does
