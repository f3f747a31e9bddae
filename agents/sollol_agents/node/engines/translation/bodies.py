"""Bodies of callers as Ollama reads them, and how what cannot be honoured is refused. Pure."""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

import msgspec

from sollol_agents.node.engines.refusals import engine_error
from sollol_agents.requests.ollama.fields import read_keep_alive
from sollol_agents.requests.ollama.gojson import BodyError
from sollol_bus.errors import SollolError
from sollol_schemas.errors import ErrorCode

Fields = dict[str, Any]

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def unsupported(field: str, why: str = "") -> SollolError:
    """The refusal of a field that this engine cannot honour."""
    text = f"this engine cannot honour the field {field!r}{f': {why}' if why else ''}"
    return engine_error(ErrorCode.UNSUPPORTED_FIELD, text, details={"field": field})


def malformed(message: str) -> SollolError:
    """The refusal of what no engine could read; the caller's fault."""
    return engine_error(ErrorCode.BAD_REQUEST, message)


def fields_of(body: bytes) -> Fields:
    """The fields of a body that say something; halves of surrogate pairs and bad UTF-8 become U+FFFD, as in Ollama.

    Raises:
        BadRequest: It is no JSON object.
    """
    try:
        fields = msgspec.json.decode(body, type=Fields)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        fields = _repaired(body, error)
    return {name: value for name, value in fields.items() if value is not None}


def is_unload(fields: Fields) -> bool:
    """Whether a body without a prompt asks that the model go, by a `keep_alive` of nothing."""
    try:
        return "keep_alive" in fields and read_keep_alive(fields["keep_alive"]) == 0
    except (BodyError, KeyError):  # an odd one asks for nothing
        return False


def _repaired(body: bytes, error: Exception) -> Fields:
    """The fields of a body whose texts alone are at fault: the strict decoder takes no half of a surrogate pair."""
    try:
        value = json.loads(body.decode(errors="replace"), parse_constant=_no_constant)
        text = json.dumps(value, ensure_ascii=False)
        return msgspec.json.decode(_LONE_SURROGATE.sub("\ufffd", text), type=Fields)
    except (ValueError, RecursionError, msgspec.DecodeError):
        raise malformed(f"the body is not a JSON object: {error}") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def whole(value: Any) -> Any:  # noqa: ANN401 from the body
    """A whole float as the integer that it is; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
