"""What an engine's refusal means: pure functions from HTTP statuses and bodies to our errors."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sollol_bus.errors import SollolError, error_from
from sollol_schemas.errors import ErrorBody, ErrorCode

_TEXT_MAX: Final = 2_000
_BODY_MAX: Final = 8_192
_BUSY_WORDS: Final = ("busy", "loading", "slot", "overloaded", "unavailable_error", "capacity")
_LOAD_WORDS: Final = (
    "failed to load",
    "unable to load",
    "error loading model",
    "runner process has terminated",
    "more system memory",
    "out of memory",
    "timed out waiting for",
    "failed to allocate",
)


_CAME_ROUND: Final = 508
_NO_ENGINE: Final = "a gateway of this node's own fleet is no engine"
_LEADS_BACK: Final = "leads_back"


class _OpenAIError(msgspec.Struct):
    message: str = ""
    type: str = ""


class _ErrorBody(msgspec.Struct):
    error: str | _OpenAIError | None = None
    message: str = ""
    detail: Any = None


def engine_error(
    code: ErrorCode, message: str, *, status: int = 0, details: dict[str, str] | None = None
) -> SollolError:
    """An error of ours about an engine."""
    return error_from(ErrorBody(code=code, message=message, status=status, details=dict(details or {})))


def error_text(body: bytes) -> str:
    """What an engine's error body says, as text; empty when it says nothing readable."""
    try:
        parsed = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _plain(body)
    text = parsed.error.message if isinstance(parsed.error, _OpenAIError) else parsed.error
    if not text:
        text = parsed.message or (str(parsed.detail) if parsed.detail else "")
    return text[:_TEXT_MAX]


def said_of_models(status: int, body: bytes, content_type: str) -> SollolError:
    """The error for a refused question about an engine's models: its own words with its own status.

    Nothing is decided here about the engine's health, so that its 500 for a wrong body stays a 500.
    """
    if not body or status == 401:
        return refusal(status, body)
    text = error_text(body) or f"HTTP {status} without a message"
    return engine_error(ErrorCode.ENGINE_REJECTED, text, status=status, details=_own_words(body, content_type))


def refusal(status: int, body: bytes, model: str = "", content_type: str = "") -> SollolError:
    """The error for an answer with a status other than 2xx.

    4xx is the request's fault and keeps the engine's own status, except where the node is at fault (credentials)
    or the engine is merely busy. 501 is what engines answer when a model cannot do what was asked.
    """
    text = error_text(body)
    if status == _CAME_ROUND:
        return engine_error(ErrorCode.ENGINE_FAILED, f"{_NO_ENGINE}: {text}", details={_LEADS_BACK: "true"})
    said = text or f"HTTP {status} without a message"
    details = _own_words(body, content_type) if body else {}
    code = _code(status, text.lower(), body)
    if code is ErrorCode.UNKNOWN_MODEL:
        return engine_error(code, text or f"model {model!r} not found", details=details)
    if code is ErrorCode.ENGINE_REJECTED:
        return engine_error(code, said, status=status, details=details)
    if status in (401, 403):
        said = f"the engine refused this node's credentials or Host header (HTTP {status})"
    return engine_error(code, said, details=details)


def leads_back(error: SollolError) -> bool:
    """Whether what answered in place of an engine leads back to the node that asked."""
    return _LEADS_BACK in error.body.details


def _own_words(body: bytes, content_type: str) -> dict[str, str]:
    return {"engine_body": body[:_BODY_MAX].decode("utf-8", "replace"), "engine_type": content_type}


def _code(status: int, text: str, body: bytes) -> ErrorCode:
    if status == 404 and "model" in text:
        return ErrorCode.UNKNOWN_MODEL
    if status == 429 or (status == 503 and any(word in text for word in _BUSY_WORDS)):
        return ErrorCode.BUSY
    is_own_fault = status in (401, 407, 408) or (status == 403 and not body)
    if (400 <= status < 500 or status == 501) and not is_own_fault:
        return ErrorCode.ENGINE_REJECTED
    if status == 503:
        return ErrorCode.ENGINE_UNAVAILABLE
    return ErrorCode.ENGINE_PROTOCOL if status < 400 else failure_code(text)


def failure_code(text: str) -> ErrorCode:
    """Whether an engine's error text tells of a failed load or of another failure."""
    lowered = text.lower()
    is_load = any(word in lowered for word in _LOAD_WORDS)
    return ErrorCode.LOAD_FAILED if is_load else ErrorCode.ENGINE_FAILED


def _plain(body: bytes) -> str:
    text = body[:_TEXT_MAX].decode("utf-8", "replace").strip()
    return "" if text.startswith("<") or not text.isprintable() else text
