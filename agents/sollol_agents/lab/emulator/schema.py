"""JSON Schemas as the engine's grammar takes them, and the shortest value that satisfies one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sollol_agents.lab.emulator.prompts import compact
from sollol_agents.lab.emulator.refusals import RefusalError, bad_schema

Schema = Mapping[str, Any]

_PRIMITIVES: Final = frozenset({"boolean", "number", "integer", "null", "string", "object", "array"})
_TELLING: Final = (
    "oneOf",
    "anyOf",
    "allOf",
    "const",
    "enum",
    "properties",
    "additionalProperties",
    "items",
    "prefixItems",
)
_FIRST_NUMBER: Final = 31  # the model says it after everything that is no number
_MOST_TIMES: Final = 2000  # no more than grammars of llama.cpp repeat; a request must not stop the machine


def read_format(given: object, *, is_conversation: bool, is_jinja: bool) -> Schema | None:
    """Returns the schema that `format` asks for, None for plain text.

    Args:
        given: the field as it was sent.
        is_conversation: of /api/chat and its like, not of /api/generate.
        is_jinja: the engine renders the conversation; then a format without a schema is lost on the way.

    Raises:
        RefusalError: it is neither `json` nor an object, or no grammar can be made of it.
    """
    if given is None or given == "":
        return None
    if given != "json" and not isinstance(given, dict):
        written = msgspec.json.encode(compact(given)).decode()
        text = f'invalid format: {written}; expected "json" or a valid JSON Schema object'
        raise RefusalError(text, 500, is_late=is_conversation)
    schema: Schema = given if isinstance(given, dict) else {}
    if not schema and is_conversation and is_jinja:
        return None
    check(schema, schema)
    return schema


def check(schema: object, root: Schema) -> None:
    """Makes sure that a grammar can be made of a schema.

    Raises:
        RefusalError: it cannot, in the engine's words.
    """
    if not isinstance(schema, Mapping) or not schema:
        return
    reference = schema.get("$ref")
    if isinstance(reference, str):
        _resolve(reference, root)
        return
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if (
        not any(key in schema for key in _TELLING)
        and kind is not None
        and not all(isinstance(one, str) and one in _PRIMITIVES for one in kinds)
    ):
        raise bad_schema(f"Unrecognized schema: {compact(schema)}")
    properties = schema.get("properties")
    for one in properties.values() if isinstance(properties, Mapping) else ():
        check(one, root)
    check(schema.get("items"), root)
    for key in ("oneOf", "anyOf", "allOf"):
        for one in schema.get(key) or ():
            check(one, root)


def check_tool(tool: Mapping[str, Any]) -> None:
    """Makes sure that a grammar can be made of a tool's parameters, as Go has written them.

    Raises:
        RefusalError: it cannot, in the engine's words.
    """
    parameters = tool["function"]["parameters"]
    if parameters["type"] not in _PRIMITIVES:
        raise bad_schema(f"Unrecognized schema: {compact(parameters)}")
    check(parameters, parameters)


def _resolve(reference: str, root: Schema) -> None:
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        if not isinstance(found, Mapping) or part not in found:
            raise bad_schema(f"Error resolving ref {reference}: {part} not in {compact(found)}")
        found = found[part]


def minimal_instance(schema: Schema) -> Any:  # noqa: ANN401 - JSON of any shape
    """Returns the smallest JSON value that satisfies a plain JSON Schema."""
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else schema["enum"][0]
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: minimal_instance(properties.get(name, {})) for name in schema.get("required") or ()}
    if kind == "array":
        return [minimal_instance(schema.get("items") or {})] * _times(schema.get("minItems", 0))
    simple = {"boolean": False, "string": "x" * _times(schema.get("minLength", 0)), "null": None}
    return simple.get(kind, schema.get("minimum", _FIRST_NUMBER))


def _times(wanted: float) -> int:
    return min(int(wanted), _MOST_TIMES)


def written(value: Any) -> str:  # noqa: ANN401 - JSON of any shape
    """Returns a value as the model writes it: a line of its own for the end of what is not empty."""
    if isinstance(value, Mapping) and value:
        inner = ", ".join(f"{compact(name)}: {written(one)}" for name, one in value.items())
        return f"{{{inner}\n}}"
    return compact(value)
