"""JSON Schemas of all messages, with the texts that stand beside fields and members.

They keep to what generators of types understand: one definition of each Struct, which the messages' own files refer
to; tags as `const`, with a title, since some name a type after it; patterns without look-ahead, which Go and Rust do
not have; no keywords of 2020-12 alone; descriptions of an enum's values as a list.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from sollol_contract import descriptions, wire

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
BUNDLE: Final = "sollol.json"
"""The file with all definitions."""
_WHOLE_TEXT: Final = r"$(?!\n)"
"""How Python's patterns end; elsewhere `$` alone means the end of the text."""


def components(ref_template: str) -> dict[str, dict[str, Any]]:
    """The schema of every Struct and enum by name.

    Args:
        ref_template: How schemas refer to one another; `{name}` is replaced.
    """
    structs = wire.structs()
    _, found = msgspec.json.schema_components(structs.values(), ref_template=ref_template)
    for name, schema in found.items():
        if "description" in schema:  # a docstring: msgspec before 0.23 leaves its indentation
            schema["description"] = inspect.cleandoc(schema["description"])
        if name in structs:
            _make_tag_constant(schema, structs[name].__struct_config__)
    for module in wire.modules():
        for name, fields in descriptions.field_docs(module).items():
            on_wire = _names_on_wire(getattr(module, name))
            for own, text in fields.items():
                field = on_wire.get(own, own)
                if name in found and field in found[name].get("properties", {}):
                    found[name]["properties"][field]["description"] = text
        for name, members in descriptions.member_docs(module).items():
            kind = getattr(module, name)
            if name in found and issubclass(kind, enum.Enum):
                texts = {kind[member].value: text for member, text in members.items()}
                found[name]["x-enum-descriptions"] = [texts.get(value, "") for value in found[name]["enum"]]
    for schema in _schemas_in(found):
        _make_portable(schema)
    return dict(sorted(found.items()))


def _names_on_wire(kind: type) -> dict[str, str]:
    """What each field of a Struct is called in messages; empty of any other class."""
    return {f.name: f.encode_name for f in msgspec.structs.fields(kind)} if issubclass(kind, msgspec.Struct) else {}


def documents() -> dict[str, str]:
    """The file with all definitions, and one for each message that refers to it, as text by file name."""
    everything = {
        "$schema": DIALECT,
        "title": "SOLLOL Bus",
        "description": "Every message of the bus and what they are made of, under `$defs`.",
        "$defs": components("#/$defs/{name}"),
    }
    made: dict[str, dict[str, Any]] = {BUNDLE: everything}
    for name in wire.messages():
        made[f"{name}.json"] = {"$schema": DIALECT, "title": name, "$ref": f"{BUNDLE}#/$defs/{name}"}
    return {name: msgspec.json.format(msgspec.json.encode(d), indent=2).decode() + "\n" for name, d in made.items()}


def _make_tag_constant(schema: dict[str, Any], config: msgspec.structs.StructConfig) -> None:
    if config.tag is not None:
        assert config.tag_field is not None
        schema["properties"][config.tag_field] = {
            "title": f"{schema['title']}Type",
            "description": "Which message this is.",
            "type": "string",
            "const": config.tag,
        }


def _make_portable(schema: dict[str, Any]) -> None:
    if str(schema.get("pattern", "")).endswith(_WHOLE_TEXT):
        schema["pattern"] = schema["pattern"].removesuffix(_WHOLE_TEXT) + "$"
    if schema.get("format") == "date-time" and schema.get("default") == "":
        del schema["default"]  # no instant; the field is left out then
    if "prefixItems" in schema:  # of one type each
        first, *_ = schema.pop("prefixItems")
        schema["items"] = first
    values = schema.get("enum")
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        schema.setdefault("type", "string")


def _schemas_in(value: object) -> Iterator[dict[str, Any]]:
    """Every object in a document; of what is no schema nothing is changed."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _schemas_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _schemas_in(inner)
