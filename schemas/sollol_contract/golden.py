"""Makes a first golden sample for a message that has none; samples that exist are never touched.

A sample holds every field of its message, so that a later change of a field's type or name cannot go unnoticed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as mi

from sollol_contract import wire

_TEXTS = {
    "leave_secret": "0123456789abcdef" * 4,
    "request_id": "req-1",
    "attempt_id": "req-1-1",
    "node_id": "attic",
    "instance": "a1b2c3d4e5f6",
    "dispatcher": "d1d2d3d4d5d6",
    "model": "llama3.2:3b",
    "url": "http://127.0.0.1:11434",
    "where": "site=office",
    "prefer": "gpu=a100,h100",
    "node_url": "http://127.0.0.1:11434",
    "mac": "00:00:5e:00:53:01",
}
_INSTANT = "2026-01-02T03:04:05.678Z"


def file_name(kind: type[msgspec.Struct]) -> str:
    """The sample's file: the message's tag, or its name when it has none."""
    tag = kind.__struct_config__.tag
    return f"{tag or kind.__name__}.json"


def write_missing(folder: Path) -> list[Path]:
    """Writes samples of the messages that have none; returns what was written."""
    written = []
    for name in wire.messages():
        kind = wire.structs()[name]
        path = folder / file_name(kind)
        if not path.exists():
            value = msgspec.json.decode(msgspec.json.encode(sample(mi.type_info(kind))), type=kind)
            path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
            written.append(path)
    return written


def sample(kind: mi.Type, field: str = "", default: object = None) -> Any:  # noqa: ANN401 a value of any type
    """A plausible value that is not the default."""
    made: Any
    match kind:
        case mi.Metadata():
            made = sample(kind.type, field, default)
        case mi.UnionType():
            made = sample(next(t for t in kind.types if not isinstance(t, mi.NoneType)), field)
        case mi.BoolType():
            made = default is not True
        case mi.StructType():
            made = {f.encode_name: sample(f.type, f.name, f.default) for f in kind.fields}
            if kind.tag_field:
                made[kind.tag_field] = kind.tag
        case mi.EnumType():
            made = list(kind.cls)[-1].value
        case mi.VarTupleType() | mi.ListType():
            made = [sample(kind.item_type, field)]
        case mi.TupleType():
            made = [sample(item, field) for item in kind.item_types]
        case mi.DictType():
            made = {str(sample(kind.key_type, "key")): sample(kind.value_type, "value")}
        case _:
            made = _plain(kind, field)
    return made


def _plain(kind: mi.Type, field: str) -> Any:  # noqa: ANN401 a value of any type
    match kind:
        case mi.IntType():
            return 7 if kind.le is None or kind.le >= 7 else int(kind.le)
        case mi.FloatType():
            return 1.25 if kind.le is None or kind.le > 1 else 0.75
        case mi.StrType():
            return _TEXTS.get(field, _INSTANT if field.endswith(("at", "_at", "_before")) else "text")
        case mi.RawType():  # any JSON; an object would hide that a reader ignores fields it does not know
            return "text"
        case _:
            return 1
