"""One answer out of the chunks of a stream, as if the engine had not streamed. Pure.

Texts and lists that come piece by piece are put together; of everything else the last word counts, in the engine's
own bytes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sollol_bus.errors import BackendBrokeProtocol
from sollol_bus.transport.joined import objects_in
from sollol_schemas.context import RequestKind

_TEXTS: Final = ("content", "response", "thinking")
_LISTS: Final = ("tool_calls", "logprobs")
_LAST: Final = ("tool_calls", "logprobs")
"""What Ollama writes behind the figures of a whole answer."""
_RENDERED: Final = "_debug_info"
"""Set where nothing but the prompt was asked for: that answer never streams."""
_INVALID: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw] | None)
_encode = msgspec.json.Encoder().encode


def joined(kind: RequestKind, chunks: list[bytes]) -> bytes:
    """The engine's answer as one JSON value.

    Args:
        kind: What was asked.
        chunks: What came, in order; of a native stream one object each, or one on each line.

    Raises:
        BackendBrokeProtocol: There are none, one is no object of Ollama's, or the engine's last object is missing.
    """
    if not chunks:
        raise BackendBrokeProtocol("the answer is empty")
    if kind in (RequestKind.EMBED, RequestKind.PASSTHROUGH):
        return _json_or_text(b"".join(chunks), is_text_allowed=kind is RequestKind.PASSTHROUGH)
    try:
        objects = [_fields.decode(one) for chunk in chunks for one in objects_in(chunk)]
        if len(objects) == 1 and _RENDERED in objects[0]:
            return chunks[0]
        if bytes(objects[-1].get("done", b"")) != b"true":
            raise BackendBrokeProtocol("the engine's last object is missing")
        if len(objects) == 1:
            return chunks[0]
        return _encode(_whole(objects))
    except _INVALID as error:
        raise BackendBrokeProtocol(f"not an engine's answer: {error}") from error


def so_far(chunks: list[bytes]) -> bytes:
    """The native objects that have come until now as one, whether or not the engine's last is among them."""
    return chunks[0] if len(chunks) == 1 else _encode(_whole([_fields.decode(chunk) for chunk in chunks]))


def _whole(objects: list[dict[str, msgspec.Raw]]) -> dict[str, Any]:
    whole = _together(objects)
    whole |= {name: whole.pop(name) for name in _LAST if name in whole}
    if "message" in whole:
        messages = [_fields.decode(one["message"]) for one in objects if "message" in one]
        whole["message"] = {"role": "assistant", **_together(messages)}
    return whole


def _together(objects: list[dict[str, msgspec.Raw]]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for one in objects:
        whole |= one
    for name in whole.keys() & set(_TEXTS):
        whole[name] = _text_of([bytes(one[name]) for one in objects if name in one])
    for name in whole.keys() & set(_LISTS):
        whole[name] = [item for one in objects if name in one for item in _list.decode(one[name]) or ()]
    return whole


def _text_of(pieces: list[bytes]) -> msgspec.Raw:
    """One JSON text of several, in the engine's own escapes; a null is no text."""
    texts = [piece for piece in pieces if piece != b"null"]
    if not all(piece.startswith(b'"') for piece in texts):
        raise BackendBrokeProtocol("not an engine's answer: a piece of text is none")
    return msgspec.Raw(b'"%b"' % b"".join([piece[1:-1] for piece in texts]))


def _json_or_text(data: bytes, *, is_text_allowed: bool) -> bytes:
    """The data itself when it is JSON; text such as an event stream becomes a JSON string."""
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except _INVALID as error:
        if not is_text_allowed:
            raise BackendBrokeProtocol(f"the answer is not JSON: {error}") from error
        return _encode(data.decode(errors="replace"))
    return data
