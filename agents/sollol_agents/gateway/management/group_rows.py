"""Groups of models in the lists of models, marked as such. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sollol_agents.requests.names import canonical
from sollol_schemas.groups import GroupView

Row = dict[str, Any]

MARK: Final = "group"
"""The field that a row has which stands for a group."""
_EPOCH: Final = "1970-01-01T00:00:00Z"


def with_groups(rows: Sequence[Row], groups: Iterable[GroupView]) -> list[Row]:
    """The rows of models, and behind them a row for each group of which a model is there.

    A group's name stands for the group: a model that bears it too cannot be asked for. Where nobody set the group the
    model is meant.
    """
    by_name = {canonical(str(row["name"])): row for row in rows}
    made: dict[str, Row] = {}
    for view in groups:
        name = canonical(view.group.name)
        if view.is_built_in and name in by_name:
            continue
        members = [by_name[model] for model in _names(view) if model in by_name]
        if members:
            made[name] = _row(view, members)
    return [*(row for name, row in by_name.items() if name not in made), *made.values()]


def show_of(row: Row) -> Row:
    """The answer of `/api/show` for a group, from its row."""
    info: Row = {"general.architecture": MARK}
    if length := row["details"].get("context_length"):
        info[f"{MARK}.context_length"] = length
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": row["details"],
        "model_info": info,
        "tensors": [],
        "capabilities": row["capabilities"],
        "modified_at": row["modified_at"],
        MARK: row[MARK],
    }


def _names(view: GroupView) -> list[str]:
    """Its models, the smallest first, and those that its operator named and nobody has told anything of."""
    named = [member.model for member in view.group.members]
    named += [view.group.candidate.model] if view.group.candidate is not None else []
    return list(dict.fromkeys(map(canonical, [*(member.model for member in view.members), *named])))


def _row(view: GroupView, members: Sequence[Row]) -> Row:
    group = view.group
    names = [str(row["name"]) for row in members]
    can = dict.fromkeys(one for row in members for one in row.get("capabilities") or ())
    lengths = [length for row in members if (length := (row.get("details") or {}).get("context_length"))]
    made_of = sorted(f"{row['name']} {row.get('digest', '')}" for row in members)
    return {
        "name": group.name,
        "model": group.name,
        "modified_at": max((str(row.get("modified_at") or _EPOCH) for row in members), default=_EPOCH),
        "size": max(int(row.get("size") or 0) for row in members),
        "digest": hashlib.sha256("\n".join([group.name, *made_of]).encode()).hexdigest(),
        "details": {
            "parent_model": "",
            "format": "",
            "family": MARK,
            "families": [MARK],
            "parameter_size": "",
            "quantization_level": "",
            "context_length": min(lengths, default=0),
        },
        "capabilities": list(can) or ["completion"],
        "nodes": list(dict.fromkeys(node for row in members for node in row["nodes"])),
        MARK: {"strategy": group.strategy.value, "models": names, "is_built_in": view.is_built_in},
    }
