"""What answers are held against, where their texts stand, and when another model is asked."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

from sollol_agents.requests.body import read_fields
from sollol_agents.requests.checking import checking_of, without_own
from sollol_bus.errors import BadRequest
from sollol_bus.sdk.answer_texts import text_of
from sollol_bus.sdk.checks import check_in, judge_of
from sollol_bus.sdk.escalation import Escalation
from sollol_schemas.context import RequestKind
from sollol_schemas.decision import Decision
from sollol_schemas.execution import Figures
from sollol_schemas.groups import MEMBERS_MAX
from sollol_schemas.routing import InvalidRouting, Routing, parse_routing

SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


def failure(check: object, text: str) -> str:
    return judge_of(check_in(check))(text)


@pytest.mark.parametrize(
    ("check", "good", "bad", "why"),
    [
        ({"json_schema": SCHEMA}, '{"n": 1}', '{"n": "secret"}', "it breaks the schema: type at $.n"),
        ({"json_schema": SCHEMA}, ' {"n": 1} ', "{}", "it breaks the schema: required at $"),
        ({"json_schema": SCHEMA}, '{"n": 1}', "certainly: {}", "it is not JSON"),
        ({"json_schema": {"$defs": {"a": SCHEMA}, "$ref": "#/$defs/a"}}, '{"n": 1}', "1", "type at $"),
        ({"regex": "^[0-9]+$"}, "123", "12a", "nothing in it matches"),
        ({"regex": "yes"}, "oh yes", "no", "nothing in it matches"),
        ('{"regex": "a"}', "a", "b", "nothing in it matches"),
    ],
)
def test_a_text_passes_or_fails_with_the_rule_that_it_breaks(check: object, good: str, bad: str, why: str) -> None:
    assert failure(check, good) == ""
    assert why in failure(check, bad)
    assert "secret" not in failure(check, bad)


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({}, "either"),
        ({"regex": "a", "json_schema": {}}, "either"),
        ({"rgex": "a"}, "rgex"),
        ({"regex": "("}, "regular expression"),
        ({"regex": "(?=a)"}, "look-around"),
        ({"regex": r"(a)\1"}, "back references"),
        ({"regex": "((a{1000}){1000}){1000}"}, "grow too large"),
        ({"regex": "a" * 1001}, "1000"),
        ({"json_schema": {"type": 3}}, "cannot be used"),
        ({"json_schema": {"$ref": "#"}}, "itself"),
        ({"json_schema": {"items": {"$ref": "#/items"}}}, "itself"),
        ({"json_schema": {"$ref": "http://elsewhere/schema"}}, "elsewhere"),
        ({"json_schema": {"$ref": "#/$defs/nothing"}}, "nothing at"),
        ({"json_schema": {"enum": ["x" * 20_000]}}, "larger"),
        ("{", "JSON"),
        (7, "object"),
    ],
)
def test_a_check_that_cannot_be_used_is_refused_with_what_is_wrong(check: object, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        judge_of(check_in(check))


def test_neither_expressions_nor_references_keep_a_process_busy() -> None:
    doubling = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {}}
    began = time.process_time()
    with pytest.raises(BadRequest, match="multiply"):
        judge_of(check_in({"json_schema": {"$defs": doubling, "$ref": "#/$defs/d0"}}))
    assert failure({"regex": "^(a+)+$"}, "a" * 100_000 + "b") != ""
    assert failure({"json_schema": {"pattern": "^(a|a)*$"}}, json.dumps("a" * 100_000 + "b")) != ""
    assert "longer" in failure({"regex": "a"}, "a" * (1 << 20) + "a")
    assert time.process_time() - began < 60  # not for ever


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("", {"response": "yes"}, "yes"),
        ("", {"message": {"content": "yes"}}, "yes"),
        ("", {"message": {"content": "", "tool_calls": [{"function": {"name": "f"}}]}}, None),
        ("/v1/chat/completions", {"choices": [{"message": {"content": "yes"}}]}, "yes"),
        ("/v1/chat/completions", {"choices": [{"message": {"content": None, "tool_calls": [{}]}}]}, None),
        ("/v1/completions", {"choices": [{"text": "yes"}]}, "yes"),
        ("/v1/responses", {"output": [{"content": [{"type": "output_text", "text": "yes"}]}]}, "yes"),
        ("/v1/responses", {"output": [{"type": "function_call"}]}, None),
        ("/v1/messages", {"content": [{"type": "text", "text": "yes"}]}, "yes"),
        ("/v1/messages", {"content": [{"type": "tool_use"}]}, None),
        ("/v1/messages", {"strange": 1}, None),
        ("/elsewhere", {"response": "yes"}, None),
    ],
)
def test_the_text_of_an_answer_stands_where_its_dialect_has_it(path: str, body: Any, text: str | None) -> None:
    assert text_of(path, json.dumps(body).encode()) == text


@pytest.mark.parametrize(
    ("path", "events"),
    [
        (
            "/v1/chat/completions",
            [{"choices": [{"delta": {"content": "y"}}]}, {"choices": [{"delta": {"content": "es"}}]}],
        ),
        ("/v1/completions", [{"choices": [{"text": "y"}]}, {"choices": [{"text": "es"}]}]),
        ("/v1/responses", [{"type": "response.output_text.delta", "delta": piece} for piece in ("y", "es")]),
        ("/v1/messages", [{"type": "content_block_delta", "delta": {"text": piece}} for piece in ("y", "es")]),
    ],
)
def test_the_text_of_a_stream_is_put_together(path: str, events: list[Any]) -> None:
    stream = "".join(f"event: e\ndata: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    assert text_of(path, stream.encode()) == "yes"


@pytest.mark.parametrize(
    ("kind", "path", "body"),
    [
        (RequestKind.GENERATE, "", {"format": SCHEMA}),
        (RequestKind.CHAT, "", {"format": "json"}),
        (RequestKind.PASSTHROUGH, "/v1/chat/completions", {"response_format": {"type": "json_object"}}),
        (
            RequestKind.PASSTHROUGH,
            "/v1/chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        ),
        (RequestKind.PASSTHROUGH, "/v1/responses", {"text": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
        (RequestKind.GENERATE, "", {"format": {"$ref": "#"}}),
    ],
)
def test_the_form_that_an_engine_is_asked_for_is_held_against_its_answer(
    kind: RequestKind, path: str, body: dict[str, Any]
) -> None:
    checking = checking_of(kind, path, read_fields(json.dumps(body).encode()), None)
    assert checking is not None
    assert not checking.is_explicit
    said = {"": {"response": "no idea"}, "/v1/responses": {"output": [{"content": [{"text": "no idea"}]}]}}
    answer = said.get(path, {"choices": [{"message": {"content": "no idea"}}]})
    assert checking.failure_of(json.dumps(answer).encode()) == "it is not JSON"


def test_a_check_leaves_the_body_before_anybody_else_sees_it() -> None:
    body = b'{"model":"m","check":{"regex":"a"},"prompt":"p"}'
    fields = read_fields(body)
    checking = checking_of(RequestKind.GENERATE, "", fields, None)
    assert checking is not None
    assert checking.is_explicit
    assert without_own(RequestKind.GENERATE, body, fields) == b'{"model":"m","prompt":"p"}'
    assert without_own(RequestKind.PASSTHROUGH, body, fields) == body
    assert checking_of(RequestKind.PASSTHROUGH, "/v1/completions", fields, None) is None
    with pytest.raises(BadRequest, match="embeddings"):
        checking_of(RequestKind.EMBED, "", fields, None)


def decision(model: str = "small", **fields: Any) -> Decision:
    return Decision(request_id="r", attempt_id="r-1", node_id="n", model=model, group="g", **fields)


def test_the_form_counts_in_groups_that_begin_with_the_smallest_and_a_check_in_all() -> None:
    by_form, by_name = Escalation(is_explicit=False), Escalation(is_explicit=True)
    assert not by_form.is_for(decision())
    assert by_form.is_for(decision(is_cheap_first=True))
    assert by_name.is_for(decision())
    assert by_name.is_for(None)


def test_another_model_is_asked_as_long_as_there_is_one() -> None:
    rules = Escalation(is_explicit=True, avoided=("old",))
    assert rules.may_hold(decision(alternatives=1))
    assert not rules.may_hold(decision())
    rules.note(decision(alternatives=1), Figures(prompt_tokens=3, output_tokens=5, actual_s=0.5), "bad")
    assert rules.avoid_models == ("old", "small")
    assert msgspec.to_builtins(rules.tried) == (
        {"model": "small", "why": "bad", "prompt_tokens": 3, "output_tokens": 5, "actual_s": 0.5},
    )
    for number in range(MEMBERS_MAX):
        rules.note(decision(f"m{number}"), None, "bad")
    assert not rules.has_next(decision(alternatives=9))


def test_the_last_answer_stands_when_the_next_model_brings_none() -> None:
    rules = Escalation(is_explicit=True)
    rules.note(decision("small"), None, "bad")
    rules.note(decision("middle"), None, "worse")
    rules.give_last("deadline_exceeded")
    assert [tried.model for tried in rules.tried] == ["small"]
    assert rules.failure == "worse; the next model: deadline_exceeded"


@pytest.mark.parametrize(
    ("body", "head"), [({"avoid_models": ["a:1", "b"]}, {}), ({}, {"X-Sollol-Avoid-Models": "a:1, b,"})]
)
def test_models_to_avoid_stand_in_a_body_or_a_header(body: dict[str, Any], head: dict[str, str]) -> None:
    assert parse_routing(body, head) == Routing(avoid_models=("a:1", "b"))


@pytest.mark.parametrize("names", [["x"] * 33, [1], [""], "x" * 5000, {"a": 1}])
def test_models_to_avoid_are_names_and_few(names: object) -> None:
    with pytest.raises(InvalidRouting):
        parse_routing({"avoid_models": names})
