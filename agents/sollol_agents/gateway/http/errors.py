"""The three dialects of HTTP clients: how each says an error, before the answer and in the middle of it."""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

import msgspec

from sollol_agents.gateway.http.names import FROM_THE_DOOR, INVALID_NAME, with_names_told
from sollol_agents.requests.dialects import Dialect
from sollol_agents.requests.ollama.gojson import write
from sollol_schemas.errors import COME_AGAIN_S, ErrorBody, ErrorCode

JSON: Final = b"application/json; charset=utf-8"
PLAIN_JSON: Final = b"application/json"
NDJSON: Final = b"application/x-ndjson"
EVENTS: Final = b"text/event-stream"
TEXT: Final = b"text/plain"
NOT_FOUND: Final = b"404 page not found"

Header = tuple[bytes, bytes]
EVENT_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-type", EVENTS),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


_OPENAI_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES: Final = _OPENAI_TYPES | {413: "request_too_large", 503: "overloaded_error", 504: "timeout_error"}

_TYPE: Final = re.compile(r"(application/json|text/plain)(; ?charset=[\w-]+)?", re.IGNORECASE)
"""Kinds that a browser makes nothing of."""
_SAID_BEHIND_DOOR: Final = ("/v1/chat/completions", "model is required")
_TOLD_BESIDE: Final = ("models", "nodes", "not_resumed")
"""Details that every client gets: known models, why each node fell out, why an answer did not go on elsewhere."""
_ENGINES_CODES: Final = (ErrorCode.BAD_REQUEST, ErrorCode.UNKNOWN_MODEL, ErrorCode.ENGINE_REJECTED)
"""Errors that Ollama itself has, and gives no code."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An error as an HTTP answer."""

    status: int
    headers: tuple[Header, ...]
    body: bytes


def refusal(dialect: Dialect, error: ErrorBody, path: str = "") -> Refusal:
    """The answer to a request that failed before a byte of it was sent."""
    error = while_nodes_vanish(with_names_told(error, path))
    if FROM_THE_DOOR in error.details:
        dialect = Dialect.OLLAMA
    status = error.http_status
    said = _engines_own(dialect, error)
    if said is not None:
        body, kind = said, _type_of(dialect, error, said)
    else:
        body, kind = write(error_object(dialect, error, path)), JSON
        if dialect is not Dialect.OLLAMA and not _is_at_door(error, path):
            body, kind = body + b"\n", PLAIN_JSON
    return Refusal(status=status, headers=((b"content-type", kind), *retry_headers(error)), body=body)


def _type_of(dialect: Dialect, error: ErrorBody, body: bytes) -> bytes:
    """The content type of an engine's own words: what the engine said, where that is known."""
    told = error.details.get("engine_type")
    if isinstance(told, str) and _TYPE.fullmatch(told):
        return told.encode()
    if body[:1] != b"{":
        return TEXT
    return JSON if dialect is Dialect.OLLAMA else PLAIN_JSON


def _is_at_door(error: ErrorBody, path: str) -> bool:
    """Whether Ollama says it before a path of `/v1` has its word, which writes its answers otherwise."""
    is_behind = (path, error.message) == _SAID_BEHIND_DOOR or error.message == INVALID_NAME
    return error.code is ErrorCode.BAD_REQUEST and not is_behind


def while_nodes_vanish(error: ErrorBody) -> ErrorBody:
    """A plea to come back in place of a failure, when nodes are gone that the scorer still counted on."""
    lost = error.code is ErrorCode.ATTEMPTS_EXHAUSTED and (
        error.details.get("last_code") == ErrorCode.NODE_LOST or error.retry_after_s > 0
    )
    tried = error.details.get("nodes")
    if not lost or not isinstance(tried, list):
        return error
    reasons = dict.fromkeys(map(str, tried), "failed this request")
    after_s = error.retry_after_s or COME_AGAIN_S[ErrorCode.NO_NODES]
    details = error.details | {"nodes": reasons, "retry_after_s": after_s}
    return msgspec.structs.replace(error, status=503, details=details)


def retry_headers(error: ErrorBody) -> list[Header]:
    """Whether and when to try again; false where other nodes have been tried already."""
    if error.retry_after:
        return [(b"retry-after", b"%d" % error.retry_after), (b"x-should-retry", b"true")]
    return [(b"x-should-retry", b"false")] if error.http_status >= 400 else []


def error_object(dialect: Dialect, error: ErrorBody, path: str = "") -> dict[str, Any]:
    """The body of an error in a dialect's own form; beside the text stand `_TOLD_BESIDE`, where there are any."""
    error = with_names_told(error, path)
    text = error.message
    more = {name: error.details[name] for name in _TOLD_BESIDE if error.details.get(name)}
    if dialect is Dialect.OLLAMA:
        return {"error": text, **more}
    if dialect is Dialect.ANTHROPIC:
        kind = _ANTHROPIC_TYPES.get(error.http_status, "api_error")
        said = {"type": kind, "message": text, **more}
        return {"type": "error", "error": said, "request_id": f"req_{secrets.token_hex(12)}"}
    kind = _OPENAI_TYPES.get(error.http_status, "api_error")
    code = None if error.code in _ENGINES_CODES else error.code
    return {"error": {"message": text, "type": kind, "param": error.details.get("field"), "code": code, **more}}


def error_in_stream(dialect: Dialect, error: ErrorBody, path: str = "") -> bytes:
    """The last words of an answer that broke off: a line, or an event."""
    said = write(error_object(dialect, error, path))
    if dialect is Dialect.OLLAMA:
        return said + b"\n"
    if dialect is Dialect.ANTHROPIC:
        return b"event: error\ndata: " + said + b"\n\n"
    if path.startswith("/v1/responses"):
        event = {"type": "error", "code": error.code, "message": error.message, "param": None, "sequence_number": 0}
        why = error.details.get("not_resumed")
        return b"event: error\ndata: " + write(event | ({"not_resumed": why} if why else {})) + b"\n\n"
    return b"data: " + said + b"\n\n"


def waiting_event(dialect: Dialect) -> bytes:
    """What keeps an event stream alive while nothing is known yet."""
    return b'event: ping\ndata: {"type":"ping"}\n\n' if dialect is Dialect.ANTHROPIC else b": waiting\n\n"


def _engines_own(dialect: Dialect, error: ErrorBody) -> bytes | None:
    """The body with which an engine refused, when it is in the client's dialect already."""
    text = error.details.get("engine_body")
    is_engines = error.code in (ErrorCode.ENGINE_REJECTED, ErrorCode.UNKNOWN_MODEL) or error.status > 0
    if not isinstance(text, str) or not is_engines:
        return None
    body = text.encode()
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body if error.http_status in (404, 405) and text.isprintable() else None
    inner = said.get("error") if isinstance(said, dict) else None
    match dialect:
        case Dialect.OLLAMA:
            return body if isinstance(inner, str) else None
        case Dialect.ANTHROPIC:
            return body if isinstance(inner, dict) and said.get("type") == "error" else None
        case _:
            return body if isinstance(inner, dict) else None
