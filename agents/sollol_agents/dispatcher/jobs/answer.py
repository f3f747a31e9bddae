"""One answer out of the chunks of a stream. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from sollol_bus.errors import DecodeFailed
from sollol_bus.transport.messages import decode, encode
from sollol_schemas.context import RequestKind


class Incomplete(ValueError):
    """The chunks are not a whole answer."""


def whole_answer(kind: RequestKind, chunks: list[bytes]) -> bytes:
    """The engine's answer as one JSON value, as if it had not been streamed.

    Args:
        kind: What was asked.
        chunks: The data messages, in order.

    Raises:
        Incomplete: There are none, one is not JSON, or the engine's last object is missing.
    """
    if not chunks:
        raise Incomplete("the answer is empty")
    if kind in (RequestKind.EMBED, RequestKind.PASSTHROUGH):
        return _json_or_text(b"".join(chunks), is_text_allowed=kind is RequestKind.PASSTHROUGH)
    try:
        objects = [decode(chunk, dict[str, Any]) for chunk in chunks]
    except DecodeFailed as error:
        raise Incomplete(str(error)) from error
    last = objects[-1]
    if not last.get("done"):
        raise Incomplete("the engine's last object is missing")
    if len(objects) == 1:
        return chunks[0]
    return encode(_merged_chat(objects) if kind is RequestKind.CHAT else _merged_text(objects))


def _merged_text(objects: list[dict[str, Any]]) -> dict[str, Any]:
    merged = dict(objects[-1])
    for name in ("response", "thinking"):
        text = "".join(str(o.get(name) or "") for o in objects)
        if text or name in merged:
            merged[name] = text
    return merged


def _merged_chat(objects: list[dict[str, Any]]) -> dict[str, Any]:
    messages = [m for m in (o.get("message") for o in objects) if isinstance(m, dict)]
    whole: dict[str, Any] = dict(messages[-1]) if messages else {}
    for name in ("content", "thinking"):
        text = "".join(str(m.get(name) or "") for m in messages)
        if text or name in whole:
            whole[name] = text
    calls = [call for m in messages for call in m.get("tool_calls") or ()]
    if calls:
        whole["tool_calls"] = calls
    return {**objects[-1], "message": whole}


def _json_or_text(data: bytes, *, is_text_allowed: bool) -> bytes:
    """The data itself when it is JSON; text such as an event stream becomes a JSON string."""
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not is_text_allowed:
            raise Incomplete(f"the answer is not JSON: {error}") from error
        return encode(data.decode(errors="replace"))
    return data
