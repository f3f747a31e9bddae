"""Messages as they are stored: without what is at its default, and with no more digits than anybody reads."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)
_PLAIN = frozenset({bool, int, str, type(None)})
"""Values of these kinds are the very default where they equal it, as far as that is a small one, and are not cut."""


def slim(message: T, digits: int) -> T:
    """The message with its floats rounded to so many decimals; what then equals its default is left out when encoded.

    Messages inside it, and in tuples, are treated alike. `omit_defaults` alone leaves out the very object that is the
    default, so that a time of 0.0 that was worked out is written.
    """
    changes: dict[str, Any] = {}
    for name, default in _defaults(type(message)):
        value = getattr(message, name)
        if value is default or type(value) in _PLAIN:
            continue
        kept = _slim(value, digits)
        if kept == default and type(kept) is type(default):
            kept = default
        if kept is not value:
            changes[name] = kept
    return msgspec.structs.replace(message, **changes) if changes else message


def _slim(value: Any, digits: int) -> Any:  # noqa: ANN401 whatever a field holds
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, msgspec.Struct):
        return slim(value, digits)
    if isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct):
        return tuple(slim(one, digits) for one in value)
    return value


@cache
def _defaults(kind: type[msgspec.Struct]) -> tuple[tuple[str, Any], ...]:
    """Every field with the very object that is its default; one that must be given has none."""
    return tuple((field.name, field.default) for field in msgspec.structs.fields(kind))
