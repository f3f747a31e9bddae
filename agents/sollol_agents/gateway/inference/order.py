"""Which of several faults of a request is told: the one that Ollama would have found first. Pure."""

from __future__ import annotations

from sollol_agents.requests.ollama.bodies import OF_PATH
from sollol_agents.requests.ollama.gojson import BodyError
from sollol_agents.requests.ollama.order import NAMELESS_IS_UNKNOWN, NO_MODEL, check_before_model
from sollol_bus.errors import BadRequest, SollolError, error_from
from sollol_schemas.errors import ErrorBody, ErrorCode


def nameless(path: str, body: bytes) -> SollolError:
    """The error of a request that names no model."""
    if path in NAMELESS_IS_UNKNOWN:
        text = "model '' not found"
        return _after_the_body(path, body, error_from(ErrorBody(code=ErrorCode.UNKNOWN_MODEL, message=text)))
    return _after_the_body(path, body, BadRequest(NO_MODEL))


def first_fault(path: str, body: bytes, error: SollolError) -> SollolError:
    """The error of a request; what is wrong with its body comes before its model where no engine has read it.

    That is one for a model that is not to be found, and one that was refused since no model can do it.
    """
    is_unread = error.body.code is ErrorCode.UNKNOWN_MODEL or "lacks" in error.body.details
    return _after_the_body(path, body, error) if is_unread else error


def _after_the_body(path: str, body: bytes, error: SollolError) -> SollolError:
    if path not in OF_PATH:
        return error
    try:
        check_before_model(path, body)
    except BodyError as fault:
        return BadRequest(str(fault))
    return error
