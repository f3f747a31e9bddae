"""JSON Schemas of all messages, with the texts that stand beside fields and members."""

from __future__ import annotations

import enum
import inspect
from typing import Any

import msgspec

from sollol_contract import descriptions, wire

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def components(ref_template: str) -> dict[str, dict[str, Any]]:
    """The schema of every Struct and enum by name.

    Args:
        ref_template: How schemas refer to one another; `{name}` is replaced.
    """
    structs = wire.structs()
    _, found = msgspec.json.schema_components(structs.values(), ref_template=ref_template)
    for schema in found.values():
        if "description" in schema:  # a docstring: msgspec before 0.23 leaves its indentation
            schema["description"] = inspect.cleandoc(schema["description"])
    for module in wire.modules():
        for name, fields in descriptions.field_docs(module).items():
            for field, text in fields.items():
                if name in found and field in found[name].get("properties", {}):
                    _describe(found[name]["properties"], field, text)
        for name, members in descriptions.member_docs(module).items():
            kind = getattr(module, name)
            if name in found and issubclass(kind, enum.Enum):
                found[name]["x-enum-descriptions"] = {kind[m].value: text for m, text in members.items()}
    return dict(sorted(found.items()))


def documents() -> dict[str, str]:
    """One self-contained JSON Schema for each message, as text by file name."""
    every = components("#/$defs/{name}")
    made = {}
    for name in wire.messages():
        needed = sorted(_reach(name, every) - {name})
        document = {"$schema": DIALECT, "$id": f"sollol.v1/{name}.json", **every[name]}
        if needed:
            document["$defs"] = {n: every[n] for n in needed}
        text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
        made[f"{name}.json"] = text + "\n"
    return made


def _describe(properties: dict[str, Any], field: str, text: str) -> None:
    """Adds a text to a property; a bare reference is wrapped, because some tools ignore what stands beside it."""
    schema = properties[field]
    if set(schema) == {"$ref"}:
        properties[field] = {"allOf": [schema], "description": text}
    else:
        schema["description"] = text


def _reach(name: str, every: dict[str, dict[str, Any]]) -> set[str]:
    """Names of all schemas that a schema refers to, itself included."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += _references(every[current])
    return seen


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [str(value["$ref"]).rpartition("/")[2]] if "$ref" in value else []
        return own + [r for v in value.values() for r in _references(v)]
    if isinstance(value, list):
        return [r for v in value for r in _references(v)]
    return []
