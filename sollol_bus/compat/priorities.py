"""Priorities and modes as the documents name them, and requests in their words."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import Any, Final

from sollol_bus.errors import BadRequest
from sollol_bus.sdk.engine_options import OPTIONS
from sollol_schemas.nearest import did_you_mean
from sollol_schemas.routing import ROUTING_FIELDS, InvalidRouting, Routing, parse_routing

log = logging.getLogger(__name__)

_BODY: Final = frozenset(
    {
        *("model", "prompt", "messages", "input", "options", "system", "template", "context", "raw", "images", "tools"),
        *("format", "stream", "keep_alive", "suffix", "think", "logprobs", "top_logprobs", "truncate", "dimensions"),
        "max_tokens",
    }
)
"""Fields of Ollama's bodies."""
_OTHER_WORDS: Final = {"timeout": "deadline_s", "mode": "routing_mode"}
"""What callers say for a routing field."""
_KNOWN: Final = sorted(_BODY | OPTIONS | ROUTING_FIELDS | set(_OTHER_WORDS))


class TaskPriority(IntEnum):
    """Who goes first among those that wait."""

    URGENT = 10  # a user waits
    HIGH = 8  # important, and nobody is held up by it
    NORMAL = 5  # what a request has that says nothing
    LOW = 2  # in the background
    DEFERRED = 0  # when nothing else waits


def split(said: Mapping[str, object]) -> tuple[Routing, dict[str, object]]:
    """The routing, and the fields of the engine's body, in the keywords of one request.

    A name that neither the fleet nor an engine knows is logged with the nearest one that is known, and goes to the
    engine all the same.

    Raises:
        BadRequest: A value cannot be used.
    """
    wanted: dict[str, object] = {}
    fields: dict[str, object] = {}
    for given, value in said.items():
        name = _OTHER_WORDS.get(given, given)
        if name in ROUTING_FIELDS:
            wanted[name] = value.value if isinstance(value, Enum) else value
        else:
            fields[name] = value
            if name not in _BODY and name not in OPTIONS:
                _wonder(name)
    if not wanted.get("min_success_rate"):
        wanted.pop("min_success_rate", None)  # 0.0 asks for nothing there, and would switch our own floor off
    for name in ("routing_mode", "priority"):
        if isinstance(text := wanted.get(name), str):
            wanted[name] = text.strip().lower()
    try:
        return parse_routing(wanted), fields
    except InvalidRouting as error:
        raise BadRequest(str(error)) from error


def _wonder(name: str) -> None:
    log.warning(
        "neither an engine nor the fleet knows %r%s; it is passed on as it is",
        name,
        did_you_mean(name, _KNOWN),
        extra={"action": "unknown_keyword"},
    )


def without_stream(fields: dict[str, object]) -> dict[str, object]:
    """The fields of a request whose answer is wanted whole.

    Raises:
        BadRequest: It asks for a stream.
    """
    if fields.pop("stream", False):
        raise BadRequest("stream=True: use generate_stream() or chat_stream()")
    return fields


def as_priority(value: Any) -> int | str | None:  # noqa: ANN401 documents give numbers, names and members alike
    """A priority as jobs take it."""
    if isinstance(value, Enum):
        return int(value.value)
    return value.strip().lower() if isinstance(value, str) else value
