"""What is held against a check: the form that a request itself asks for, and the text of an answer. Pure.

Every dialect has its own places for both; a stream of events is read as the whole that it makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from sollol_bus.errors import BadRequest
from sollol_bus.sdk.checks import Judge, json_judge, schema_judge
from sollol_schemas.context import RequestKind

_WRONG: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Value = Any


def asked_form(kind: RequestKind, path: str, fields: Mapping[str, msgspec.Raw]) -> Judge | None:
    """Holds answers against the form that the request's own body asks its engine for; None: it asks for none.

    A schema that cannot be used here only asks for JSON: the engine has its own word on it.
    """
    match kind, path:
        case ((RequestKind.GENERATE | RequestKind.CHAT), _):
            form = _value(fields.get("format"))
            return json_judge if form == "json" else _by_schema(form)
        case RequestKind.PASSTHROUGH, ("/v1/chat/completions" | "/v1/completions"):
            form = _value(fields.get("response_format"))
            return _openai_form(form, _at(form, "json_schema", "schema"))
        case RequestKind.PASSTHROUGH, "/v1/responses":
            form = _at(_value(fields.get("text")), "format")
            return _openai_form(form, _at(form, "schema"))
    return None


def _openai_form(form: Value, schema: Value) -> Judge | None:
    match _at(form, "type"):
        case "json_object":
            return json_judge
        case "json_schema":
            return _by_schema(schema) or json_judge
    return None


def _by_schema(schema: Value) -> Judge | None:
    if not isinstance(schema, dict) or not schema:
        return None
    try:
        return schema_judge(schema)
    except BadRequest:
        return json_judge


def text_of(path: str, body: bytes) -> str | None:
    """The text of an answer; None where it has none to be checked: it calls tools, or is of no known form.

    Args:
        path: The engine's, without a query; empty for an answer in Ollama's words.
        body: The whole answer, or the events of a stream.
    """
    objects = list(_events(body)) if body.lstrip()[:6] in (b"event:", b"data: ", b": ping") else [_value(body)]
    pieces = [_piece(path, one) for one in objects]
    if any(has_tools for _, has_tools in pieces):
        return None
    texts = [text for text, _ in pieces if text is not None]
    return "".join(texts) if texts else None


def _piece(path: str, one: Value) -> tuple[str | None, bool]:
    """The text of one object, and whether tools are called in it."""
    match path:
        case "":
            text = _at(one, "response")
            text = text if isinstance(text, str) else _at(one, "message", "content")
            tools = _at(one, "tool_calls") or _at(one, "message", "tool_calls")
        case "/v1/chat/completions":
            said = _at(one, "choices", 0, "message") or _at(one, "choices", 0, "delta")
            text, tools = _at(said, "content"), _at(said, "tool_calls")
        case "/v1/completions":
            text, tools = _at(one, "choices", 0, "text"), None
        case "/v1/responses":
            text, tools = _of_responses(one)
        case "/v1/messages":
            text, tools = _of_messages(one)
        case _:
            return None, False
    return (text if isinstance(text, str) else None), bool(tools)


def _of_responses(one: Value) -> tuple[Value, Value]:
    if _at(one, "type") == "response.output_text.delta":
        return _at(one, "delta"), None
    output = _at(one, "output")
    if not isinstance(output, list):
        return None, _at(one, "item", "type") == "function_call"
    parts = (part for item in output for part in _listed(_at(item, "content")))
    return _joined(parts), any(_at(item, "type") == "function_call" for item in output)


def _of_messages(one: Value) -> tuple[Value, Value]:
    if _at(one, "type") == "content_block_delta":
        return _at(one, "delta", "text"), None
    parts = _listed(_at(one, "content"))
    has_tools = [_at(part, "type") == "tool_use" for part in (*parts, _at(one, "content_block"))]
    return _joined(parts), any(has_tools)


def _joined(parts: Iterable[Value]) -> str | None:
    texts = [text for part in parts if isinstance(text := _at(part, "text"), str)]
    return "".join(texts) if texts else None


def _events(stream: bytes) -> Iterator[Value]:
    for line in stream.splitlines():
        if line.startswith(b"data:"):
            yield _value(line[5:].strip())


def _value(raw: bytes | msgspec.Raw | None) -> Value:
    try:
        return msgspec.json.decode(raw) if raw else None
    except _WRONG:
        return None


def _at(value: Value, *way: str | int) -> Value:
    """What lies there; None where nothing does."""
    for step in way:
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value[step] if isinstance(value, list) and len(value) > step else None
    return value


def _listed(value: Value) -> list[Value]:
    return value if isinstance(value, list) else []
