"""Messages as they are stored: without what is at its default, and with no more digits than anybody reads."""

from __future__ import annotations

from enum import Enum
from functools import cache
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec

T = TypeVar("T", bound=msgspec.Struct)
_PLAIN = (bool, int, str, NoneType, Enum)
"""Values of these kinds are the very default where they equal it, as far as that is a small one, and are not cut."""

_SCALES = tuple(10.0**digits for digits in range(8))
_LARGE = 1e9


def slim(message: T, digits: int, **changes: Any) -> T:  # noqa: ANN401 fields by name
    """The message with its floats rounded to so many decimals; what then equals its default is left out when encoded.

    `changes` are made, too.

    Messages inside it, and in tuples, are treated alike. `omit_defaults` alone leaves out the very object that is the
    default, so that a time of 0.0 that was worked out is written.
    """
    scale = _SCALES[digits]
    for name, default in _looked_at(type(message)):
        value = getattr(message, name)
        if value is default:
            continue
        if type(value) is float:
            kept = round(value * scale) / scale if -_LARGE < value < _LARGE else value  # as `rounded`
            changes[name] = default if kept == default else kept
        elif (kept := _slim(value, digits)) is not value or kept == default:
            changes[name] = default if kept == default else kept
    return msgspec.structs.replace(message, **changes) if changes else message


def rounded(value: float, digits: int) -> float:
    """As `round` would, except halves of the last digit, and three times as fast; each decision has dozens."""
    scale = _SCALES[digits]
    return round(value * scale) / scale if -_LARGE < value < _LARGE else value


def _slim(value: Any, digits: int) -> Any:  # noqa: ANN401 whatever a field holds
    if isinstance(value, msgspec.Struct):
        return slim(value, digits)
    if isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct):
        return tuple(slim(one, digits) for one in value)
    return value


@cache
def _looked_at(kind: type[msgspec.Struct]) -> tuple[tuple[str, Any], ...]:
    """Every field that may hold more than a plain value, with the very object that is its default, if it has one."""
    return tuple((field.name, field.default) for field in msgspec.structs.fields(kind) if not _is_plain(field.type))


def _is_plain(kind: Any) -> bool:  # noqa: ANN401 any type form
    if get_origin(kind) is Annotated:
        inner, *notes = get_args(kind)
        return any(isinstance(n, msgspec.Meta) and (n.extra or {}).get("is_exact") for n in notes) or _is_plain(inner)
    if isinstance(kind, type):
        return issubclass(kind, _PLAIN)
    return bool(get_args(kind)) and all(map(_is_plain, get_args(kind)))  # a union
