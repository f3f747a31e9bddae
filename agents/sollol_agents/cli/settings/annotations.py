"""What a field's annotation says about a setting: its shape, its meaning and its allowed values in words."""

from __future__ import annotations

import types
import typing
from enum import StrEnum
from typing import Annotated, Any, Union

import msgspec.inspect as mi

from sollol_schemas.plain_words import signs_of


class Shape(StrEnum):
    """How the text of a setting becomes a value."""

    SCALAR = "scalar"  # one text
    SWITCH = "switch"  # --name or --no-name
    LIST = "list"  # the flag repeated, or texts separated by commas
    MAP = "map"  # KEY=VALUE, repeated or separated by commas


def bare(annotation: Any) -> Any:  # noqa: ANN401 a type form
    """The bare type: without Annotated and without None."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return bare(annotation.__origin__)
    if origin in (Union, types.UnionType):
        rest = [a for a in typing.get_args(annotation) if a is not type(None)]
        return bare(rest[0]) if len(rest) == 1 else annotation
    return annotation


def shape_of(annotation: Any) -> Shape:  # noqa: ANN401 a type form
    """How its value is written."""
    plain = bare(annotation)
    origin = typing.get_origin(plain) or plain
    if origin is bool:
        return Shape.SWITCH
    if origin is dict:
        return Shape.MAP
    if origin in (tuple, list, set, frozenset):
        return Shape.LIST
    return Shape.SCALAR


def description_of(kind: mi.Type) -> str:
    """The meaning that the annotation gives; empty for none."""
    while isinstance(kind, mi.Metadata):
        text = (kind.extra_json_schema or {}).get("description")
        if text:
            return str(text)
        kind = kind.type
    if isinstance(kind, mi.UnionType):
        return next((d for d in map(description_of, kind.types) if d), "")
    return ""


def allowed_by(kind: mi.Type) -> str:  # noqa: PLR0911 one line for each kind of type
    """The allowed values in words."""
    match kind:
        case mi.Metadata():
            return allowed_by(kind.type)
        case mi.UnionType():
            return " or ".join(allowed_by(t) for t in kind.types if not isinstance(t, mi.NoneType))
        case mi.BoolType():
            return "true or false"
        case mi.IntType() | mi.FloatType():
            noun = "an integer" if isinstance(kind, mi.IntType) else "a number"
            return noun + _bounds(kind)
        case mi.EnumType():
            return ", ".join(str(member.value) for member in kind.cls)
        case mi.LiteralType():
            return ", ".join(str(value) for value in kind.values)
        case mi.StrType():
            return signs_of(kind.pattern) if kind.pattern else "text"
        case mi.DictType():
            return "KEY=VALUE"
        case mi.VarTupleType() | mi.ListType() | mi.SetType() | mi.FrozenSetType():
            return f"a list of {allowed_by(kind.item_type)}"
        case mi.StructType():
            return f"a {kind.cls.__name__} as JSON"
        case _:
            return "a value"


def _bounds(kind: mi.IntType | mi.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {_plain(kind.ge)} to {_plain(kind.le)}"
    parts = [
        f"{word} {_plain(bound)}"
        for word, bound in (("above", kind.gt), ("at least", kind.ge), ("below", kind.lt), ("at most", kind.le))
        if bound is not None
    ]
    return f" {' and '.join(parts)}" if parts else ""


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}"


def as_text(value: object) -> str:
    """A value as one would write it; empty for none."""
    if value is None or value in ("", (), {}, []):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list, frozenset, set)):
        return ",".join(as_text(v) for v in value)
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
