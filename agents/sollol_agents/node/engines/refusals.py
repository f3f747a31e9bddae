"""What an engine's refusal becomes: pure functions from HTTP statuses and bodies to our errors."""

from __future__ import annotations

from typing import Any, Final

from sollol_agents.requests.faults import Fault, fault_of, is_gone, said
from sollol_bus.errors import SollolError, error_from
from sollol_schemas.errors import ErrorBody, ErrorCode, Lack, Owner

_BODY_MAX: Final = 8_192
_CAME_ROUND: Final = 508
_NO_ENGINE: Final = "a gateway of this node's own fleet is no engine"
_NO_PAGE: Final = "page not found"
_LEADS_BACK: Final = "leads_back"
_COMES_BACK_S: Final = 2.0
"""After so long an engine whose process ended is worth another try."""


def broken_off(message: str) -> SollolError:
    """The error for an answer that ends before its end: the engine's doing, whatever was asked."""
    return engine_error(ErrorCode.ENGINE_PROTOCOL, message, owner=Owner.ENGINE)


def engine_error(
    code: ErrorCode,
    message: str,
    *,
    status: int = 0,
    details: dict[str, Any] | None = None,
    owner: Owner | None = None,
    lack: Lack | None = None,
) -> SollolError:
    """An error of ours about an engine."""
    if code is ErrorCode.UNSUPPORTED_FIELD:
        lack = lack or Lack.FIELD
    body = ErrorBody(code=code, message=message, status=status, details=dict(details or {}), owner=owner, lack=lack)
    return error_from(body)


def said_of_models(status: int, body: bytes, content_type: str) -> SollolError:
    """The error for a refused question about an engine's models: its own words with its own status.

    Nothing is decided here about the engine's health, so that its 500 for a wrong body stays a 500.
    """
    if not body or status == 401:
        return refusal(status, body)
    text = said(body) or f"HTTP {status} without a message"
    return engine_error(ErrorCode.ENGINE_REJECTED, text, status=status, details=_own_words(body, content_type))


def refusal(status: int, body: bytes, model: str = "", content_type: str = "", path: str = "") -> SollolError:
    """The error for an answer with a status other than 2xx.

    What is the request's fault keeps the engine's own status; so does, in its details, what is not clear.
    """
    text = said(body)
    if status == _CAME_ROUND:
        why = f"{_NO_ENGINE}: {text}"
        return engine_error(ErrorCode.ENGINE_FAILED, why, details={_LEADS_BACK: "true"}, owner=Owner.NODE)
    fault = fault_of(status, text)
    details: dict[str, Any] = {"engine_status": status}
    if body:
        details |= _own_words(body, content_type)
    if path and _NO_PAGE in text:
        text = f"{text}: the engine has no {path}"
    if fault.code is ErrorCode.ENGINE_REJECTED:
        return _error(fault, text or f"HTTP {status} without a message", details, status=status)
    return _error(fault, _message(fault, status, text, model), details | _return(text))


def failure(text: str) -> SollolError:
    """The error that an engine reports in the middle of an answer."""
    return _error(fault_of(500, text), text, _return(text))


def leads_back(error: SollolError) -> bool:
    """Whether what answered in place of an engine leads back to the node that asked."""
    return _LEADS_BACK in error.body.details


def _own_words(body: bytes, content_type: str) -> dict[str, str]:
    return {"engine_body": body[:_BODY_MAX].decode("utf-8", "replace"), "engine_type": content_type}


def _error(fault: Fault, message: str, details: dict[str, Any], *, status: int = 0) -> SollolError:
    return engine_error(fault.code, message, status=status, details=details, owner=fault.owner, lack=fault.lack)


def _message(fault: Fault, status: int, text: str, model: str) -> str:
    if fault.owner is Owner.NODE:
        return f"the engine refused this node's credentials or Host header (HTTP {status})"
    if fault.owner is Owner.PATH and status < 400:
        return f"the engine has this path under another name (HTTP {status})"
    if fault.code is ErrorCode.BUSY:
        return f"the engine is busy or loading (HTTP {status})"
    if fault.code is ErrorCode.UNKNOWN_MODEL:
        return text or f"model {model!r} not found"
    return text or f"HTTP {status} without a message"


def _return(text: str) -> dict[str, Any]:
    """When the engine is back, where it says that what ran the model is gone."""
    return {"retry_after_s": _COMES_BACK_S} if is_gone(text) else {}
