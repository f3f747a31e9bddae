"""What Ollama's paths say to a name that no node knows. Pure.

A name is judged by Ollama's grammar only after no node was found to know it: other engines give their models names
that Ollama would not take.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from sollol_agents.requests.names import is_of_cloud, is_valid, tagged
from sollol_schemas.errors import ErrorBody, ErrorCode

INVALID_NAME: Final = "invalid model name"
FROM_THE_DOOR: Final = "from_the_door"
"""Set in the details of what Ollama says before it knows the dialect: its own form serves them all."""
_MISSING_IS_UNKNOWN: Final = frozenset({"/api/generate", "/api/embed", "/v1/completions", "/v1/embeddings"})
_TELLING: Final = re.compile(r"/api/show|/v1/models/.*", re.DOTALL)
_EMBEDDING: Final = re.compile(r"/(api/embed|api/embeddings|v1/embeddings)$")


def unknown_name(path: str, model: str) -> ErrorBody:
    """Why there is no model of that name on a path."""
    if not model and path not in _MISSING_IS_UNKNOWN:
        return ErrorBody(code=ErrorCode.BAD_REQUEST, message="model is required")
    if is_of_cloud(model):
        what = "remote model details are" if _TELLING.fullmatch(path) else "remote model is"
        message = f"ollama cloud is disabled: {what} unavailable"
        return ErrorBody(code=ErrorCode.FORBIDDEN, message=message, details={FROM_THE_DOOR: True})
    if model and not is_valid(model.strip()):
        return ErrorBody(code=ErrorCode.BAD_REQUEST, message=INVALID_NAME)
    return ErrorBody(code=ErrorCode.UNKNOWN_MODEL, message=_not_found(path, model))


def with_names_told(error: ErrorBody, path: str) -> ErrorBody:
    """An error about a name as the path tells it; what exists stays beside it, any other error as it is."""
    model = error.details.get("model")
    if error.code is not ErrorCode.UNKNOWN_MODEL or not isinstance(model, str) or error.details.get("group"):
        return error
    told = unknown_name(path, model)
    known: dict[str, Any] = {"models": error.details["models"]} if error.details.get("models") else {}
    return msgspec.structs.replace(told, details=told.details | known)


def _not_found(path: str, model: str) -> str:
    if model and _EMBEDDING.search(path):
        return f'model "{model}" not found, try pulling it first'
    return f"model '{tagged(model) if path == '/api/show' else model}' not found"
