"""The part of the OpenAPI document about groups of models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sollol_agents.gateway.pages.groups import PREFIX
from sollol_schemas.groups import Group, GroupsReply, GroupStrategy, GroupView

TYPES: Final = (Group, GroupView, GroupsReply)
"""Types whose schemas it uses, in the order in which `paths` takes them."""

Schema = dict[str, Any]

_NAMES: Final = {"type": "array", "minItems": 1, "items": {"type": "string"}}
_PUT: Final = {
    "type": "object",
    "required": ["models"],
    "properties": {"models": _NAMES, "strategy": {"enum": list(GroupStrategy)}, "patience_s": {"type": "number"}},
}
_WITHOUT_NAME: Final = {"requestBody": {"required": True, "content": {"application/json": {"schema": _PUT}}}}
"""The body for a path that names the group."""


def paths(schemas: tuple[Schema, ...], operation: Callable[..., Schema]) -> dict[str, Any]:
    """The paths.

    Args:
        schemas: Of `TYPES`.
        operation: Makes an operation from its text, and the schema of its answer.
    """
    group, view, listed = schemas
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": group}}}}

    def one(text: str, schema: Schema, more: Schema | None = None) -> Schema:
        made: Schema = operation(text, schema=schema)
        return made | {"parameters": [name]} | (more or {})

    return {
        PREFIX: {
            "get": operation("The groups of models, with what was learnt of each model.", schema=listed),
            "post": operation("Make or replace a group; administrators only.", schema=view) | body,
        },
        f"{PREFIX}/{{name}}": {
            "get": one("One group.", view),
            "put": one("Make or replace a group; administrators only.", view, _WITHOUT_NAME),
            "delete": one("Remove a group; administrators only.", listed),
        },
        f"{PREFIX}/{{name}}/reset": {
            "post": one("Forget what feedback taught of a group's models; administrators only.", view)
        },
    }
